"""One epoch: the schedule of the learning rate, the step, saving, and the stop button.

Axes: B batch.
"""

import contextlib
import math
import signal
import time

import torch
from tqdm import tqdm

from captioning import distributed

CHECK_EVERY = 50    # steps after which gradients are checked: each check waits for the GPU


def learning_rate(step, steps, highest, warmup):
    """The schedule: rises in a line over the warm-up, then falls along a cosine to 0.

    step: from 0; steps: of the phase; warmup: a share of them.
    """
    warm = max(1, round(warmup * steps))
    if step < warm:
        return highest * (step + 1) / warm
    return highest * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def train_one_epoch(run):
    """Train on every caption once, or on what is left of an epoch under way -> averages, to log.

    Keys: train_loss (nats per word, with the phase's dropout, without smoothing), gradient_norm,
    learning_rate (of the last step), captions_per_second; where captions are drawn also reward,
    their mean. Saves every `save_seconds`, and when it is interrupted.
    """
    run.begin_phase()    # where that was interrupted
    phase = run.phase
    phase.set_mode()
    run.saved_at = time.monotonic()
    norms = []
    progress = tqdm(total=len(phase.sampler.items), initial=phase.sampler.bounds(run.batch)[0],
                    mininterval=0.5, desc=f'epoch {run.epoch + 1}', unit=f' {phase.items.unit}',
                    disable=distributed.rank() > 0)
    explained = memory_explained(f'in epoch {run.epoch + 1}', run, phase.batch_size_setting)
    with progress, delayed_interrupt() as interrupted, explained:
        start = time.perf_counter()
        for batch in phase.batches(run.epoch, run.batch):
            set_learning_rate(run)
            norm, nats, reward = train_step(phase, batch, step_seed(run))
            norms.append(norm)
            run.batch += 1
            run.add_to_sums(loss=nats, words=batch.words, captions=batch.captions, norm=norm)
            if reward is not None:
                run.add_to_sums(reward=reward)
            progress.update(phase.sampler.bounds(run.batch)[0] - progress.n)
            stops = interrupted()
            due = stops or _save_is_due(run)
            if due or len(norms) == CHECK_EVERY:
                check_finite(run, norms)
                progress.set_postfix(loss=f'{_mean_loss(run):.3f}')
            now = time.perf_counter()
            run.add_to_sums(seconds=now - start)
            start = now
            if due:
                run.save()
            if stops:
                print(f'interrupted and saved after {run.epoch} epochs and {run.batch} batches: '
                      'run again to continue')
                raise KeyboardInterrupt
    return _averages(run)


def train_step(phase, batch, seed):
    """One step on this process's share of a batch -> (gradient norm, nats, reward or None).

    nats: cross-entropy summed over the words of all processes; reward: as in StepLoss.
    """
    phase.seed_step(seed)
    norm, nats, reward = phase.update(batch)
    return norm, distributed.total(nats), reward


def step_seed(run):
    """A seed for each step and process."""
    step = run.settings.seed * 1_000_003 + run.epoch * run.phase.sampler.batches + run.batch
    return step * distributed.ranks() + distributed.rank()


def set_learning_rate(run):
    """Give each group of weights the rate of this step, by its highest."""
    batches = run.phase.sampler.batches
    step, steps = run.phase_epoch * batches + run.batch, run.phase.epochs * batches
    for group in run.phase.optimizer.param_groups:
        group['lr'] = learning_rate(step, steps, group['highest'], run.settings.warmup)


def check_finite(run, norms):
    """Stop where a gradient norm of the last batches is not a number; empties the list."""
    values = torch.stack(norms).tolist()
    norms.clear()
    for batch, value in enumerate(values, run.batch - len(values) + 1):
        if not math.isfinite(value):
            raise RuntimeError(
                f'epoch {run.epoch + 1}, batch {batch}: loss and gradient are not finite (the norm '
                f'is {value}). Lower the learning rate? What was saved is from before.')


def _save_is_due(run):
    waited = time.monotonic() - run.saved_at
    return run.batch == run.phase.sampler.batches or waited > run.settings.save_seconds


def _mean_loss(run):
    return float(run.sums['loss']) / run.sums['words']


def _averages(run):
    sums, phase = run.sums, run.phase
    averages = {
        'phase': phase.name,
        'train_loss': _mean_loss(run),
        'gradient_norm': float(sums['norm']) / phase.sampler.batches,
        'learning_rate': phase.optimizer.param_groups[-1]['lr'],
        'captions_per_second': sums['captions'] / sums['seconds'],
    }
    if 'reward' in sums:
        averages['reward'] = float(sums['reward']) / len(phase.sampler.items)
    return averages


@contextlib.contextmanager
def delayed_interrupt():
    """Within the block Ctrl-C, SIGTERM and the notebook's stop button wait.

    Yields a function that tells whether one has come, to any of several processes: these all ask
    at the same step, and so all stop after it.
    """
    pressed, before = [], {}
    with contextlib.suppress(ValueError):    # not in the main thread: nothing is delayed
        for kind in (signal.SIGINT, signal.SIGTERM):
            before[kind] = signal.signal(kind, lambda *_: pressed.append(True))
    try:
        yield lambda: distributed.on_any_rank(bool(pressed))
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


@contextlib.contextmanager
def memory_explained(when, run, setting):
    """Where memory does not suffice within the block, say when, and which setting to lower."""
    try:
        yield
    except RuntimeError as error:    # torch.OutOfMemoryError is one, and processors raise it plain
        message = str(error)
        if 'out of memory' not in message and "can't allocate memory" not in message:
            raise
        raise RuntimeError(
            f'out of memory {when}: lower {setting} (now {getattr(run.settings, setting)}). '
            f'{message[:120]}') from None
