"""Settings that are off by default, tried on this machine against the plain way.

    for name, check in trials(speed): findings = check()

Another one is a function and an entry in TRIALS.
"""

import functools
from typing import NamedTuple

import torch

from captioning.benchmark.made_up import made_up_captions, made_up_vocabulary
from captioning.benchmark.training import features_phase
from captioning.doctor.report import OK, WRONG, Finding, number
from captioning.doctor.sizes import SMALL_FEATURES, SMALL_MODEL
from captioning.training.epoch import train_step

WORTH_IT = 1.1      # times as fast, or it is not recommended
SAME_LOSS = 0.005   # relative: steps add up in another order
ALIKE = 1.1         # times: what a weight learns in the last epoch, beside that of usual steps
EPOCHS = 3          # in which shapes of batches come more than once
RATE = 0.02


class Outcome(NamedTuple):
    """Speeds a second without and with the setting, in `unit`; agrees: are results the same?"""

    without: float
    with_setting: float
    unit: str
    agrees: bool


def try_cuda_graphs(speed):
    """-> Outcome, at the smaller batch, or None where the device has no graphs."""
    if not speed.has_graphs:
        return None
    rates = [speed.training('every', speed.size.batches[0], graphs)[0].captions
             for graphs in (False, True)]
    return Outcome(*rates, 'captions/s', graphs_learn_alike(speed.device))


class Learned(NamedTuple):
    """Losses of the steps of a phase, and how far each weight went in the last epoch."""

    losses: torch.Tensor
    ways: torch.Tensor


def graphs_learn_alike(device):
    """Do steps as CUDA graphs learn what others do, and draw dropout by their seeds?"""
    usual, graphs = (small_phase(device, cuda_graphs=graphs) for graphs in (False, True))
    expected, result = learned(usual), learned(graphs)
    if graphs.graphs is None or not graphs.graphs.graphs:
        return False
    ratios = result.ways / expected.ways
    return (bool(torch.allclose(result.losses, expected.losses, rtol=SAME_LOSS))
            and bool(((ratios > 1 / ALIKE) & (ratios < ALIKE)).all())
            and dropout_follows_seeds(small_phase(device, cuda_graphs=True, dropout=0.5)))


def small_phase(device, **values):
    torch.manual_seed(0)    # the same features each time
    captions = made_up_captions(80, 16, words=200, features=SMALL_FEATURES)
    return features_phase(captions, made_up_vocabulary(200), device, batch_size=16,
                          **{'dropout': 0.0, 'learning_rate': RATE, **values}, **SMALL_MODEL)


def learned(phase):
    """Train some epochs, with captions in between, as a validation writes them -> Learned."""
    losses, before = [], []
    for epoch in range(EPOCHS):
        before = [weight.detach().clone() for weight in phase.parameters]
        phase.set_mode()
        losses += [train_step(phase, batch, seed=0)[1] / batch.words
                   for batch in phase.batches(epoch, first_batch=0)]
        phase.model.captioner(phase.device).decode(phase.train.features[:4])
    ways = [(weight.detach() - start).norm()
            for weight, start in zip(phase.parameters, before, strict=True)]
    return Learned(torch.stack(losses), torch.stack(ways))


def dropout_follows_seeds(phase):
    """Is the loss of a recorded step the same for a seed, and another for another seed?"""
    learned(phase)
    for group in phase.optimizer.param_groups:
        group['lr'] = 0.0
    phase.set_mode()
    batch, *_ = phase.batches(0, first_batch=0)
    first, second, again = (float(train_step(phase, batch, seed)[1]) for seed in (1, 2, 1))
    return first == again != second


TRIALS = {'--cuda-graphs': try_cuda_graphs}


def trials(speed):
    """Pairs (name, function that returns a list of Finding)."""
    return [(setting, functools.partial(tried, setting, measure, speed))
            for setting, measure in TRIALS.items()]


def tried(setting, measure, speed):
    """Try a setting -> list of a Finding, with a recommendation."""
    outcome = measure(speed)
    if outcome is None:
        return [Finding(setting, 'does not apply: this device has none')]
    times = outcome.with_setting / outcome.without
    measured = f'{times:.2f} times as fast'
    rates = (f'{number(outcome.without)} {outcome.unit} without, '
             f'{number(outcome.with_setting)} with it')
    if not outcome.agrees:
        advice = f'its results differ ({rates}): leave it off'
        return [Finding(setting, measured, verdict=WRONG, advice=advice)]
    if times >= WORTH_IT:
        return [Finding(setting, measured, verdict=OK, advice=f'recommended here: {rates}')]
    return [Finding(setting, measured, verdict=OK, advice=f'not worth it here: {rates}')]
