"""The table of runs: what it reads, what it says differs, which runs it puts side by side."""

import json
import sys

import pytest

from captioning import files
from captioning.comparison import differences, format_runs, read_runs, source_diff
from captioning.figures import plot_runs
from scripts import compare

SCORES = {'CIDEr': 0.2, 'BLEU-4': 0.1, 'diversity': {'words': 321, 'broken': 0.013},
          'intervals': {'CIDEr': [0.18, 0.22], 'BLEU-4': [0.09, 0.11]}}


def make_run(name, source='a = 1\n', scores=SCORES, created=None, other_sources=None, **identity):
    """Write a run; other_sources: {file: text} of what it has recorded besides model.py."""
    folder = files.RUNS / name
    sources = {'model.py': source, **(other_sources or {})}
    for file, text in sources.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text)
    hashes = {file: str(hash(text)) for file, text in sources.items()}
    identity = {'hidden_size': 512, 'val data': 'abc', 'val_images': 100, **hashes, **identity}
    recorded = {'identity': identity, 'parameters': [1_500_000, 25_000_000], 'created': created}
    (folder / 'settings.json').write_text(json.dumps(recorded))
    log = [{'epoch': epoch, 'train_seconds': 30, 'val_loss': 3 / epoch, 'CIDEr': epoch / 10,
            'BLEU-4': epoch / 20} for epoch in (1, 2)]
    (folder / 'log.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in log))
    if scores:
        (folder / 'scores.json').write_text(json.dumps(scores))
    return folder


def test_it_says_what_differs_and_only_compares_what_was_scored_alike(isolated_root):
    first = make_run('a')
    make_run('a-2', hidden_size=256)
    make_run('a-3', source='a = 2\nb = 3\n', scores=None)
    make_run('other', val_images=50)
    runs = read_runs(like=first)
    assert [run['name'] for run in runs] == ['a', 'a-2', 'a-3']
    assert differences(runs) == ['', 'hidden_size=256', 'model.py +2 -1 lines']
    table = format_runs(runs)
    lines = {line.split()[0]: line for line in table.splitlines()}
    assert all(text in lines['a'] for text in ('20.0 [18.0, 22.0]', '10.0 [9.0, 11.0]', '1.5 M'))
    assert ' 321 ' in lines['a'] and ' 1.3% ' in lines['a']
    assert '20.0 so far' in lines['a-3'] and lines['a-2'].endswith('hidden_size=256')
    assert 'can be compared' not in table and 'can be compared' in format_runs(read_runs())
    assert '+b = 3' in source_diff(runs[0], runs[2]) and source_diff(runs[0], runs[1]) == []


def test_what_was_edited_besides_model_py_is_shown_too(isolated_root):
    make_run('a', other_sources={'losses.py': 'x = 1\n', 'imports/parts.py': 'y = 1\n'})
    make_run('a-2', other_sources={'losses.py': 'x = 2\n', 'imports/parts.py': 'y = 1\nz = 2\n'})
    runs = read_runs()
    assert differences(runs)[1] == 'imports/parts.py +1 -0 lines, losses.py +1 -1 lines'
    assert source_diff(*runs) == [
        '--- a/imports/parts.py', '+++ a-2/imports/parts.py', '@@ -1 +1,2 @@', ' y = 1', '+z = 2',
        '--- a/losses.py', '+++ a-2/losses.py', '@@ -1 +1 @@', '-x = 1', '+x = 2']


def test_a_run_of_before_differs_in_nothing_that_it_did_not_record(isolated_root):
    """What it lacks stood at its default, and what is gone stood at its own."""
    make_run('before', created=1, tune_cache=False)
    make_run('today', created=2, loss='cross_entropy', reward='cider', views=1,
             other_sources={'losses.py': 'x = 1\n'})
    make_run('other', created=3, loss='another', tune_cache=True)
    runs = read_runs()
    assert differences(runs) == ['', 'nothing', 'loss=another, tune_cache=True']
    assert differences(runs[::-1])[2] == 'loss=cross_entropy, tune_cache=False'


def test_an_argument_that_only_the_first_has_is_a_difference(isolated_root):
    make_run('a', created=1, depth=3)
    make_run('a-2', created=2)
    assert differences(read_runs()) == ['', 'depth=None']


def test_runs_come_in_the_order_in_which_they_were_created(isolated_root):
    for name, created in (('a', 30), ('b', 10), ('c', 20)):
        make_run(name, created=created)
    assert [run['name'] for run in read_runs()] == ['b', 'c', 'a']
    assert [run['name'] for run in read_runs(names=['a', 'b'])] == ['a', 'b']


def test_the_command_prints_tables_diffs_and_draws_the_curves(isolated_root, monkeypatch, capsys):
    make_run('a')
    make_run('b', source='a = 2\n')
    monkeypatch.setattr(sys, 'argv', ['compare', 'b', 'a', '--diff', '--markdown'])
    compare.main()
    output = capsys.readouterr().out
    assert output.index('| b |') < output.index('| a |')
    assert '-a = 2' in output and '+a = 1' in output
    assert (files.RUNS / 'compare.png').stat().st_size > 1000
    monkeypatch.setattr(sys, 'argv', ['compare', 'c'])
    with pytest.raises(ValueError, match='no run c under runs/. There are: a, b'):
        compare.main()


def test_no_runs_is_explained(isolated_root, monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['compare'])
    with pytest.raises(ValueError, match='make run'):
        compare.main()


def test_a_run_without_an_epoch_has_a_line_too(isolated_root):
    folder = make_run('a', scores=None)
    (folder / 'log.jsonl').unlink()
    runs = read_runs()
    assert format_runs(runs).splitlines()[1].split()[:3] == ['a', '-', '-']
    assert plot_runs({run['name']: run['log'] for run in runs})
