"""The reader's exercise of 2_Training: exactly the edit that it shows, made in a copy of the repository, and run."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent


def edit_of_exercise():
    """(lines to replace, lines that replace them) of the notebook's diff."""
    cells = nbformat.read(ROOT / '2_Training.ipynb', as_version=4).cells
    block, = (cell.source.split('```diff\n')[1].split('```')[0] for cell in cells if '```diff' in cell.source)
    lines = [line[3:] for line in block.splitlines()]    # it is part of a list
    edits, removed = [], []
    for line in lines:
        if line[:1] == '-':
            removed.append(line[1:])
        elif line[:1] == '+':
            edits.append((removed, line[1:]))
            removed = []
    assert not removed and edits
    return edits


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    copy = tmp_path_factory.mktemp('exercise') / 'copy'
    ignored = shutil.ignore_patterns('.git', '.venv', 'data', 'runs', 'models', '__pycache__', '.*_cache', 'tests')
    shutil.copytree(ROOT, copy, ignore=ignored)
    return copy


def test_the_lstm_becomes_a_gru_and_everything_goes_on_working(copy, dataset, small_weights):
    def command(*arguments):
        ran = subprocess.run([sys.executable, '-m', *arguments, '--cocoapi-loc', str(dataset)], cwd=copy, text=True,
                             capture_output=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def train(*more):
        return command('scripts.train', '--name', 'squares', '--backbone', 'resnet18', '--weights', small_weights,
                       '--vocab-threshold', '1', '--embed-size', '16', '--hidden-size', '24', '--batch-size', '8',
                       '--epochs', '1', '--val-images', '4', *more)

    train()
    file, edits = copy / 'model.py', edit_of_exercise()
    source = file.read_text()
    for removed, added in edits:
        assert source.count('\n'.join(removed) + '\n') == 1, removed
        source = source.replace('\n'.join(removed) + '\n', added + '\n')
    file.write_text(source)
    assert len(edits) <= 5
    told = train('--reward-epochs', '1', '--reward-batch-size', '6')
    assert 'model.py' in told and 'squares-2' in told
    log = [json.loads(line) for line in (copy / 'runs/squares-2/log.jsonl').read_text().splitlines()]
    assert [line['phase'] for line in log] == ['features', 'reward']
    assert 'nn.GRU' in (copy / 'runs/squares-2/model.py').read_text()
    assert 'BLEU-4' in command('scripts.evaluate', 'runs/squares-2/best.pt', '--beam-size', '3', '--no-java')
    assert 'squares-3' in train('--image', 'attention', '--num-layers', '2')
