"""The exercise of 2_Training: exactly the edit that it shows, in a copy of the repository, run."""

import json
import shutil
import subprocess
import sys

import nbformat
import pytest
from conftest import REPOSITORY, default_encodings

NOT_COPIED = ('.git', '.venv', 'data', 'runs', 'models', '__pycache__', '.*_cache', 'tests')
TINY = ['--name', 'squares', '--backbone', 'resnet18', '--vocab-threshold', '1',
        '--embed-size', '16', '--hidden-size', '24', '--batch-size', '8', '--epochs', '1',
        '--val-images', '4', '--image-size', '64']


def edit_of_exercise():
    """(lines to replace, lines that replace them) of the notebook's diff."""
    cells = nbformat.read(REPOSITORY / '2_Training.ipynb', as_version=4).cells
    diff, = (cell.source.split('```diff\n')[1].split('```')[0] for cell in cells
             if '```diff' in cell.source)
    lines = [line[3:] for line in diff.splitlines()]    # it is part of a list
    edits, removed = [], []
    for line in lines:
        if line.startswith('-'):
            removed.append(line[1:])
        elif line.startswith('+'):
            edits.append((removed, line[1:]))
            removed = []
    assert not removed and edits
    return edits


@pytest.fixture
def copy(tmp_path):
    copy = tmp_path / 'copy'
    shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns(*NOT_COPIED))
    return copy


def test_the_lstm_becomes_a_gru_and_everything_goes_on_working(copy, dataset, small_weights):
    def command(*arguments):
        line = [sys.executable, '-X', 'warn_default_encoding', '-m', *arguments, '--cocoapi-loc',
                str(dataset)]
        done = subprocess.run(line, cwd=copy, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not default_encodings(done.stderr, copy)
        return done.stdout

    def train(*more):
        return command('scripts.train', *TINY, '--weights', small_weights, *more)

    train()
    file, edits = copy / 'model.py', edit_of_exercise()
    source = file.read_text()
    for removed, added in edits:
        text = '\n'.join(removed) + '\n'
        assert source.count(text) == 1, removed
        source = source.replace(text, added + '\n')
    file.write_text(source)
    assert len(edits) <= 5
    told = train('--image', 'attention', '--num-layers', '2', '--reward-epochs', '1',
                 '--reward-batch-size', '6')
    assert 'model.py' in told and 'squares-2' in told
    run = copy / 'runs' / 'squares-2'
    log = [json.loads(line) for line in (run / 'log.jsonl').read_text().splitlines()]
    assert [line['phase'] for line in log] == ['features', 'reward']
    assert 'nn.GRU' in (run / 'model.py').read_text()
    scores = command('scripts.evaluate', str(run / 'best.pt'), '--beam-size', '3', '--no-java')
    assert 'BLEU-4' in scores
