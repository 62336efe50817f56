"""A run that is killed twenty times ends with the weights of one that never was: `pytest -s tests/slow/test_kills.py`.

SIGKILL at random moments, half of them while a checkpoint is being written; a few minutes on the scenes.
"""

import os
import random
import signal
import subprocess
import sys
import time

import torch
from conftest import driver_of

from data_loader import ROOT
from scripts.checkpoint import read_checkpoint
from scripts.data import prepare_data

KILLS = 20


def start(root, loc, epochs):
    driver = root / 'driver.py'
    driver.write_text(driver_of(root))
    command = [sys.executable, str(driver), '--name', 'scenes', '--cocoapi-loc', str(loc), '--epochs', str(epochs),
               '--weights', str(ROOT / 'models' / 'resnet50_v1_imagenet.pt'), '--save-seconds', '1',
               '--hidden-size', '256', '--patience', '99']
    with open(root / 'output.txt', 'a') as output:
        return subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''})


def being_written(root, process):
    """What the process has begun to write and not yet renamed; leftovers of killed ones do not count."""
    return list((root / 'runs').glob(f'scenes*/.*.{process.pid}.*.tmp'))


def kill(process, root, chance, inside):
    """SIGKILL at a random moment, or the next time that a checkpoint is being written -> what it hit."""
    end = time.monotonic() + (60 if inside else chance.uniform(0.5, 9))
    while process.poll() is None and time.monotonic() < end and not (inside and being_written(root, process)):
        time.sleep(0.0005)
    assert process.poll() is None, 'it ended before all kills: give it more epochs'
    process.send_signal(signal.SIGKILL)
    process.wait()
    return 'inside a write' if being_written(root, process) else 'between writes'


def state(root, name='last.pt'):
    found = read_checkpoint(root / 'runs' / 'scenes' / name)
    return {key: value for part in ('encoder', 'decoder') for key, value in found[part]['state'].items()}, found


def test_twenty_kills_lose_nothing(tmp_path):
    loc, chance, epochs = prepare_data(ROOT / 'data' / 'scenes'), random.Random(5), 30
    whole, killed = tmp_path / 'whole', tmp_path / 'killed'
    for root in (whole, killed):
        root.mkdir()
    hits = []
    for number in range(KILLS):
        hits.append(kill(start(killed, loc, epochs), killed, chance, inside=number % 2 == 1))
        kept = (killed / 'runs' / 'scenes' / 'last.pt').exists()
        progress = state(killed)[1]['progress'] if kept else {'epoch': 0, 'batch': 0}
        print(f'kill {number + 1}: {hits[-1]}; kept: {progress["epoch"]} epochs and {progress["batch"]} batches')
    assert start(killed, loc, epochs).wait() == 0, (killed / 'output.txt').read_text()[-2000:]
    assert start(whole, loc, epochs).wait() == 0, (whole / 'output.txt').read_text()[-2000:]
    for name in ('last.pt', 'best.pt'):
        expected, found = state(whole, name)[0], state(killed, name)[0]
        assert expected.keys() == found.keys()
        assert all(torch.equal(value, found[key]) for key, value in expected.items()), name
    logs = [state(root)[1]['progress']['log'] for root in (whole, killed)]
    times = ('captions_per_second', 'train_seconds')
    assert [[{**line, **dict.fromkeys(times)} for line in log] for log in logs][0] == [
        {**line, **dict.fromkeys(times)} for line in logs[1]]
    files = [sorted(str(path.relative_to(root)) for path in root.rglob('*')) for root in (whole, killed)]
    assert files[0] == files[1]
    assert hits.count('inside a write') >= 5, hits
    print(f'{len(hits)} kills, {hits.count("inside a write")} of them inside a write: weights equal to the bit, '
          f'the same {len(files[0])} files and folders')
