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
from captioning.doctor.sizes import SMALL_MODEL
from captioning.training.epoch import train_step

WORTH_IT = 1.1      # times as fast, or it is not recommended
SAME_LOSS = 0.02    # relative: steps add up in another order
EPOCHS = 4          # in which every shape of a batch comes more than once


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
    return Outcome(*rates, 'captions/s', same_losses(speed.device))


def same_losses(device):
    """Do steps as CUDA graphs lower the loss as others do?"""
    losses = []
    for graphs in (False, True):
        captions = made_up_captions(80, 16, words=200, features=512)
        phase = features_phase(captions, made_up_vocabulary(200), device, batch_size=16,
                               dropout=0.0, cuda_graphs=graphs, **SMALL_MODEL)
        steps = []
        for epoch in range(EPOCHS):
            phase.set_mode()
            steps += [train_step(phase, batch, seed=0)[1] / batch.words
                      for batch in phase.batches(epoch, first_batch=0)]
            phase.model.captioner(device).decode(captions.features[:4])    # as a validation does
        losses.append(torch.stack(steps))
        if graphs and (phase.graphs is None or not phase.graphs.graphs):
            return False
    return bool(torch.allclose(*losses, rtol=SAME_LOSS))


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
