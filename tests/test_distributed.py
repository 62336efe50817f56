"""Two processes against one: the same losses, the same weights, files written once."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import driver_of

from scripts.checkpoint import read_checkpoint

EXACT = 'import torch\nscripts.train.fast_dtype = lambda device: torch.float32'    # bfloat16 would hide what differs


def train(dataset, weights, root, processes, *flags):
    driver = root.with_suffix('.py')
    driver.write_text(driver_of(root, EXACT))
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc-per-node', str(processes), '--standalone',
               str(driver), '--name', 'squares', '--cocoapi-loc', str(dataset), '--backbone', 'resnet18', '--weights',
               weights, '--vocab-threshold', '1', '--embed-size', '16', '--hidden-size', '24', '--batch-size', '9',
               '--dropout', '0', '--device', 'cpu', *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300,
                          env={**os.environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''})
    assert done.returncode == 0, done.stderr
    log = (root / 'runs' / 'squares' / 'log.jsonl').read_text().splitlines()
    return [json.loads(line) for line in log], done.stdout


@pytest.mark.parametrize('flags', [['--epochs', '3'], ['--epochs', '1', '--tune-epochs', '1', '--tune-batch-size', '6',
                                                       '--tune-crop', '1'],
                                   ['--epochs', '1', '--reward-epochs', '2', '--reward-batch-size', '6', '--image',
                                    'attention']], ids=['features', 'tune', 'reward'])
def test_two_processes_learn_what_one_does(dataset, small_weights, tmp_path, flags):
    one, _ = train(dataset, small_weights, tmp_path / 'one', 1, *flags)
    two, output = train(dataset, small_weights, tmp_path / 'two', 2, *flags)
    assert len(one) == len(two) == sum(int(flags[i + 1]) for i in range(len(flags)) if 'epochs' in flags[i])
    for expected, found in zip(one, two, strict=True):
        assert found.get('reward', 0) == pytest.approx(expected.get('reward', 0), rel=1e-3)
        assert found['train_loss'] == pytest.approx(expected['train_loss'], rel=1e-4)
        assert found['gradient_norm'] == pytest.approx(expected['gradient_norm'], rel=1e-3)
        assert found['val_loss'] == pytest.approx(expected['val_loss'], rel=1e-4)
    states = [read_checkpoint(tmp_path / name / 'runs' / 'squares' / 'last.pt') for name in ('one', 'two')]
    for part in ('encoder', 'decoder'):
        one, two = (state[part]['state'] for state in states)
        assert one.keys() == two.keys()
        for key, value in one.items():
            assert torch.allclose(value.float(), two[key].float(), atol=1e-3), key
    assert output.count('a new run') == 1    # the second process is silent
