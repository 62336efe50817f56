"""Run folders: what makes two runs the same, what is recorded, and in which order they come."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY, make_dataset
from torchvision.models import resnet18
from training_helpers import edited_model, open_run, train, weights

import model
from captioning import files
from captioning.caption_data import CaptionData, find_data
from captioning.comparison import differences, read_runs
from captioning.runs import EDITED, IMAGES, Experiment, latest_checkpoint, run_folders
from captioning.training import finish_epoch, train_one_epoch, validate
from scripts import compare


def read_settings(folder):
    return json.loads((folder / 'settings.json').read_text())


def recorded(settings):
    """The folder of a run that is recorded and not trained, without the model being built."""
    model_file = settings.model_file or model.__file__
    data = find_data(settings.cocoapi_loc)
    experiment = Experiment(settings, data, model_file)
    experiment.identity[IMAGES] = f'{len(data.images("train"))} and {len(data.images("val"))}'
    folder = experiment.find_folder()
    experiment.record(folder)
    return folder


# ---- The same run, or another ----

def test_the_same_experiment_is_the_same_folder_and_a_change_is_another(
        settings, capsys, monkeypatch, tmp_path):
    first = train(open_run(settings())).folder
    again = open_run(settings())
    assert again.folder == first and again.epoch == 2 and len(again.log) == 2
    capsys.readouterr()
    assert open_run(settings(hidden_size=25)).folder.name == 'squares-2'
    assert 'hidden_size: 24 -> 25' in capsys.readouterr().out
    assert recorded(settings()) == first
    edited = edited_model(tmp_path / 'model.py', ('"""The model:', '"""An edited model:'))
    monkeypatch.setattr(model, '__file__', str(edited))
    third = open_run(settings())
    assert third.folder.name == 'squares-3' and 'model.py' in capsys.readouterr().out
    assert (third.folder / 'model.py').read_text() == edited.read_text()
    counts = {'train': 6, 'val': 2, 'test': 1}
    other_data = make_dataset(tmp_path / 'other' / 'squares', counts)
    assert recorded(settings(cocoapi_loc=str(other_data))).name == 'squares-4'


def test_other_weights_at_the_same_path_are_another_experiment(settings, tmp_path):
    path, network = tmp_path / 'weights.pt', resnet18()
    torch.save(network.state_dict(), path)
    first = recorded(settings(weights=str(path)))
    assert recorded(settings(weights=str(path))) == first
    network.conv1.weight.data += 1
    torch.save(network.state_dict(), path)
    assert recorded(settings(weights=str(path))) != first


def test_where_it_lies_and_how_it_is_saved_make_no_other_run(settings, dataset, tmp_path):
    first = recorded(settings())
    moved = shutil.copytree(dataset, tmp_path / 'moved' / 'squares')
    same = settings(cocoapi_loc=str(moved), save_seconds=3.0, model_file=model.__file__)
    assert recorded(same) == first


def test_an_edit_of_what_readers_edit_is_another_run(settings, tmp_path, monkeypatch, capsys):
    root = tmp_path / 'copy'
    shutil.copytree(REPOSITORY / 'captioning', root / 'captioning')
    shutil.copy(REPOSITORY / 'vocabulary.py', root)
    monkeypatch.setattr(files, 'ROOT', root)
    names = [recorded(settings()).name]
    for file in (*EDITED, 'captioning/decoding.py', 'captioning/captions.py'):
        text = (root / file).read_text()
        (root / file).write_text(f'{text}# an edit of {file}\n')
        names.append(recorded(settings()).name)
    assert names == ['squares', *(f'squares-{number}' for number in (2, 3, 4, 5, 6, 6, 6))]
    capsys.readouterr()
    monkeypatch.setattr(sys, 'argv', ['compare', 'squares', 'squares-6', '--diff'])
    compare.main()
    output = capsys.readouterr().out
    assert ('augmentations.py +1 -0 lines, losses.py +1 -0 lines, metrics.py +1 -0 lines, '
            'rewards.py +1 -0 lines, vocabulary.py +1 -0 lines') in output
    added = [line for line in output.splitlines() if line.startswith('+#')]
    assert sorted(added) == sorted(f'+# an edit of {file}' for file in EDITED)


def test_a_deleted_run_leaves_the_others_found(settings):
    first, second = (recorded(settings(hidden_size=size)) for size in (24, 25))
    shutil.rmtree(first)
    assert recorded(settings(hidden_size=25)) == second
    assert recorded(settings(hidden_size=26)).name == 'squares-3'


def test_a_run_that_is_called_lstm_512_is_none_of_lstm(settings):
    other = recorded(settings(name='lstm-512'))
    first, second = (recorded(settings(name='lstm', hidden_size=size)) for size in (24, 25))
    assert [folder.name for folder in (other, first, second)] == ['lstm-512', 'lstm', 'lstm-2']
    assert recorded(settings(name='lstm-512')) == other


def test_photos_that_were_missing_make_another_run(settings, dataset, capsys):
    photo = dataset / 'cocoapi' / 'images' / 'train2014' / 'train_003.jpg'
    photo.rename(dataset / 'aside.jpg')
    first = train(open_run(settings(epochs=1)))
    assert len(first.train.rows) == 11 and 'train_003.jpg not found' in capsys.readouterr().out
    (dataset / 'aside.jpg').rename(photo)
    second = open_run(settings(epochs=1))
    assert second.folder.name == 'squares-2' and len(second.train.rows) == 12
    assert 'images of train and val: 11 and 4 -> 12 and 4' in capsys.readouterr().out


@pytest.mark.skipif(os.name == 'nt', reason='no file has such a name there')
def test_a_name_with_odd_characters_is_a_name(settings):
    first = open_run(settings(name='a[1]*')).folder
    assert open_run(settings(name='a[1]*')).folder == first
    assert recorded(settings(name='a[1]*', hidden_size=20)).name == 'a[1]*-2'


# ---- Runs of before ----

def make_as_before(folder, tune_cache=False):
    """Make the folder one of before: what was not recorded then is gone from it."""
    content, edited = read_settings(folder), [Path(file).name for file in EDITED]
    for key in ('loss', 'reward', IMAGES, *edited):
        content['identity'].pop(key, None)
    for key in ('created', 'opened'):
        content.pop(key, None)
    content['identity']['tune_cache'] = tune_cache
    (folder / 'settings.json').write_text(json.dumps(content))
    for file in edited:
        (folder / file).unlink(missing_ok=True)


def test_a_run_of_before_continues(settings, capsys):
    uninterrupted = train(open_run(settings(name='uninterrupted')))
    run = open_run(settings())
    finish_epoch(run, train_one_epoch(run), validate(run))
    make_as_before(run.folder)
    capsys.readouterr()
    again = open_run(settings())
    assert again.folder == run.folder and again.epoch == 1
    assert 'continues after 0 batches and 1 epochs' in capsys.readouterr().out
    assert torch.equal(weights(train(again)), weights(uninterrupted))
    assert recorded(settings(hidden_size=25)).name == 'squares-2'
    told = capsys.readouterr().out
    assert 'differs in hidden_size: 24 -> 25\n' in told    # and in nothing else
    assert differences(read_runs(names=['squares', 'squares-2'])) == ['', 'hidden_size=25']
    make_as_before(run.folder, tune_cache=True)
    assert recorded(settings()).name == 'squares-3'


def test_a_run_continues_with_its_model_file_after_model_py_was_edited(
        settings, tmp_path, monkeypatch):
    run = open_run(settings())
    finish_epoch(run, train_one_epoch(run), validate(run))
    make_as_before(run.folder)
    edited = edited_model(tmp_path / 'model.py', ('"""The model:', '"""An edited model:'))
    monkeypatch.setattr(model, '__file__', str(edited))
    assert open_run(settings()).folder.name == 'squares-2'
    again = open_run(settings(model_file=str(run.folder / 'model.py')))
    assert again.folder == run.folder and again.epoch == 1


# ---- What is recorded ----

def test_it_trains_where_there_is_no_git(settings, monkeypatch):
    monkeypatch.setenv('PATH', '')
    assert read_settings(recorded(settings()))['revision'] is None


def test_data_that_is_not_there_is_explained(settings, tmp_path):
    with pytest.raises(FileNotFoundError, match='scripts.scenes'):
        open_run(settings(cocoapi_loc=str(tmp_path / 'nowhere')))


def test_data_and_runs_stay_apart(settings, dataset, isolated_root, monkeypatch):
    """Nothing is written into the data folder, which may be read-only."""
    monkeypatch.setattr(files, 'CACHE', isolated_root / 'cache')    # with nothing computed yet
    before = sorted(dataset.rglob('*'))
    train(open_run(settings(epochs=1)))
    assert sorted(dataset.rglob('*')) == before
    assert CaptionData(dataset).annotation_file('train').exists()
    assert (isolated_root / 'cache').is_dir()


# ---- The order of runs ----

def test_the_newest_run_on_the_same_data_is_found(settings, dataset, tmp_path):
    data = CaptionData(dataset)
    with pytest.raises(FileNotFoundError, match='make run'):
        latest_checkpoint(data)
    first = train(open_run(settings(epochs=1))).folder
    other_data = make_dataset(tmp_path / 'others', {'train': 6, 'val': 2, 'test': 1})
    changes = {'name': 'others', 'cocoapi_loc': str(other_data)}
    second = train(open_run(settings(epochs=1, **changes))).folder
    assert latest_checkpoint(data) == first / 'best.pt'
    assert latest_checkpoint() == second / 'best.pt'
    third = train(open_run(settings(epochs=1, hidden_size=25))).folder
    assert latest_checkpoint(data) == third / 'best.pt'
    open_run(settings(epochs=1))    # back to the first, which is finished already
    assert latest_checkpoint(data) == latest_checkpoint() == first / 'best.pt'
    assert run_folders() == [first, second, third]


def make_folder(name, file_time, **times):
    """A run whose files are of `file_time`, and whose settings.json says `times`."""
    folder = files.RUNS / name
    folder.mkdir(parents=True)
    (folder / 'settings.json').write_text(json.dumps({'identity': {}, **times}))
    for file in ('settings.json', 'model.py', 'best.pt'):
        (folder / file).touch()
        os.utime(folder / file, (file_time, file_time))


def test_a_copied_run_keeps_its_place(isolated_root):
    make_folder('a', file_time=300, created=10, opened=60)    # copied last
    make_folder('b', file_time=200, created=20, opened=50)
    make_folder('c', file_time=100, created=30, opened=40)
    assert [folder.name for folder in run_folders()] == ['a', 'b', 'c']
    assert latest_checkpoint().parent.name == 'a'
    for path in files.RUNS.glob('*/*'):
        os.utime(path, (1000 - path.stat().st_mtime,) * 2)    # copied in the other order
    assert [folder.name for folder in run_folders()] == ['a', 'b', 'c']
    assert latest_checkpoint().parent.name == 'a'


def test_runs_of_before_come_by_the_times_of_their_files(isolated_root):
    make_folder('a', file_time=300)
    make_folder('b', file_time=100)
    make_folder('c', file_time=900, created=200, opened=200)
    assert [folder.name for folder in run_folders()] == ['b', 'c', 'a']
    assert latest_checkpoint().parent.name == 'a'
    os.utime(files.RUNS / 'b' / 'settings.json', (400, 400))    # which opening it did
    assert latest_checkpoint().parent.name == 'b'
    assert [folder.name for folder in run_folders()] == ['b', 'c', 'a']


def test_opening_a_run_of_before_notes_when_it_was_created(settings):
    run = open_run(settings())
    run.save()
    make_as_before(run.folder)
    os.utime(run.folder / 'model.py', (500, 500))
    open_run(settings())
    content = read_settings(run.folder)
    assert content['created'] == 500 < content['opened']
