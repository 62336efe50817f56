"""Execute the four notebooks in order, with live progress.

    run = run_notebooks()           # executed copies go to runs/NAME/notebooks/
    refresh_notebooks()             # rewrites the committed ones
"""

import asyncio
import base64
import contextlib
import io
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbclient.util import ensure_async
from nbconvert import HTMLExporter
from PIL import Image

from captioning import files
from captioning.files import write_aside
from captioning.prepare import prepare_data

NOTEBOOKS = ('0_Dataset', '1_Preliminaries', '2_Training', '3_Inference')
ASSIGNMENT = r'(?m)^{} = [^#\n]*'
KERNEL_ARGUMENTS = ['--log-level=CRITICAL']    # cells tell their errors by messages, not the log
PATIENCE = 5              # seconds that an interrupted cell has to end
LARGE_PICTURE = 60_000    # bytes; larger ones become JPEG, a quarter of the size


def run_notebooks(changes=None):
    """Execute the notebooks and keep copies (.ipynb and .html) with the run -> the run's folder.

    changes: {name: value} for their lines `NAME = value`; ValueError names one that none has.
    """
    for name in changes or {}:
        if not any(re.search(ASSIGNMENT.format(name), cell.source) for cell in _all_code_cells()):
            raise ValueError(f'--set {name}: no notebook has a line `{name} = ...`.')
    data = prepare_data()
    # Until it is known which run they made; a failure leaves them there.
    staging = files.RUNS / '.notebooks'
    shutil.rmtree(staging, ignore_errors=True)
    for name in NOTEBOOKS:
        start = time.monotonic()
        notebook = execute(files.ROOT / f'{name}.ipynb', changes)
        print(f'== {name}: {time.monotonic() - start:.0f} s\n', flush=True)
        _write(notebook, staging / f'{name}.ipynb')    # makes large pictures small, for HTML too
        html, _ = HTMLExporter().from_notebook_node(notebook)
        (staging / f'{name}.html').write_text(html, encoding='utf-8')
    from captioning.runs import latest_checkpoint  # here: PyTorch takes seconds
    run = latest_checkpoint(data).parent
    shutil.copytree(staging, run / 'notebooks', dirs_exist_ok=True)
    shutil.rmtree(staging)
    return run


def refresh_notebooks():
    """Write the outputs into the committed notebooks."""
    for name in NOTEBOOKS:
        path = files.ROOT / f'{name}.ipynb'
        _write(execute(path), path)


def execute(path, changes=None):
    """Run a notebook top to bottom -> the executed notebook. changes: as in run_notebooks.

    Raises RuntimeError with the error of a cell; the notebook as far as it got is then kept in
    runs/failed/. SIGINT raises KeyboardInterrupt, SIGTERM SystemExit.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = _code_cells(notebook)
    for name, value in (changes or {}).items():
        assignment = f'{name} = {value}  '.replace('\\', r'\\')
        for cell in cells:
            cell.source = re.sub(ASSIGNMENT.format(name), assignment, cell.source)

    def tell_cell(cell, cell_index):
        if cell.cell_type == 'code':
            number = cells.index(cell) + 1
            print(f'-- {Path(path).stem} [{number}/{len(cells)}] {_first_line(cell)}', flush=True)

    client = _Client(notebook, timeout=None, kernel_name='python3', coalesce_streams=True,
                     on_cell_execute=tell_cell, extra_arguments=KERNEL_ARGUMENTS,
                     resources={'metadata': {'path': str(files.ROOT)}})
    try:
        client.execute()
    except (DeadKernelError, asyncio.CancelledError):
        if client.ended_by is None:
            raise
    except CellExecutionError as error:
        if client.ended_by is None:
            failed = files.RUNS / 'failed' / Path(path).name
            _write(notebook, failed)
            raise RuntimeError(
                f'{Path(path).name} stopped: {error.ename}: {error.evalue}. As far as it got: '
                f'{files.repository_path(failed)}') from None
    if client.ended_by == signal.SIGINT:
        raise KeyboardInterrupt
    if client.ended_by == signal.SIGTERM:
        sys.exit('terminated')
    return notebook


class _Client(NotebookClient):
    """Runs a notebook and shows what its cells print while they run.

    `.ended_by`: the signal that ended it, or None. A signal interrupts the cell, so that it may
    save what it has; one that comes between cells, or while the kernel starts, is remembered.
    """

    ended_by, in_cell = None, False

    async def async_execute_cell(self, *args, **kwargs):
        if self.ended_by:
            raise asyncio.CancelledError
        self.in_cell = True
        try:
            return await super().async_execute_cell(*args, **kwargs)
        finally:
            self.in_cell = False

    async def async_start_new_kernel(self, **kwargs):
        """Take signals over from nbclient, which loses those that come before there is a kernel."""
        execution, loop = asyncio.current_task(), asyncio.get_running_loop()

        def end(kind):
            self.ended_by = kind
            if self.in_cell:
                loop.create_task(ensure_async(self.km.interrupt_kernel()))
                loop.call_later(PATIENCE, end_cell)

        def end_cell():
            if self.in_cell:
                execution.cancel()

        with contextlib.suppress(NotImplementedError):    # Windows
            for kind in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(kind, end, kind)
        await super().async_start_new_kernel(**kwargs)

    def output(self, outs, msg, display_id, cell_index):
        if msg['msg_type'] == 'stream':
            sys.stdout.write(msg['content']['text'])
            sys.stdout.flush()
        return super().output(outs, msg, display_id, cell_index)


def _code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def _all_code_cells():
    return [cell for name in NOTEBOOKS
            for cell in _code_cells(nbformat.read(files.ROOT / f'{name}.ipynb', as_version=4))]


def _first_line(cell):
    lines = [line for line in cell.source.splitlines() if line.strip() and line[0] not in '%# )']
    if any(line.startswith('import') for line in lines):
        return 'imports'
    return lines[0][:70] if lines else ''


def _write(notebook, path):
    for cell in notebook.cells:
        cell.metadata.pop('execution', None)    # times of day differ at each run and tell nothing
        for output in cell.get('outputs', []):
            _shrink(output.get('data', {}))
    with write_aside(path) as aside:
        aside.write_text(nbformat.writes(notebook), encoding='utf-8')


def _shrink(data):
    """Turn a large PNG in a cell's output into a JPEG, so that notebooks stay quick to open."""
    png = base64.b64decode(data.get('image/png', ''))
    if len(png) > LARGE_PICTURE:
        jpeg = io.BytesIO()
        Image.open(io.BytesIO(png)).convert('RGB').save(jpeg, 'JPEG', quality=70)
        data['image/jpeg'] = base64.b64encode(jpeg.getvalue()).decode()
        del data['image/png']
