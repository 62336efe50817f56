"""Run folders: what identifies an experiment, where it lives, and what all of them have recorded.

    runs/NAME/settings.json, model.py, log.jsonl, last.pt, best.pt, scores.json, curves.png, samples.png

Needs neither features nor a GPU.
"""

import contextlib
import hashlib
import json
import os
import platform
import re
import subprocess
from dataclasses import asdict

import filelock
import numpy as np
import torch

from data_loader import ROOT, annotation_file, resolve_cocoapi_loc
from scripts import file_hash, read_json, write_aside
from scripts.annotations import annotations_hash
from scripts.checkpoint import weights_file

_held = {}    # locks of this process, by folder
ELSEWHERE = ('name', 'cocoapi_loc', 'save_seconds')    # settings that do not change what is learned


def identity(settings, source):
    """What makes a run the one that it is: settings, the text of model.py, weights and data -> dict of plain values."""
    loc = resolve_cocoapi_loc(settings.cocoapi_loc)
    what = {key: value for key, value in asdict(settings).items() if key not in ELSEWHERE}
    what['model.py'] = hashlib.sha256(source.encode()).hexdigest()[:16]
    for key in ('weights', 'start'):
        file = weights_file(getattr(settings, key))
        what[f'content of {key}'] = file_hash(file)[:16] if file else None
    return what | {f'{split} data': annotations_hash(annotation_file(loc, split))[:16] for split in ('train', 'val')}


def find_folder(name, wanted):
    """The folder of the run with the identity `wanted`, else the first free one of NAME, NAME-2, NAME-3, ...

    Prints what a new one changes against the one before.
    """
    before = None
    if name != os.path.basename(name) or name in ('', '.', '..'):
        raise ValueError(f"name='{name}': expected the name of a folder under runs/, without a slash.")
    taken = {int(match[1] or 1): folder for folder in (ROOT / 'runs').glob('*')
             if (match := re.fullmatch(re.escape(name) + r'(?:-(\d+))?', folder.name))
             and (folder / 'settings.json').exists()}
    for _, folder in sorted(taken.items()):
        before = read_json(folder / 'settings.json')['identity']
        if before == wanted:
            return folder
    folder = ROOT / 'runs' / (f'{name}-{max(taken) + 1}' if taken else name)
    if before:
        changes = [f'{key}: {before.get(key)} -> {wanted.get(key)}' for key in {**before, **wanted}
                   if before.get(key) != wanted.get(key)]
        print(f'{folder.name}: a new run, since the one before differs in {"; ".join(changes)}')
    return folder


def record(folder, settings, what, source, **facts):
    """Write what a run is made of: settings, identity, revision, versions, machine, further `facts`; and model.py."""
    revision = None
    with contextlib.suppress(OSError):    # no git here
        git = subprocess.run(['git', 'describe', '--always', '--dirty'], cwd=ROOT, capture_output=True, text=True)
        revision = git.stdout.strip() or None
    versions = {'python': platform.python_version(), 'torch': torch.__version__, 'numpy': np.__version__}
    content = {'settings': asdict(settings), 'identity': what, 'revision': revision, 'versions': versions,
               'processor': platform.processor() or platform.machine(), **facts}
    for file, text in (('model.py', source), ('settings.json', json.dumps(content, indent=1))):
        with write_aside(folder / file) as aside:
            aside.write_text(text)


def mark_opened(folder):
    """3_Inference, `sample` and `evaluate` take the run that was opened last."""
    os.utime(folder / 'settings.json')


def hold(folder):
    """Keep other processes from training in a run's folder until `let_go`, or until this process ends."""
    lock = _held.setdefault(folder, filelock.FileLock(folder / '.lock', thread_local=False))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)    # once more where this process has it
    except filelock.Timeout:
        raise RuntimeError(f'{os.path.relpath(folder, ROOT)} is being trained by another process, or open in a '
                           'notebook that still runs. Wait for it, end it, or give this run another name.') from None


def let_go(folder):
    if folder in _held:
        _held.pop(folder).release(force=True)
