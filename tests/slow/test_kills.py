"""A run that is killed twenty times ends with the weights of one that never was.

    pytest -s tests/slow/test_kills.py

SIGKILL at random moments, half of them while a checkpoint is being written; a few minutes on the
scenes.
"""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import driver_of

from captioning.checkpoint import read_checkpoint
from captioning.files import ROOT, SCENES
from captioning.prepare import prepare_data

pytestmark = pytest.mark.skipif(os.name == 'nt', reason='Windows has no SIGKILL')

KILLS = 20


def start(root, folder, epochs):
    driver = root / 'driver.py'
    driver.write_text(driver_of(root))
    weights = ROOT / 'models' / 'resnet50_v1_imagenet.pt'
    command = [sys.executable, str(driver), '--name', 'scenes', '--cocoapi-loc', str(folder),
               '--epochs', str(epochs), '--weights', str(weights), '--save-seconds', '1',
               '--hidden-size', '256', '--patience', '99']
    with open(root / 'output.txt', 'a') as output:
        return subprocess.Popen(command, stdout=output, stderr=output,
                                env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''})


def being_written(root, process):
    """What this process has begun to write and not yet renamed; not what killed ones left."""
    return list((root / 'runs').glob(f'scenes*/.*.{process.pid}.*.tmp'))


def kill(process, root, chance, inside):
    """SIGKILL at a random moment, or when a checkpoint is being written next -> what it hit."""
    end = time.monotonic() + (60 if inside else chance.uniform(0.5, 9))
    while process.poll() is None and time.monotonic() < end:
        if inside and being_written(root, process):
            break
        time.sleep(0.0005)
    assert process.poll() is None, 'it ended before all kills: give it more epochs'
    process.send_signal(signal.SIGKILL)
    process.wait()
    return 'inside a write' if being_written(root, process) else 'between writes'


def checkpoint(root, name='last.pt'):
    return read_checkpoint(root / 'runs' / 'scenes' / name)


def weights_in(state):
    return {key: value for part in ('encoder', 'decoder')
            for key, value in state[part]['state'].items()}


def log_without_times(root):
    times = dict.fromkeys(('captions_per_second', 'train_seconds'))
    return [{**line, **times} for line in checkpoint(root)['progress']['log']]


def files_in(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob('*'))


def test_twenty_kills_lose_nothing(tmp_path):
    folder, chance, epochs = prepare_data(SCENES).folder, random.Random(5), 30
    undisturbed, killed = tmp_path / 'undisturbed', tmp_path / 'killed'
    for root in (undisturbed, killed):
        root.mkdir()
    hits = []
    for number in range(KILLS):
        process = start(killed, folder, epochs)
        hits.append(kill(process, killed, chance, inside=number % 2 == 1))
        kept = (killed / 'runs' / 'scenes' / 'last.pt').exists()
        progress = checkpoint(killed)['progress'] if kept else {'epoch': 0, 'batch': 0}
        print(f'kill {number + 1}: {hits[-1]}; '
              f'kept: {progress["epoch"]} epochs and {progress["batch"]} batches')
    for root in (killed, undisturbed):
        status = start(root, folder, epochs).wait()
        assert status == 0, (root / 'output.txt').read_text()[-2000:]
    for name in ('last.pt', 'best.pt'):
        expected, weights = (weights_in(checkpoint(root, name)) for root in (undisturbed, killed))
        assert expected.keys() == weights.keys()
        assert all(torch.equal(value, weights[key]) for key, value in expected.items()), name
    assert log_without_times(undisturbed) == log_without_times(killed)
    assert files_in(undisturbed) == files_in(killed)
    inside = hits.count('inside a write')
    assert inside >= 5, hits
    print(f'{KILLS} kills, {inside} of them inside a write: weights equal to the bit, '
          f'the same {len(files_in(killed))} files and folders')
