"""All runs side by side: what differs, how long they took, what they scored, and their curves in one picture.

    python -m scripts.compare                           # table; the picture goes to runs/compare.png
    python -m scripts.compare scenes scenes-2 --diff    # also what changed in model.py, line by line
"""

import argparse
import difflib
import json

from data_loader import ROOT
from scripts import read_json, run_main

SCORES = ('BLEU-4', 'CIDEr')
SAME_DATA = ('val data', 'val_images')      # scores are comparable where these agree


def read_runs(like=None, names=None):
    """What the runs under runs/ have recorded, the oldest first -> list of dicts, one a run.

    like: the folder of a run; only those on the same validation captions. names: only these folders, in this order.
    Keys: name, settings (what identifies it), source (of its model.py), log, scores (None: not finished), parameters.
    ValueError names a folder that is not there or is no run.
    """
    files = sorted((ROOT / 'runs').glob('*/model.py'), key=lambda file: file.stat().st_mtime)
    runs = {file.parent.name: _read_run(file.parent) for file in files if file.with_name('settings.json').exists()}
    if unknown := [name for name in names or () if name not in runs]:
        raise ValueError(f'no run {unknown[0]} under runs/. There are: {", ".join(runs) or "none"}.')
    chosen = [runs[name] for name in names] if names else list(runs.values())
    if like is not None:
        wanted = runs[like.name]['settings']
        chosen = [run for run in chosen if all(run['settings'].get(key) == wanted.get(key) for key in SAME_DATA)]
    return chosen


def _read_run(folder):
    recorded = read_json(folder / 'settings.json')
    log, scores = folder / 'log.jsonl', folder / 'scores.json'
    return {'name': folder.name, 'settings': recorded['identity'], 'source': (folder / 'model.py').read_text(),
            'log': [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else [],
            'scores': read_json(scores) if scores.exists() else None,
            'parameters': recorded.get('parameters', [None, None])}


def differences(runs):
    """What tells each run from the first -> list of str, one a run."""
    first = runs[0]
    texts = ['']
    for run in runs[1:]:
        own = [f'{key}={run["settings"].get(key)}' for key in {**first['settings'], **run['settings']}
               if key != 'model.py'
               and run['settings'].get(key) != first['settings'].get(key)]
        lines = [line[0] for line in model_diff(first, run) if line[:3] not in ('+++', '---')]
        if '+' in lines or '-' in lines:
            own.append(f'model.py +{lines.count("+")} -{lines.count("-")} lines')
        texts.append(', '.join(own) or 'nothing')
    return texts


def model_diff(one, other):
    """Unified diff of the model.py of two runs, as a list of lines."""
    return list(difflib.unified_diff(one['source'].splitlines(), other['source'].splitlines(),
                                     f'{one["name"]}/model.py', f'{other["name"]}/model.py', lineterm='', n=1))


def format_runs(runs, markdown=False):
    """Table of runs: scores x100 of the best epoch with 95 % intervals, of finished runs; of others the best so far."""
    header = ['run', *SCORES, 'words', 'broken', 'epochs', 'minutes', 'weights', 'differs from the first in']
    rows = [[run['name'], *(_score(run, name) for name in SCORES), *_diversity(run), str(len(run['log'])),
             f'{sum(line["train_seconds"] for line in run["log"]) / 60:.1f}',
             f'{run["parameters"][0] / 1e6:.1f} M' if run['parameters'][0] else '-', difference]
            for run, difference in zip(runs, differences(runs), strict=True)]
    if markdown:
        lines = ['| ' + ' | '.join(row) + ' |' for row in (header, ['---'] * len(header), *rows)]
    else:
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = ['   '.join(map(str.ljust, row, widths)).rstrip() for row in (header, *rows)]
    note = ('scores x100 on validation, greedy, with 95 % intervals; different words used; captions that break off '
            '("with a"); minutes of training; trained weights')
    if len({tuple(map(str, map(run['settings'].get, SAME_DATA))) for run in runs}) > 1:
        note += '. Not all were scored on the same captions: only those that were can be compared'
    return '\n'.join([*lines, *([''] if markdown else []), note])


def _score(run, name):
    if run['scores']:
        low, high = run['scores']['intervals'][name]
        return f'{100 * run["scores"][name]:.1f} [{100 * low:.1f}, {100 * high:.1f}]'
    return f'{100 * max(line[name] for line in run["log"]):.1f} so far' if run['log'] else '-'


def _diversity(run):
    found = (run['scores'] or {}).get('diversity', {})
    return [f'{found["words"]}' if 'words' in found else '-', f'{found["broken"]:.1%}' if 'broken' in found else '-']


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('runs', nargs='*', help='folders under runs/ (default: all)')
    parser.add_argument('--diff', action='store_true', help='show how each model.py differs from the first')
    parser.add_argument('--markdown', action='store_true', help='print the table as Markdown')
    args = parser.parse_args()
    runs = read_runs(names=args.runs)
    if not runs:
        raise ValueError('no runs under runs/. Train one: `make run`, or python -m scripts.train.')
    print(format_runs(runs, args.markdown))
    if args.diff:
        print(*(line for run in runs[1:] for line in model_diff(runs[0], run)), sep='\n')
    from scripts.plots import plot_runs, save_figure  # here, because matplotlib takes a second to import
    save_figure(plot_runs({run['name']: run['log'] for run in runs}), ROOT / 'runs' / 'compare.png')
    print('curves: runs/compare.png')


if __name__ == '__main__':
    run_main(main)
