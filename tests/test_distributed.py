"""Two processes against one: the same losses, the same weights, files written once."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import driver_of
from training_helpers import edited_model

import scripts.train
from captioning import files
from captioning.checkpoint import read_checkpoint
from captioning.training import phase, tuning_phase

# bfloat16 would hide what differs.
EXACT = """
import torch
from captioning.training import phase, tuning_phase
phase.training_dtype = tuning_phase.fast_dtype = lambda device: torch.float32
"""
# The second process interrupts torchrun, which passes it on to both.
INTERRUPTING = """
import os, signal, time
from captioning import distributed
from captioning.training import epoch
step, steps = epoch.train_step, []

def slow_step(*arguments):
    steps.append(True)
    if distributed.rank() and len(steps) == 3:
        os.kill(os.getppid(), signal.SIGINT)
    time.sleep(0.1)
    return step(*arguments)

epoch.train_step = slow_step
"""
SCALED = ('return rows.view_as(features)', 'return 3 * rows.view_as(features)')
TUNE = ['--epochs', '2', '--tune-epochs', '1', '--tune-batch-size', '6', '--tune-crop', '1',
        '--model-file', 'scaled']    # whose BatchNorm is another
REWARD = ['--epochs', '1', '--reward-epochs', '2', '--reward-batch-size', '6', '--image',
          'attention']


@pytest.fixture
def tiny(dataset, small_weights):
    """Flags of a run that takes a second or two."""
    return ['--name', 'squares', '--cocoapi-loc', str(dataset), '--backbone', 'resnet18',
            '--weights', small_weights, '--vocab-threshold', '1', '--embed-size', '16',
            '--hidden-size', '24', '--batch-size', '9', '--dropout', '0', '--device', 'cpu',
            '--image-size', '64']


def train_by_two(root, flags, before=EXACT):
    """Train under torchrun -> CompletedProcess. before: lines of Python that run first."""
    driver = root.with_suffix('.py')
    driver.write_text(driver_of(root, before))
    launcher = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    return subprocess.run([sys.executable, *launcher, str(driver), *flags], capture_output=True,
                          text=True, timeout=300, env={**os.environ, 'OMP_NUM_THREADS': '1'})


def train_here(root, flags, monkeypatch):
    """Train in this process, which is quicker than in another one."""
    for module, name in ((phase, 'training_dtype'), (tuning_phase, 'fast_dtype')):
        monkeypatch.setattr(module, name, lambda device: torch.float32)
    monkeypatch.setattr(files, 'RUNS', root / 'runs')
    monkeypatch.setattr(files, 'CACHE', root / 'cache')
    monkeypatch.setattr(sys, 'argv', ['train', *flags])
    scripts.train.main()


def log_and_state(root):
    """What a run leaves: its log, and the state in last.pt."""
    folder = root / 'runs' / 'squares'
    log = [json.loads(line) for line in (folder / 'log.jsonl').read_text().splitlines()]
    return log, read_checkpoint(folder / 'last.pt')


@pytest.mark.skipif(os.name == 'nt', reason='torchrun does not start with PyTorch for Windows')
@pytest.mark.parametrize('flags', [TUNE, REWARD], ids=['tune', 'reward'])
def test_two_processes_learn_what_one_does(tiny, tmp_path, monkeypatch, flags):
    model_file = edited_model(tmp_path / 'scaled.py', SCALED)
    flags = [*tiny, *(str(model_file) if flag == 'scaled' else flag for flag in flags)]
    done = train_by_two(tmp_path / 'two', flags)
    assert done.returncode == 0, done.stderr
    train_here(tmp_path / 'one', flags, monkeypatch)
    log, state = log_and_state(tmp_path / 'one')
    log_of_two, state_of_two = log_and_state(tmp_path / 'two')
    assert len(log) == len(log_of_two) == 3
    for expected, line in zip(log, log_of_two, strict=True):
        assert line.get('reward', 0) == pytest.approx(expected.get('reward', 0), rel=1e-3)
        assert line['train_loss'] == pytest.approx(expected['train_loss'], rel=1e-4)
        assert line['gradient_norm'] == pytest.approx(expected['gradient_norm'], rel=1e-3)
        assert line['val_loss'] == pytest.approx(expected['val_loss'], rel=1e-4)
    for part in ('encoder', 'decoder'):
        expected, weights = state[part]['state'], state_of_two[part]['state']
        assert expected.keys() == weights.keys()
        for key, value in expected.items():
            assert torch.allclose(value.float(), weights[key].float(), atol=1e-3), key
    assert done.stdout.count('a new run') == 1    # the second process is silent
    for name in ('all_reduce', 'broadcast_buffers'):    # of old functions
        assert name not in done.stderr


@pytest.mark.skipif(os.name == 'nt', reason='Windows sends no SIGINT to another process')
def test_ctrl_c_saves_in_the_middle_of_an_epoch(tiny, tmp_path):
    done = train_by_two(tmp_path / 'two', [*tiny, '--batch-size', '2'], before=INTERRUPTING)
    assert 'interrupted and saved after 0 epochs' in done.stdout, done.stderr
    progress = read_checkpoint(tmp_path / 'two' / 'runs' / 'squares' / 'last.pt')['progress']
    assert progress['epoch'] == 0 and progress['batch'] >= 3
