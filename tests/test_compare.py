"""The table of runs: what it reads, what it says differs, which runs it puts side by side."""

import json
import sys

import pytest

from scripts import compare
from scripts.compare import differences, format_runs, model_diff, read_runs
from scripts.plots import plot_runs


def make_run(root, name, source='a = 1\n', scores=True, **identity):
    folder = root / 'runs' / name
    folder.mkdir(parents=True)
    what = {'hidden_size': 512, 'model.py': str(hash(source)), 'val data': 'abc', 'val_images': 100, **identity}
    (folder / 'settings.json').write_text(json.dumps({'identity': what, 'parameters': [1_500_000, 25_000_000]}))
    (folder / 'model.py').write_text(source)
    log = [{'epoch': e, 'train_seconds': 30, 'val_loss': 3 / e, 'CIDEr': e / 10, 'BLEU-4': e / 20} for e in (1, 2)]
    (folder / 'log.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in log))
    if scores:
        (folder / 'scores.json').write_text(json.dumps({
            'CIDEr': 0.2, 'BLEU-4': 0.1, 'intervals': {'CIDEr': [0.18, 0.22], 'BLEU-4': [0.09, 0.11]},
            'diversity': {'words': 321, 'broken': 0.013}}))
    return folder


def test_it_says_what_differs_and_only_compares_what_was_scored_alike(isolated_root):
    first = make_run(isolated_root, 'a')
    make_run(isolated_root, 'a-2', hidden_size=256)
    make_run(isolated_root, 'a-3', source='a = 2\nb = 3\n', scores=False)
    make_run(isolated_root, 'other', val_images=50)
    runs = read_runs(like=first)
    assert [run['name'] for run in runs] == ['a', 'a-2', 'a-3']
    assert differences(runs) == ['', 'hidden_size=256', 'model.py +2 -1 lines']
    table = format_runs(runs)
    lines = {line.split()[0]: line for line in table.splitlines()}
    assert '20.0 [18.0, 22.0]' in lines['a'] and '10.0 [9.0, 11.0]' in lines['a'] and '1.5 M' in lines['a']
    assert ' 321 ' in lines['a'] and ' 1.3% ' in lines['a']
    assert '20.0 so far' in lines['a-3'] and lines['a-2'].endswith('hidden_size=256')
    assert 'can be compared' not in table and 'can be compared' in format_runs(read_runs())
    assert '+b = 3' in model_diff(runs[0], runs[2]) and model_diff(runs[0], runs[1]) == []


def test_the_command_prints_tables_diffs_and_draws_the_curves(isolated_root, monkeypatch, capsys):
    make_run(isolated_root, 'a')
    make_run(isolated_root, 'b', source='a = 2\n')
    monkeypatch.setattr(sys, 'argv', ['compare', 'b', 'a', '--diff', '--markdown'])
    compare.main()
    output = capsys.readouterr().out
    assert output.index('| b |') < output.index('| a |') and '-a = 2' in output and '+a = 1' in output
    assert (isolated_root / 'runs' / 'compare.png').stat().st_size > 1000
    monkeypatch.setattr(sys, 'argv', ['compare', 'c'])
    with pytest.raises(ValueError, match='no run c under runs/. There are: a, b'):
        compare.main()


def test_no_runs_is_explained(isolated_root, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['compare'])
    with pytest.raises(ValueError, match='make run'):
        compare.main()


def test_a_run_without_an_epoch_has_a_line_too(isolated_root):
    folder = make_run(isolated_root, 'a', scores=False)
    (folder / 'log.jsonl').unlink()
    runs = read_runs()
    assert format_runs(runs).splitlines()[1].split()[:3] == ['a', '-', '-']
    assert plot_runs({run['name']: run['log'] for run in runs})
