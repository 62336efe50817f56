"""Run folders: what makes two runs the same, where a run lives, and what it records.

    runs/NAME/settings.json, model.py, losses.py ..., log.jsonl, last.pt, best.pt, scores.json

Needs neither features nor a GPU.
"""

import contextlib
import json
import os
import platform
import re
import subprocess
import time
from dataclasses import asdict, fields
from pathlib import Path

import filelock
import numpy as np
import torch

from captioning import files
from captioning.files import (
    file_hash,
    read_json,
    text_hash,
    weights_file,
    write_aside,
    write_json,
)
from captioning.model_files import recorded_sources

# Settings that do not change what is learned.
NOT_IDENTITY = ('name', 'cocoapi_loc', 'save_seconds', 'model_file')
# Settings of before, and the value that a run must have had to be one that can continue.
GONE = {'tune_cache': False}
# Files that a reader edits to change training; like model.py they count for a run's identity.
EDITED = ('vocabulary.py', 'captioning/losses.py', 'captioning/rewards.py',
          'captioning/augmentations.py', 'captioning/scoring/metrics.py')

IMAGES = 'images of train and val'    # how many there are, those left out apart

_locks = {}    # of this process, by folder


# ---- What makes two runs the same ----

class Experiment:
    """What an experiment is made of, as it was when it was opened.

    settings: those of training. sources: {file: text} of all that a run keeps: the model file, what
    it imports, and EDITED. identity: what makes two runs the same: the settings, hashes of these
    texts, of the weights, and of the captions, as a dict of plain values.
    """

    def __init__(self, settings, data, model_file):
        edited = {Path(file).name: (files.ROOT / file).read_text('utf-8') for file in EDITED}
        self.settings = settings
        self.sources = recorded_sources(model_file) | edited
        self.defaults = {field.name: field.default for field in fields(settings)
                         if field.name not in NOT_IDENTITY}
        self.identity = {name: getattr(settings, name) for name in self.defaults}
        self.identity |= {name: text_hash(text) for name, text in self.sources.items()}
        for key in ('weights', 'start'):
            file = weights_file(getattr(settings, key))
            self.identity[f'content of {key}'] = file_hash(file)[:16] if file else None
        for split in ('train', 'val'):
            self.identity[f'{split} data'] = data.annotations_hash(split)[:16]

    def completed(self, recorded):
        """The identity that a run has recorded, as it would be recorded today.

        Settings that it lacks stood at their defaults, and those that are gone do not count where
        they stood at theirs. Before EDITED files and IMAGES counted they were not recorded: then
        they are taken to be as they are now.
        """
        later = [*(Path(file).name for file in EDITED), IMAGES]
        unrecorded = {name: self.identity[name] for name in later if name in self.identity}
        identity = {**self.defaults, **unrecorded, **recorded}
        return {key: value for key, value in identity.items()
                if key not in GONE or value != GONE[key]}

    def find_folder(self):
        """The folder of the run that is the same, else the next of NAME, NAME-2, NAME-3, ...

        Prints what a new one changes against the one before.
        """
        name = self.settings.name
        if name != os.path.basename(name) or name in ('', '.', '..'):
            raise ValueError(f"name='{name}': expected the name of a folder under runs/, "
                             'without a slash.')
        numbered, before = _numbered_folders(name), None
        for _, folder in sorted(numbered.items()):
            before = self.completed(read_json(folder / 'settings.json')['identity'])
            if before == self.identity:
                return folder
        number = max(numbered, default=0) + 1
        folder = files.RUNS / (f'{name}-{number}' if number > 1 else name)
        while (folder / 'settings.json').exists():    # of a run with that name
            number += 1
            folder = files.RUNS / f'{name}-{number}'
        if before:
            print(f'{folder.name}: a new run, since the one before differs in '
                  f'{"; ".join(self._changes(before))}')
        return folder

    def _changes(self, before):
        return [f'{key}: {before.get(key)} -> {self.identity.get(key)}'
                for key in {**before, **self.identity}
                if before.get(key) != self.identity.get(key)]

    def record(self, folder, **facts):
        """Write what a run is made of into its folder.

        settings.json has settings, identity, revision, versions, machine and further `facts`; the
        sources lie beside it.
        """
        for file, text in self.sources.items():
            with write_aside(folder / file) as aside:
                aside.write_text(text, 'utf-8')
        versions = {'python': platform.python_version(), 'torch': torch.__version__,
                    'numpy': np.__version__}
        now = time.time()
        write_json(folder / 'settings.json', {
            'settings': asdict(self.settings), 'identity': self.identity, 'revision': _revision(),
            'versions': versions, 'processor': platform.processor() or platform.machine(),
            **facts, 'created': now, 'opened': now})


def _revision():
    """The revision of git, or None where there is no git."""
    with contextlib.suppress(OSError):
        git = subprocess.run(['git', 'describe', '--always', '--dirty'], cwd=files.ROOT,
                             capture_output=True, encoding='utf-8')
        return git.stdout.strip() or None
    return None


# ---- Where runs live ----

def _numbered_folders(name):
    """{number: folder} of the runs NAME (1), NAME-2 (2), ...; not of one that is called NAME-2."""
    numbered = {}
    for folder in files.RUNS.glob('*'):
        match = re.fullmatch(re.escape(name) + r'(?:-(\d+))?', folder.name)
        if not match or not (folder / 'settings.json').exists():
            continue
        if folder.name == name or read_json(folder / 'settings.json')['settings']['name'] == name:
            numbered[int(match[1] or 1)] = folder
    return numbered


def run_folders():
    """The folders of all runs, those created first at the beginning."""
    folders = [file.parent for file in files.RUNS.glob('*/settings.json')
               if file.with_name('model.py').exists()]
    return sorted(folders, key=lambda folder: _time_of(folder, 'created'))


def latest_checkpoint(data=None):
    """Path of best.pt of the run that was opened last.

    data: a CaptionData; then of those on its captions. FileNotFoundError says how to train one.
    """
    folders = [file.parent for file in files.RUNS.glob('*/best.pt')
               if file.with_name('settings.json').exists()]
    if data is not None:
        captions = data.annotations_hash('train')[:16]
        folders = [folder for folder in folders
                   if captions in (folder / 'settings.json').read_text('utf-8')]
    if not folders:
        on_data = f' on {data.folder}' if data else ''
        raise FileNotFoundError(f'no trained model in runs/{on_data}. Train one: `make run`, '
                                'or run 2_Training.ipynb.')
    return max(folders, key=lambda folder: _time_of(folder, 'opened')) / 'best.pt'


def _time_of(folder, event):
    """When a run was created or opened, in seconds; a copy of its folder keeps what it says."""
    file = folder / 'settings.json'
    if not file.exists():
        return 0.0
    of_before = {'created': folder / 'model.py', 'opened': file}[event]    # which did not say
    return read_json(file).get(event) or of_before.stat().st_mtime


# ---- In a run's folder ----

def mark_opened(folder):
    """Note that a run was opened: 3_Inference takes the one that was opened last."""
    content = read_json(folder / 'settings.json')
    created = _time_of(folder, 'created')
    write_json(folder / 'settings.json', {**content, 'created': created, 'opened': time.time()})


def write_log(folder, log):
    """log.jsonl: one line an epoch."""
    with write_aside(folder / 'log.jsonl') as aside:
        aside.write_text(''.join(json.dumps(line) + '\n' for line in log), 'utf-8')


# ---- One process at a time ----

def lock_run(folder):
    """Keep other processes from training in a run's folder, until unlock_run or our end."""
    lock = _locks.setdefault(folder, filelock.FileLock(folder / '.lock', thread_local=False))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)    # once more where this process has it
    except filelock.Timeout:
        raise RuntimeError(
            f'{files.repository_path(folder)} is being trained by another process, or open in a '
            'notebook that still runs. Wait for it, end it, or give this run another name.'
        ) from None


def unlock_run(folder):
    if folder in _locks:
        _locks.pop(folder).release(force=True)
