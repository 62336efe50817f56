"""The four notebooks run top to bottom on a few scenes, in a copy of the repository, and are committed clean."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NAMES = ['0_Dataset', '1_Preliminaries', '2_Training', '3_Inference']


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
    """A copy of the repository after `python -m scripts.notebooks` -> (its folder, the run's, what was printed)."""
    copy = tmp_path_factory.mktemp('repository') / 'copy'
    ignored = shutil.ignore_patterns('.git', '.venv', 'data', 'runs', '__pycache__', '.*_cache', 'tests')
    shutil.copytree(ROOT, copy, ignore=ignored)
    environment = {key: value for key, value in os.environ.items() if key != 'COCOAPI_LOC'}

    def command(*arguments):
        return subprocess.run([sys.executable, '-m', *arguments], cwd=copy, env=environment, capture_output=True,
                              text=True)

    drawn = command('scripts.scenes', '--train', '60', '--val', '12', '--test', '16', '--output', 'data/small')
    assert drawn.returncode == 0, drawn.stderr
    environment['COCOAPI_LOC'] = 'data/small'
    ran = command('scripts.notebooks', '--set', 'EPOCHS=2')
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    return copy, copy / 'runs' / 'small-attention', ran.stdout, command    # the second model, which was trained last


def test_every_cell_ran_in_order_without_error(executed):
    _, run, _, _ = executed
    for name in NAMES:
        notebook = nbformat.read(run / 'notebooks' / f'{name}.ipynb', as_version=4)
        cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        outputs = [output for cell in cells for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == 'error']
        kinds = {kind for output in outputs for kind in output.get('data', {})}
        assert kinds & {'image/png', 'image/jpeg'}, f'{name} shows no picture'
        assert '<img' in (run / 'notebooks' / f'{name}.html').read_text()


def test_the_run_holds_what_it_should_and_the_end_tells_where(executed):
    copy, run, told, _ = executed
    assert len((run / 'log.jsonl').read_text().splitlines()) == 2
    for folder in (run, copy / 'runs' / 'small'):
        for name in ('settings.json', 'model.py', 'last.pt', 'best.pt', 'scores.json', 'samples.png', 'curves.png',
                     'captions_val.json'):
            assert (folder / name).is_file(), folder / name
    assert (run / 'captions_test.json').is_file() and (run / 'attention.png').is_file()
    for word in ('CIDEr', 'BLEU-4', 'small-attention/notebooks', 'small-attention/curves.png', 'scripts.sample'):
        assert word in told.splitlines()[-1] + told[-1500:]
    captions = json.loads((run / 'captions_test.json').read_text())
    assert len(captions) == 16 and all(set(entry) == {'image_id', 'caption'} for entry in captions)
    committed = {path.name: path.read_bytes() for path in ROOT.glob('*.ipynb')}
    assert committed == {path.name: path.read_bytes() for path in copy.glob('*.ipynb')}


def test_a_photo_is_captioned_from_the_command_line(executed):
    copy, _, _, command = executed
    photos = [str(path) for path in sorted((copy / 'data/small/cocoapi/images/test2014').iterdir())[:2]]
    (copy / 'broken.jpg').write_bytes(b'no picture')
    ran = command('scripts.sample', '--image', *photos, 'broken.jpg')
    lines = ran.stdout.strip().splitlines()
    assert ran.returncode == 1 and 'broken.jpg' in ran.stderr and 'Traceback' not in ran.stderr
    assert [line.split(': ')[0] for line in lines[-2:]] == photos and all(line.split(': ')[1] for line in lines[-2:])


def test_a_cell_that_fails_is_told_in_one_line(executed):
    _, _, _, command = executed
    ran = command('scripts.notebooks', '--set', 'EPOCHS=missing_name')
    told = ran.stderr.strip().splitlines()[-1]
    misspelled = command('scripts.notebooks', '--set', 'EPOCH=3')
    assert misspelled.returncode == 1 and '--set EPOCH' in misspelled.stderr
    assert ran.returncode == 1 and told.startswith('error: 2_Training.ipynb stopped: NameError')


@pytest.mark.parametrize('name', NAMES)
def test_committed_notebooks_are_of_one_clean_run(name):
    path = ROOT / f'{name}.ipynb'
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == 'error']
    assert path.stat().st_size < 1_000_000
    assert 8 <= len(cells) <= 16 and all(len(cell.source.splitlines()) <= 25 for cell in cells)
    assert str(ROOT) not in path.read_text() and 'flickr' not in json.dumps([cell.outputs for cell in cells]).lower()
