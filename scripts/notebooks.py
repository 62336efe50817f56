"""Execute the four notebooks in order, with live progress, and keep the executed copies with the run that they made.

    python -m scripts.notebooks                     # what `make run` does; copies go to runs/NAME/notebooks/
    python -m scripts.notebooks --set EPOCHS=3      # with another value in the settings cells
    python -m scripts.notebooks --refresh           # what `make notebooks` does: rewrites the committed ones
"""

import argparse
import base64
import io
import json
import re
import shutil
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from PIL import Image

from data_loader import ROOT
from scripts import run_main, write_aside
from scripts.checkpoint import latest_checkpoint
from scripts.data import prepare_data

ASSIGNMENT = r'(?m)^{} = [^#\n]*'
NOTEBOOKS = ('0_Dataset', '1_Preliminaries', '2_Training', '3_Inference')


class _Client(NotebookClient):
    """Runs a notebook and shows what its cells print while they run."""

    def output(self, outs, msg, display_id, cell_index):
        if msg['msg_type'] == 'stream':
            sys.stdout.write(msg['content']['text'])
            sys.stdout.flush()
        return super().output(outs, msg, display_id, cell_index)


def execute(path, changes=None):
    """Run a notebook top to bottom -> the executed notebook. changes: {name: value} for its lines `NAME = value`.

    Raises RuntimeError with the error of a cell; the notebook as far as it got is then kept in runs/failed/.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == 'code']
    for name, value in (changes or {}).items():
        for cell in cells:
            cell.source = re.sub(ASSIGNMENT.format(name), f'{name} = {value}  '.replace('\\', r'\\'), cell.source)

    def tell_cell(cell, cell_index):
        if cell.cell_type == 'code':
            print(f'-- {Path(path).stem} [{cells.index(cell) + 1}/{len(cells)}] {_first_line(cell)}', flush=True)

    client = _Client(notebook, timeout=None, kernel_name='python3', coalesce_streams=True, on_cell_execute=tell_cell,
                     resources={'metadata': {'path': str(ROOT)}})
    try:
        client.execute()
    except CellExecutionError as error:
        failed = ROOT / 'runs' / 'failed' / Path(path).name
        _write(notebook, failed)
        raise RuntimeError(f'{Path(path).name} stopped: {error.ename}: {error.evalue}. '
                           f'As far as it got: {failed.relative_to(ROOT)}') from None
    return notebook


def _first_line(cell):
    lines = [line for line in cell.source.splitlines() if line.strip() and line[0] not in '%# )']
    return 'imports' if any(line.startswith('import') for line in lines) else ''.join(lines[:1])[:70]


def _shrink(data):
    """Turn a large PNG in a cell's output into a JPEG, a quarter of the size: notebooks stay quick to open."""
    png = base64.b64decode(data.get('image/png', ''))
    if len(png) > 60_000:
        file = io.BytesIO()
        Image.open(io.BytesIO(png)).convert('RGB').save(file, 'JPEG', quality=85)
        data['image/jpeg'] = base64.b64encode(file.getvalue()).decode()
        del data['image/png']


def _write(notebook, path):
    for cell in notebook.cells:
        cell.metadata.pop('execution', None)    # times of day differ at each run and tell nothing
        for output in cell.get('outputs', []):
            _shrink(output.get('data', {}))
    with write_aside(path) as aside:
        aside.write_text(nbformat.writes(notebook), encoding='utf-8')


def run_all(changes=None):
    """Execute the notebooks and keep copies (.ipynb and .html) with the run -> the run's folder."""
    sources = ''.join(cell.source + '\n' for name in NOTEBOOKS
                      for cell in nbformat.read(ROOT / f'{name}.ipynb', as_version=4).cells if cell.cell_type == 'code')
    for name in changes or {}:
        if not re.search(ASSIGNMENT.format(name), sources):
            raise ValueError(f'--set {name}: no notebook has a line `{name} = ...`.')
    loc = prepare_data()
    staging = ROOT / 'runs' / '.notebooks'    # until it is known which run they made; a failure leaves them there
    shutil.rmtree(staging, ignore_errors=True)
    for name in NOTEBOOKS:
        start = time.monotonic()
        notebook = execute(ROOT / f'{name}.ipynb', changes)
        print(f'== {name}: {time.monotonic() - start:.0f} s\n', flush=True)
        _write(notebook, staging / f'{name}.ipynb')    # makes large pictures small, for the page too
        html, _ = HTMLExporter().from_notebook_node(notebook)
        (staging / f'{name}.html').write_text(html, encoding='utf-8')
    run = latest_checkpoint(loc).parent
    shutil.copytree(staging, run / 'notebooks', dirs_exist_ok=True)
    shutil.rmtree(staging)
    return run


def tell(run):
    """Print where everything is, and the scores."""
    folder = run.relative_to(ROOT)
    scores = json.loads((run / 'scores.json').read_text())
    print('scores on validation, x100: ' + ', '.join(
        f'{name} {100 * value:.1f}' for name, value in scores.items() if isinstance(value, float)))
    for what, where in (('notebooks', 'notebooks/*.html, notebooks/*.ipynb'), ('learning curve', 'curves.png'),
                        ('captioned samples', 'samples.png'), ('captions', 'captions_val.json, captions_test.json'),
                        ('model', 'best.pt')):
        print(f'{what:18} ' + ', '.join(str(folder / name) for name in where.split(', ')))
    print('caption a photo:   .venv/bin/python -m scripts.sample --image photo.jpg')


def main():
    parser = argparse.ArgumentParser(description='Execute the four notebooks in order.')
    parser.add_argument('--set', nargs='+', default=[], metavar='NAME=VALUE', help='values for the settings cells')
    parser.add_argument('--refresh', action='store_true', help='write the outputs into the committed notebooks')
    args = parser.parse_args()
    if unfit := [change for change in args.set if not re.fullmatch(r'\w+=.+', change)]:
        raise ValueError(f'--set {unfit[0]}: expected NAME=VALUE, such as EPOCHS=3.')
    if args.refresh:
        for name in NOTEBOOKS:
            _write(execute(ROOT / f'{name}.ipynb'), ROOT / f'{name}.ipynb')
    else:
        tell(run_all(dict(change.split('=', 1) for change in args.set)))


if __name__ == '__main__':
    run_main(main)
