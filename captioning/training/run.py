"""A run: opened or continued, saved, and led from one phase of training to the next.

    encode_images([settings, others], data)     # for several runs: one pass for all
    run = open_run(settings, data)
    finish_epoch(run, train_one_epoch(run), validate(run))      # until run.finished
"""

import gc
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from captioning import distributed, files, runs
from captioning.caption_data import CaptionData
from captioning.checkpoint import read_checkpoint, save_checkpoint
from captioning.devices import default_device, use
from captioning.model_files import load_model_file
from captioning.training.epoch import delayed_interrupt
from captioning.training.features_phase import FeaturesPhase
from captioning.training.phase import Phase
from captioning.training.read_captions import CaptionReader
from captioning.training.self_critical_phase import SelfCriticalPhase
from captioning.training.settings import TrainingSettings
from captioning.training.trained_model import TrainedModel, needs_grid
from captioning.training.tuning_phase import TuningPhase

PHASES = {phase.name: phase for phase in (FeaturesPhase, TuningPhase, SelfCriticalPhase)}
PROGRESS = ('phase_epoch', 'epoch', 'batch', 'log')    # what last.pt keeps besides the phase


@dataclass
class Run:
    """An experiment under way.

    references: of the validation images, on the first process. next_phase: the class of the phase
    that the run has come to, until it is built. epoch, phase_epoch: finished epochs, of all and of
    this phase; batch: finished batches of the epoch under way, sums: what they add up to. log: one
    dict an epoch.
    """

    settings: TrainingSettings
    data: CaptionData
    folder: Path
    device: torch.device
    model: TrainedModel
    references: object
    reader: CaptionReader
    phase: Phase
    next_phase: type | None = None
    phase_epoch: int = 0
    epoch: int = 0
    batch: int = 0
    sums: dict = field(default_factory=dict)
    log: list = field(default_factory=list)
    finished: bool = False
    saved_at: float = 0.0

    @property
    def train(self):
        return self.phase.train

    @property
    def val(self):
        return self.phase.val

    def begin_phase(self):
        """Build the phase that the run has come to, which may have to encode all images."""
        if self.next_phase:
            had_graphs = self.phase.graphs is not None
            self.phase = self.next_phase(self.settings, self.model, self.train, self.val,
                                         self.reader)
            self.next_phase = None
            if had_graphs:
                gc.collect()    # a phase and its graphs know each other: their memory is needed

    def add_to_sums(self, **values):
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0) + value

    def save(self):
        """Write last.pt: everything that the rest of the run depends on.

        No random state is in it: randomness comes from the seed and the step.
        """
        self.saved_at = time.monotonic()
        if distributed.rank():
            return
        progress = {key: getattr(self, key) for key in PROGRESS}
        phase = self.next_phase or self.phase
        progress['phase'] = 'finished' if self.finished else phase.name
        progress['sums'] = {key: torch.as_tensor(value).item() for key, value in self.sums.items()}
        save_checkpoint(self.folder / 'last.pt', {
            **self.model.state(), 'settings': asdict(self.settings),
            'optimizer': None if self.next_phase else self.phase.optimizer.state_dict(),
            'progress': progress})


# ---- Opening ----

def open_run(settings, data, device=None):
    """Start the experiment, or continue the same one where it was.

    settings: by make_settings. data: a CaptionData. Prints which run it is, and where its files
    are. Raises ValueError, FileNotFoundError and RuntimeError that say what is wrong with settings,
    data or an earlier checkpoint.
    """
    if settings.weights is None:
        raise ValueError('weights=None: a random backbone cannot be had again for captioning. '
                         'Save it, give its path.')
    device, phases = use(device or default_device()), phases_of(settings)
    classes = load_model_file(settings.model_file)
    # Now, before the minutes of extraction in which files may be edited.
    experiment = runs.Experiment(settings, data, classes.__file__)
    start = _read_start(settings)
    model, reader = _model_and_reader(settings, data, classes, device, start)
    if settings.tune_epochs:
        model.first_tuned_stage()    # raises now, and not hours later, where none stays frozen
    train, val = reader.read(model.encoder, device)
    references = None if distributed.rank() else _references(data, val)
    experiment.identity[runs.IMAGES] = f'{len(train.rows)} and {len(val.rows)}'
    folder = distributed.on_first_rank(experiment.find_folder)
    distributed.on_first_rank(lambda: runs.lock_run(folder))
    saved = distributed.on_first_rank(lambda: _read_last(folder))
    if saved:
        model.load(saved, folder / 'last.pt')
    elif start and settings.start_with == 'model':
        model.load(start, settings.start)
    build_phase = phases[0]
    if saved:    # the phase that it is in, or ended with
        build_phase = PHASES.get(saved['progress']['phase'], phases[-1])
    phase = build_phase(settings, model, train, val, reader)
    run = Run(settings, data, folder, device, model, references, reader, phase)
    if saved:
        _restore(run, saved)
    else:
        _record(run, experiment)
    distributed.on_first_rank(lambda: runs.mark_opened(folder))
    if run.finished:
        runs.unlock_run(folder)
    return run


def _read_start(settings):
    """The checkpoint whose weights are the first ones, or None."""
    if settings.start is None:
        return None
    return distributed.on_first_rank(lambda: read_checkpoint(files.ROOT / settings.start))


def _model_and_reader(settings, data, classes, device, start):
    vocab = data.vocabulary(settings.vocab_threshold)
    model = TrainedModel(settings, classes, vocab, device, start)
    return model, CaptionReader(data, vocab, settings.views, settings.val_images)


def encode_images(all_settings, data, device=None):
    """Compute the features that runs with these settings will read, where they are not kept.

    Those of places come first, since pooled ones follow from them without another look at the
    images. Raises what open_run raises.
    """
    device = use(device or default_device())
    for settings in sorted(all_settings, key=needs_grid, reverse=True):
        classes, start = load_model_file(settings.model_file), _read_start(settings)
        model, reader = _model_and_reader(settings, data, classes, device, start)
        reader.read(model.encoder, device)


def _references(data, val):
    from captioning.scoring import References  # here: training must run without nltk
    image_ids = [val.image_ids[row] for row in val.rows]
    return References(data.annotation_file('val'), image_ids, annotations=data.annotations('val'))


def _read_last(folder):
    last = folder / 'last.pt'
    return read_checkpoint(last) if last.exists() else None


def phases_of(settings):
    """The phases that a run goes through, in order."""
    return [phase for phase in PHASES.values() if getattr(settings, phase.epochs_setting)]


def _restore(run, saved):
    progress = saved['progress']
    if saved['optimizer']:    # None before the first step of a phase
        run.phase.optimizer.load_state_dict(saved['optimizer'])
    for key in (*PROGRESS, 'sums'):
        setattr(run, key, progress[key])
    run.finished = progress['phase'] == 'finished'
    where = f'continues after {run.batch} batches and'
    if run.finished:
        where = 'is finished, with'
    print(f'{files.repository_path(run.folder)}: {where} {run.epoch} epochs')


def _record(run, experiment):
    """Write down what a new run is made of."""
    parts = (run.model.encoder, run.model.decoder)
    trained = sum(parameter.numel() for parameter in run.phase.parameters)
    total = sum(parameter.numel() for part in parts for parameter in part.parameters())
    facts = {'device': str(run.device), 'ranks': distributed.ranks(),
             'backbone_hash': run.model.backbone_hash, 'parameters': [trained, total]}
    distributed.on_first_rank(lambda: experiment.record(run.folder, **facts))
    epochs = sum(getattr(run.settings, phase.epochs_setting) for phase in phases_of(run.settings))
    print(f'{files.repository_path(run.folder)}: a new run of {epochs} epochs on {run.device}, '
          f'{trained / 1e6:.1f} million trained weights')


# ---- After each epoch ----

def finish_epoch(run, train, val):
    """Log the epoch, keep it, and end a phase that is over -> the line of the log.

    It is kept as last.pt, and as best.pt if its CIDEr is the highest so far. A phase is over after
    its epochs, or after `patience` of them without a better CIDEr. An interrupt waits, but for the
    beginning of the next phase.
    """
    with delayed_interrupt() as interrupted:
        entry = _log_entry(run, train, val)
        best = best_epoch([*run.log, entry])
        if best is entry:    # kept before it counts: the disk may be full
            state = {**run.model.state(), 'epoch': entry['epoch'],
                     'settings': asdict(run.settings)}
            distributed.on_first_rank(lambda: save_checkpoint(run.folder / 'best.pt', state))
        run.log.append(entry)
        run.epoch += 1
        run.phase_epoch += 1
        run.batch, run.sums = 0, {}
        if _phase_is_over(run, best):
            _end_phase(run)
        distributed.on_first_rank(lambda: runs.write_log(run.folder, run.log))
        run.save()    # at last: what is not in there is done again
        if run.finished:
            runs.unlock_run(run.folder)
        if interrupted():
            print(f'interrupted and saved after {run.epoch} epochs: run again to continue')
            raise KeyboardInterrupt
    run.begin_phase()
    return entry


def best_epoch(log):
    """The line of a log with the highest CIDEr."""
    return max(log, key=lambda line: line['CIDEr'])


def _log_entry(run, train, val):
    entry = {'epoch': run.epoch + 1, **train, **val,
             'train_seconds': round(run.sums['seconds'], 2)}
    return {key: float(f'{value:.5g}') if isinstance(value, float) else value
            for key, value in entry.items()}


def _phase_is_over(run, best):
    before_phase = run.epoch - run.phase_epoch
    without_better = run.epoch - max(best['epoch'], before_phase)
    if run.phase_epoch < run.phase.epochs and without_better >= run.settings.patience:
        print(f'no better CIDEr in {run.settings.patience} epochs: phase {run.phase.name!r} ends '
              f'after {run.phase_epoch}')
        return True
    return run.phase_epoch >= run.phase.epochs


def _end_phase(run):
    """Come to the next phase, with the weights of the best epoch so far, or finish."""
    phases = phases_of(run.settings)
    number = phases.index(type(run.phase)) + 1
    if number == len(phases):
        run.finished = True
        return
    path = run.folder / 'best.pt'
    run.model.load(distributed.on_first_rank(lambda: read_checkpoint(path)), path)
    run.next_phase, run.phase_epoch = phases[number], 0
