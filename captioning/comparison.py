"""Runs side by side: what differs, how long they took, what they scored.

    runs = read_runs()
    print(format_runs(runs))
    print(*source_diff(runs[0], runs[1]), sep='\\n')
"""

import difflib
import json
from dataclasses import fields

from captioning.files import read_json
from captioning.runs import GONE, IMAGES, NOT_IDENTITY, run_folders
from captioning.scoring import metrics
from captioning.tables import markdown_table, text_table
from captioning.training.settings import TrainingSettings

SAME_DATA = ('val data', 'val_images')      # scores are comparable where these agree
DEFAULTS = {entry.name: entry.default for entry in fields(TrainingSettings)
            if entry.name not in NOT_IDENTITY} | GONE
NOTE = ('scores x100 on validation, greedy, with 95 % intervals; different words used; captions '
        'that break off ("with a"); minutes of training; trained weights')


def read_runs(like=None, names=None):
    """What the runs under runs/ have recorded, the oldest first -> list of dicts, one a run.

    like: the folder of a run; only those on the same validation captions. names: only these
    folders, in this order. Keys: name, identity, sources {file: text}, log, scores (None: not
    finished), parameters. ValueError names a folder that is not there or is no run.
    """
    runs = {folder.name: _read_run(folder) for folder in run_folders()}
    if unknown := [name for name in names or () if name not in runs]:
        raise ValueError(f'no run {unknown[0]} under runs/. '
                         f'There are: {", ".join(runs) or "none"}.')
    chosen = [runs[name] for name in names] if names else list(runs.values())
    if like is not None:
        chosen = [run for run in chosen if _data_of(run) == _data_of(runs[like.name])]
    return chosen


def _read_run(folder):
    recorded = read_json(folder / 'settings.json')
    log, scores = folder / 'log.jsonl', folder / 'scores.json'
    lines = log.read_text('utf-8').splitlines() if log.exists() else []
    return {'name': folder.name, 'identity': recorded['identity'],
            'sources': _read_sources(folder), 'log': [json.loads(line) for line in lines],
            'scores': read_json(scores) if scores.exists() else None,
            'parameters': recorded.get('parameters', [None, None])}


def _read_sources(folder):
    """{file: text} of the source files that a run has recorded."""
    sources = {}
    for file in sorted([*folder.glob('*.py'), *folder.glob('imports/**/*.py')]):
        sources[file.relative_to(folder).as_posix()] = file.read_text('utf-8')
    return sources


def _data_of(run):
    return [run['identity'].get(key) for key in SAME_DATA]


# ---- What differs ----

def differences(runs):
    """What tells each run from the first -> list of str, one a run."""
    return ['', *(_difference(runs[0], run) for run in runs[1:])]


def _difference(first, run):
    """Settings that differ, and how many lines of which file."""
    before = {**DEFAULTS, **first['identity']}    # what a run of before lacks is at its default
    after = {**DEFAULTS, **run['identity']}
    texts = []
    for key in {**before, **after}:
        if key.endswith('.py'):
            continue
        if key == IMAGES and not (key in before and key in after):    # one is a run of before
            continue
        if before.get(key) != after.get(key):
            texts.append(f'{key}={after.get(key)}')
    for file in _sources_of_both(first, run):
        signs = [line[0] for line in _file_diff(first, run, file)[2:]]    # after the file's names
        if signs:
            texts.append(f'{file} +{signs.count("+")} -{signs.count("-")} lines')
    return ', '.join(texts) or 'nothing'


def _sources_of_both(one, other):
    """Source files that both runs have recorded; runs of before recorded fewer."""
    return sorted(one['sources'].keys() & other['sources'].keys())


def source_diff(one, other):
    """Unified diff of model.py and the other recorded sources of two runs, as a list of lines."""
    return [line for file in _sources_of_both(one, other)
            for line in _file_diff(one, other, file)]


def _file_diff(one, other, file):
    before, after = (run['sources'][file].splitlines() for run in (one, other))
    names = [f'{run["name"]}/{file}' for run in (one, other)]
    return list(difflib.unified_diff(before, after, *names, lineterm='', n=1))


# ---- The table ----

def format_runs(runs, markdown=False):
    """Table of runs: of finished ones scores of the best epoch, of others the best so far."""
    rows = [['run', *metrics.COMPARED, 'words', 'broken', 'epochs', 'minutes', 'weights',
             'differs from the first in']]
    for run, difference in zip(runs, differences(runs), strict=True):
        rows.append([*_row(run), difference])
    note = NOTE
    if any(_data_of(run) != _data_of(runs[0]) for run in runs):
        note += ('. Not all were scored on the same captions: only those that were can be '
                 'compared')
    if markdown:
        return f'{markdown_table(rows)}\n\n{note}'
    return f'{text_table(rows)}\n{note}'


def _row(run):
    scores = [_score(run, name) for name in metrics.COMPARED]
    trained, _ = run['parameters']
    weights = f'{trained / 1e6:.1f} M' if trained else '-'
    minutes = sum(line['train_seconds'] for line in run['log']) / 60
    return [run['name'], *scores, *_diversity(run), len(run['log']), f'{minutes:.1f}', weights]


def _diversity(run):
    """Different words, and the share of captions that break off; '-' where it is not known."""
    if not run['scores'] or 'diversity' not in run['scores']:
        return '-', '-'
    diversity = run['scores']['diversity']
    return diversity['words'], f'{diversity["broken"]:.1%}'


def _score(run, name):
    scores = run['scores']
    if scores:
        return metrics.shown(name, scores.get(name), scores['intervals'].get(name))
    logged = [line[name] for line in run['log'] if name in line]
    return f'{metrics.shown(name, max(logged))} so far' if logged else '-'
