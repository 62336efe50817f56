"""The four notebooks run top to bottom on a few scenes, and are committed clean.

They are executed in a copy of the repository.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest

from captioning.files import ROOT
from captioning.notebooks import NOTEBOOKS, run_notebooks

NOT_COPIED = ('.git', '.venv', 'data', 'runs', '__pycache__', '.*_cache', 'tests')
RUN_FILES = ('settings.json', 'model.py', 'last.pt', 'best.pt', 'scores.json', 'samples.png',
             'curves.png', 'captions_val.json')
EXECUTE = """
import signal, sys
from captioning.notebooks import NotebookClient, execute
from scripts import run_main

start = NotebookClient.async_start_new_kernel_client

def told(self):
    print('starting', flush=True)
    return start(self)

NotebookClient.async_start_new_kernel_client = told
signal.signal(signal.SIGINT, signal.default_int_handler)    # jobs in the background ignore it
run_main(lambda: execute(sys.argv[1]))
"""
LONG_CELL = """
import time
try:
    print('in the cell', flush=True)
    time.sleep(60)
finally:
    open('ended', 'w').close()
"""
each_notebook = pytest.mark.parametrize('name', NOTEBOOKS)


class Copy(NamedTuple):
    """A copy of the repository in which the notebooks were executed.

    printed: what that printed. environment: in which it was done.
    """

    folder: Path
    printed: str
    environment: dict

    @property
    def run(self):
        """Folder of the second model, which was trained last."""
        return self.folder / 'runs' / 'small-attention'

    def command(self, *arguments):
        return run_in(self.folder, self.environment, *arguments)


def run_in(folder, environment, *arguments):
    return subprocess.run([sys.executable, '-m', *arguments], cwd=folder, env=environment,
                          capture_output=True, text=True)


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
    """The Copy after `python -m scripts.notebooks`."""
    folder = tmp_path_factory.mktemp('repository') / 'copy'
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_COPIED))
    environment = {**os.environ, 'COCOAPI_LOC': 'data/small'}
    drawn = run_in(folder, environment, 'scripts.scenes', '--train', '36', '--val', '10',
                   '--test', '13', '--output', 'data/small')
    assert drawn.returncode == 0, drawn.stderr
    photos = folder / 'data/small/cocoapi/images/train2014'
    min(photos.iterdir()).write_bytes(b'damaged')    # which stops no notebook
    ran = run_in(folder, environment, 'scripts.notebooks', '--set', 'EPOCHS=2')
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    return Copy(folder, ran.stdout, environment)


def read_cells(path):
    notebook = nbformat.read(path, as_version=4)
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def check_order(cells):
    """One clean run from top to bottom, without an error."""
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == 'error']
    return outputs


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob('*.ipynb')}


@each_notebook
def test_every_cell_ran_in_order_without_error(executed, name):
    folder = executed.run / 'notebooks'
    outputs = check_order(read_cells(folder / f'{name}.ipynb'))
    kinds = {kind for output in outputs for kind in output.get('data', {})}
    assert kinds & {'image/png', 'image/jpeg'}, f'{name} shows no picture'
    assert '<img' in (folder / f'{name}.html').read_text()


@pytest.mark.parametrize('name', ['0_Dataset', '1_Preliminaries'])
def test_a_damaged_photo_is_named(executed, name):
    cells = read_cells(executed.run / 'notebooks' / f'{name}.ipynb')
    printed = [output.text for cell in cells for output in cell.outputs
               if output.output_type == 'stream']
    assert '000001.jpg cannot be read' in ''.join(printed)


def test_the_run_holds_what_it_should_and_the_end_tells_where(executed):
    run = executed.run
    assert len((run / 'log.jsonl').read_text().splitlines()) == 2
    for folder in (run, run.with_name('small')):
        for name in RUN_FILES:
            assert (folder / name).is_file(), folder / name
    assert (run / 'attention.png').is_file()
    paths = [str(Path('small-attention') / name) for name in ('notebooks', 'curves.png')]
    for word in ('CIDEr', 'BLEU-4', *paths, f'{sys.executable} -m scripts.sample'):
        assert word in executed.printed[-1500:]
    captions = json.loads((run / 'captions_test.json').read_text())
    assert len(captions) == 13
    assert all(set(entry) == {'image_id', 'caption'} for entry in captions)
    assert contents(ROOT) == contents(executed.folder)


def test_a_photo_is_captioned_from_the_command_line(executed):
    folder = executed.folder / 'data' / 'small' / 'cocoapi' / 'images' / 'test2014'
    photos = [str(path) for path in sorted(folder.iterdir())[:2]]
    (executed.folder / 'broken.jpg').write_bytes(b'no picture')
    ran = executed.command('scripts.sample', '--image', *photos, 'broken.jpg')
    lines = [line.split(': ') for line in ran.stdout.strip().splitlines()[-2:]]
    assert ran.returncode == 1 and 'broken.jpg' in ran.stderr and 'Traceback' not in ran.stderr
    assert [line[0] for line in lines] == photos and all(line[1] for line in lines)


def test_a_cell_that_fails_is_told_in_one_line(executed):
    ran = executed.command('scripts.notebooks', '--set', 'DATA=missing_name')
    last_line = ran.stderr.strip().splitlines()[-1]
    assert ran.returncode == 1
    assert last_line.startswith('error: 0_Dataset.ipynb stopped: NameError')
    with pytest.raises(ValueError, match='--set EPOCH: no notebook has a line'):
        run_notebooks({'EPOCH': '3'})


@pytest.mark.skipif(os.name == 'nt', reason='Windows sends no signal to another process')
@pytest.mark.parametrize('kind, moment, told', [(signal.SIGTERM, 'starting', 'terminated'),
                                                (signal.SIGINT, 'in the cell', 'interrupted')])
def test_a_signal_ends_the_notebook_and_lets_its_cell_save(tmp_path, kind, moment, told):
    cells = [nbformat.v4.new_code_cell(f'import os\nos.chdir({str(tmp_path)!r})'),
             nbformat.v4.new_code_cell(LONG_CELL),
             nbformat.v4.new_code_cell("open('went on', 'w').close()")]
    path = tmp_path / 'long.ipynb'
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    process = subprocess.Popen([sys.executable, '-c', EXECUTE, str(path)], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while moment not in process.stdout.readline():
        pass
    process.send_signal(kind)
    _, errors = process.communicate(timeout=50)
    assert process.returncode == 1 and errors.splitlines() == [told]
    assert (tmp_path / 'ended').exists() == (moment == 'in the cell')
    assert not (tmp_path / 'went on').exists()


@each_notebook
def test_committed_notebooks_are_of_one_clean_run(name):
    path = ROOT / f'{name}.ipynb'
    cells = read_cells(path)
    outputs = check_order(cells)
    assert path.stat().st_size < 1_000_000
    assert 8 <= len(cells) <= 16
    assert all(len(cell.source.splitlines()) <= 25 for cell in cells)
    assert str(ROOT) not in path.read_text()
    assert 'flickr' not in json.dumps(outputs).lower()
