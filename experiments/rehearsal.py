"""All notebooks and commands on a data set of COCO's size: seconds, memory and disk of each.

    python -m experiments.coco_size data/coco-size
    python -m experiments.rehearsal data/coco-size --output rehearsal.tsv
    python -m experiments.coco_size data/coco-part --share 0.002
    python -m experiments.rehearsal data/coco-part --recipe

They run in a copy of the repository whose model is small (MobileNet, an LSTM of 64), since what is
rehearsed is everything around encoding and training. --recipe takes the commands of docs/coco.md
instead, with the model as it is and one epoch of each phase. Memory is
that of all processes together without mapped files, which the system takes back when it needs to.
Linux alone tells these numbers.
"""

import argparse
import contextlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil
import torch
from torchvision.models import mobilenet_v3_small

from captioning import files
from captioning.tables import text_table
from scripts import run_main

SMALL = {'model.py': [("backbone='resnet50', weights=DEFAULT_WEIGHTS",
                       "backbone='mobilenet_v3_small', weights=DEFAULT_WEIGHTS"),
                      ("'resnet50_v1_imagenet.pt'", "'small.pt'")],
         'captioning/training/settings.py': [("'embed_size': 512, 'hidden_size': 512",
                                              "'embed_size': 64, 'hidden_size': 64")]}
SAMPLE_SECONDS = 0.25
CELL = re.compile(r'^-- (\S+ \[.*)$')
LEAST_SHOWN = 5    # seconds of a step that is printed; all are in the output file


class Step(NamedTuple):
    """name: of a notebook's cell, or a command. memory, written: at its peak and in all, in GB."""

    name: str
    seconds: float
    memory: float
    written: float


class Meter(threading.Thread):
    """Memory and bytes written of a process and all that it starts, looked at again and again."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self.written = pid, 0, 0
        self.start()

    def run(self):
        while psutil.pid_exists(self.pid):
            with contextlib.suppress(psutil.Error, OSError):
                root = psutil.Process(self.pid)
                processes = [root, *root.children(recursive=True)]
                memory, written = zip(*map(memory_and_written, processes), strict=True)
                self.peak = max(self.peak, sum(memory))
                # What a process wrote is counted as its parent's when it has ended.
                self.written = max(self.written, sum(written))
            time.sleep(SAMPLE_SECONDS)

    def take(self):
        """Peak memory since it was last asked, and bytes written since the start."""
        peak, self.peak = self.peak, 0
        return peak, self.written


def memory_and_written(process):
    """Bytes of a process now, without mapped files, and bytes that it has written to disk."""
    with contextlib.suppress(psutil.Error, OSError):
        status = Path(f'/proc/{process.pid}/status').read_text('utf-8')
        kilobytes = re.findall(r'(?:RssAnon|RssShmem):\s+(\d+)', status)
        return 1024 * sum(map(int, kilobytes)), process.io_counters().write_bytes
    return 0, 0    # it has just ended


def measure(name, command, folder, environment):
    """Run a command -> its Steps: one, or one for each cell that it tells of."""
    process = subprocess.Popen(command, cwd=folder, env=environment, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    meter, steps, written = Meter(process.pid), [], 0
    current, start = f'{name}: starts', time.monotonic()

    def finish():
        nonlocal written, start
        peak, total = meter.take()
        seconds = time.monotonic() - start
        steps.append(Step(current, seconds, peak / 1e9, (total - written) / 1e9))
        print('\t'.join(_fields(steps[-1])), flush=True)
        written, start = total, time.monotonic()

    for line in process.stdout:
        if cell := CELL.match(line):
            finish()
            current = cell[1]
    if process.wait():
        print(f'{name}: failed with {process.returncode}', flush=True)
    finish()
    return steps


def copy_repository(folder, small):
    """A copy of the repository's files, its model small or as it is; caches stay in it."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(['git', 'ls-files', '-z'], cwd=files.ROOT, capture_output=True,
                            text=True, check=True).stdout
    for name in filter(None, listed.split('\0')):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(files.ROOT / name, target)
    if small:
        torch.manual_seed(0)
        torch.save(mobilenet_v3_small().state_dict(), folder / 'models' / 'small.pt')
        for name, edits in SMALL.items():
            text = (folder / name).read_text()
            for before, after in edits:
                assert text.count(before) == 1, f'{name} has {before} {text.count(before)} times'
                text = text.replace(before, after)
            (folder / name).write_text(text)


def commands(data):
    """{name: arguments of Python} of what is rehearsed, in order."""
    name = data.name
    run = f'runs/{name}/best.pt'
    photos = data / 'photos'
    return {
        'notebooks': ['-m', 'scripts.notebooks', '--set', 'EPOCHS=1'],
        'notebooks again': ['-m', 'scripts.notebooks', '--set', 'EPOCHS=1'],
        'build_vocab': ['-m', 'scripts.build_vocab', '--vocab_path', 'vocab.pkl'],
        'train': ['-m', 'scripts.train', '--name', 'by-command', '--epochs', '1'],
        'evaluate': ['-m', 'scripts.evaluate', run, '--beam-size', '3', '--limit', '5000'],
        'compare': ['-m', 'scripts.compare'],
        'sample': ['-m', 'scripts.sample', '--checkpoint', run, '--image', photos],
        'package': ['-m', 'scripts.package', run, '--output', 'captioner.zip'],
    }


def recipe():
    """The same of docs/coco.md: what follows a `$ python` there, but for the download."""
    text = (files.ROOT / 'docs' / 'coco.md').read_text()
    lines = re.findall(r'(?m)^    \$ python (-m scripts\.(?!download).*)', text)
    once = [re.sub(r'(epochs) [1-9]\d*', r'\1 1', line) for line in lines]
    return {line: shlex.split(line) for line in once}


def _fields(step):
    return [step.name, f'{step.seconds:.1f}', f'{step.memory:.2f}', f'{step.written:.2f}']


def main():
    parser = argparse.ArgumentParser(description='Rehearse everything at the size of COCO.')
    parser.add_argument('data', type=Path, help='what experiments.coco_size made')
    parser.add_argument('--output', type=Path, default=Path('rehearsal.tsv'))
    parser.add_argument('--recipe', action='store_true', help='the commands of docs/coco.md')
    parser.add_argument('--only', nargs='+', help='these of the commands')
    args = parser.parse_args()
    data = args.data.resolve()
    folder = data.parent / f'{data.name}-repository'
    if not args.only:
        copy_repository(folder, small=not args.recipe)
    environment = {**os.environ, 'COCOAPI_LOC': str(data)}
    if args.recipe:
        (folder / 'data').mkdir()
        (folder / 'data' / 'coco').symlink_to(data)
        environment['COCOAPI_LOC'] = 'data/karpathy'
    steps = []
    for name, arguments in (recipe() if args.recipe else commands(data)).items():
        if args.only is None or name in args.only:
            command = [sys.executable, *map(str, arguments)]
            steps += measure(name, command, folder, environment)
    args.output.write_text('\n'.join('\t'.join(_fields(step)) for step in steps) + '\n')
    shown = [_fields(step) for step in steps if step.seconds >= LEAST_SHOWN]
    print(text_table([['', 'seconds', 'GB', 'GB written'], *shown]))


if __name__ == '__main__':
    run_main(main)
