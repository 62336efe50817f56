"""Training: what a batch is, what an epoch serves, resuming, run folders, checkpoints."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_dataset
from torchvision.models import resnet18

import model
import scripts.train
from data_loader import annotation_file, image_folder
from scripts.checkpoint import latest_checkpoint, load_captioner, read_checkpoint, save_checkpoint
from scripts.features import split_features
from scripts.train import (
    Settings,
    caption_losses,
    comparable_scores,
    final_scores,
    finish_epoch,
    learning_rate,
    open_run,
    train_one_epoch,
    validate,
)


@pytest.fixture
def settings(dataset, isolated_root, small_weights):
    def make(**changes):
        return Settings(**{'name': 'squares', 'cocoapi_loc': str(dataset), 'backbone': 'resnet18', 'batch_size': 8,
                           'weights': small_weights, 'vocab_threshold': 1, 'embed_size': 16, 'hidden_size': 24,
                           'epochs': 2, **changes})
    return make


def train(run):
    while run.epoch < run.settings.epochs:
        finish_epoch(run, train_one_epoch(run), validate(run))
    return run


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.parameters])


# ---- Batches ----

@pytest.mark.parametrize('pool', [1, 3])
def test_an_epoch_serves_each_caption_once_in_an_order_of_its_own(settings, pool):
    captions = open_run(settings()).train
    one, other, again = (np.concatenate(captions.epoch_batches(8, pool, 0, epoch)) for epoch in (0, 1, 0))
    assert sorted(one) == sorted(other) == list(range(60))
    assert list(one) != list(other) and list(one) == list(again)
    assert {len(batch) for batch in captions.epoch_batches(8, pool, 0, 0)} == {8, 4}


def test_targets_are_the_captions_without_start_and_padding(settings):
    captions = open_run(settings()).train
    features, ids, targets = captions.batch(np.arange(10), 'cpu')
    assert features.shape == (10, 512) and features.dtype == torch.float32
    for row, caption, target in zip(range(10), ids, targets, strict=True):
        words = captions.dataset.caption_ids(row)
        assert target[0] == -100 and torch.equal(target[1:len(words)], words[1:])
        assert (target[len(words):] == -100).all() and (caption[len(words):] == captions.dataset.vocab.end_id).all()
        expected = captions.features[captions.dataset.image_rows[row]].float()
        assert torch.equal(features[row], expected)


def test_padding_and_start_get_no_gradient():
    scores = torch.randn(2, 5, 7, requires_grad=True)
    targets = torch.tensor([[-100, 3, 4, 1, -100], [-100, 6, 1, -100, -100]])
    cross_entropy, smoothing, words = caption_losses(scores, targets)
    (cross_entropy + smoothing).backward()
    assert torch.equal(scores.grad.abs().sum(-1) > 0, targets != -100) and words == 5
    expected = torch.nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction='sum')
    assert torch.allclose(cross_entropy, expected)
    smooth = torch.nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction='sum',
                                               label_smoothing=0.3)
    assert torch.allclose(0.7 * cross_entropy + 0.3 * smoothing, smooth)


def test_learning_rate_rises_then_falls_to_nothing():
    rates = [learning_rate(Settings(learning_rate=2.0, warmup=0.1), step, 100) for step in range(100)]
    assert max(rates) == rates[10] == 2.0 and rates[:10] == sorted(rates[:10]) and rates[0] == 0.2
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.01


def test_unreadable_images_are_left_out_with_their_captions(settings, dataset):
    for name in ('train_001.jpg', 'train_004.jpg'):
        (image_folder(dataset, 'train') / name).write_bytes(b'no picture')
    (image_folder(dataset, 'val') / 'val_000.jpg').unlink()
    run = train(open_run(settings()))
    served = np.concatenate(run.train.epoch_batches(8, 1, 0, 0))
    assert len(served) == 50 and not {1, 4} & set(run.train.dataset.image_rows[served])
    assert len(run.val.rows) == 3 and all(np.isfinite(line['val_loss']) for line in run.log)


def test_validation_takes_the_first_images_only(settings, isolated_root):
    run = train(open_run(settings(val_images=3, epochs=1)))
    assert len(run.val.rows) == 3 and len(run.val.indices) == 15 and len(run.val.features) == 3
    assert run.references.image_ids == run.val.dataset.image_ids[:3]


def test_a_folder_without_a_readable_image_says_so(settings, dataset):
    for path in image_folder(dataset, 'train').iterdir():
        path.unlink()
    with pytest.raises(ValueError, match='train2014'):
        open_run(settings())


# ---- Learning ----

def test_it_learns_the_colours(settings):
    run = train(open_run(settings(epochs=40, learning_rate=0.01, dropout=0.0, label_smoothing=0.0)))
    results, scores = final_scores(run)
    assert run.log[-1]['val_loss'] < run.log[0]['val_loss'] / 2 and scores['CIDEr'] > 0.5
    for name in ('settings.json', 'model.py', 'log.jsonl', 'last.pt', 'best.pt', 'scores.json', 'captions_val.json'):
        assert (run.folder / name).is_file()
    assert [json.loads(line) for line in (run.folder / 'log.jsonl').read_text().splitlines()] == run.log
    assert len(results) == 4 and json.loads((run.folder / 'scores.json').read_text())['CIDEr'] == scores['CIDEr']


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(settings):
    run = open_run(settings())
    run.decoder.linear.bias.data[:] = float('nan')
    with pytest.raises(RuntimeError, match='epoch 1, batch 1.*not finite'):
        train_one_epoch(run)


# ---- Resuming ----

def test_interrupted_and_resumed_equals_never_stopped_to_the_bit(settings, monkeypatch):
    whole = train(open_run(settings(name='whole', save_seconds=0)))
    run = open_run(settings(name='stopped', save_seconds=0))
    step, steps = scripts.train._train_step, []

    def killed_at(count):
        def stepping(*args):
            steps.append(1)
            if len(steps) == count:
                raise SystemError('killed')
            return step(*args)
        return stepping

    for count in (3, 9, 13):    # in the first epoch, at its end, in the second
        monkeypatch.setattr(scripts.train, '_train_step', killed_at(count))
        with pytest.raises(SystemError):
            train(run)
        run = open_run(settings(name='stopped', save_seconds=0))
    monkeypatch.setattr(scripts.train, '_train_step', step)
    train(run)
    assert torch.equal(weights(run), weights(whole))
    keys = ('train_loss', 'val_loss', 'CIDEr', 'gradient_norm', 'learning_rate')
    assert [[line[key] for key in keys] for line in run.log] == [[line[key] for key in keys] for line in whole.log]
    assert not [path for path in run.folder.iterdir() if path.name.endswith('.tmp')]


def test_the_stop_button_saves_and_running_again_continues(settings, monkeypatch, capsys):
    whole = train(open_run(settings(name='whole')))
    run = open_run(settings(name='stopped'))
    step = scripts.train._train_step

    def pressed(*args):
        if run.batch == 4:
            signal.raise_signal(signal.SIGINT)
        return step(*args)

    monkeypatch.setattr(scripts.train, '_train_step', pressed)
    with pytest.raises(KeyboardInterrupt):
        train(run)
    assert 'saved after 0 epochs and 5 batches' in capsys.readouterr().out
    monkeypatch.setattr(scripts.train, '_train_step', step)
    assert torch.equal(weights(train(open_run(settings(name='stopped')))), weights(whole))


# ---- Run folders ----

def test_the_same_experiment_is_the_same_folder_and_a_change_is_another(settings, capsys, monkeypatch, tmp_path):
    first = train(open_run(settings())).folder
    again = open_run(settings())
    assert again.folder == first and again.epoch == 2 and len(again.log) == 2
    capsys.readouterr()
    assert open_run(settings(hidden_size=25)).folder.name == 'squares-2'
    assert 'hidden_size: 24 -> 25' in capsys.readouterr().out
    assert open_run(settings()).folder == first
    edited = tmp_path / 'model.py'
    edited.write_text(Path(model.__file__).read_text() + '\n# an edit\n')
    monkeypatch.setattr(model, '__file__', str(edited))
    third = open_run(settings())
    assert third.folder.name == 'squares-3' and 'model.py' in capsys.readouterr().out
    assert (third.folder / 'model.py').read_text() == edited.read_text()
    other = make_dataset(tmp_path / 'other' / 'squares', {'train': 6, 'val': 2, 'test': 1})
    assert open_run(settings(cocoapi_loc=str(other))).folder.name == 'squares-4'


def test_other_weights_at_the_same_path_are_another_experiment(settings, tmp_path):
    path = tmp_path / 'weights.pt'
    torch.save(resnet18().state_dict(), path)
    first = train(open_run(settings(epochs=1, weights=str(path)))).folder
    torch.save(resnet18().state_dict(), path)
    assert open_run(settings(epochs=1, weights=str(path))).folder != first


def test_a_deleted_run_leaves_the_others_found(settings):
    first, second = (open_run(settings(hidden_size=size)).folder for size in (24, 25))
    shutil.rmtree(first)
    assert open_run(settings(hidden_size=25)).folder == second
    assert open_run(settings(hidden_size=26)).folder.name == 'squares-3'


def test_it_trains_where_there_is_no_git(settings, monkeypatch):
    monkeypatch.setenv('PATH', '')
    folder = open_run(settings()).folder
    assert json.loads((folder / 'settings.json').read_text())['revision'] is None


def test_data_that_is_not_there_is_explained(settings, tmp_path):
    with pytest.raises(FileNotFoundError, match='scripts.scenes'):
        open_run(settings(cocoapi_loc=str(tmp_path / 'nowhere')))


def test_runs_on_the_same_validation_captions_are_comparable(settings):
    for changes in ({}, {'hidden_size': 25}, {'val_images': 2}):
        run = train(open_run(settings(epochs=1, **changes)))
        final_scores(run)
    assert list(comparable_scores(run)) == ['squares-3']
    assert list(comparable_scores(open_run(settings(epochs=1)))) == ['squares', 'squares-2']


# ---- Checkpoints ----

def test_a_checkpoint_is_all_that_is_needed_to_caption(settings, dataset):
    run = train(open_run(settings(epochs=6, learning_rate=0.01)))
    captioner = load_captioner(run.folder / 'last.pt', 'cpu')
    paths = sorted(image_folder(dataset, 'val').iterdir())
    expected = run.captioner.caption_features(run.val.features[run.val.rows])
    assert captioner.caption(paths) == expected
    assert [captioner.caption([path])[0] for path in paths] == expected and captioner.caption([]) == []
    from_disk, _, _ = split_features(captioner.encoder, dataset, 'val')
    assert captioner.caption_features(from_disk) == expected    # memory-mapped and read-only
    assert captioner.vocab.word2idx == run.vocab.word2idx and not captioner.decoder.training


def test_the_newest_run_on_the_same_data_is_found(settings, dataset, tmp_path):
    with pytest.raises(FileNotFoundError, match='make run'):
        latest_checkpoint(dataset)
    first = train(open_run(settings(epochs=1))).folder
    other = make_dataset(tmp_path / 'others', {'train': 6, 'val': 2, 'test': 1})
    second = train(open_run(settings(epochs=1, name='others', cocoapi_loc=str(other)))).folder
    assert latest_checkpoint(dataset) == first / 'best.pt' and latest_checkpoint() == second / 'best.pt'
    third = train(open_run(settings(epochs=1, hidden_size=25))).folder
    assert latest_checkpoint(dataset) == third / 'best.pt'
    open_run(settings(epochs=1))    # back to the first, which is finished already
    assert latest_checkpoint(dataset) == latest_checkpoint() == first / 'best.pt'


@pytest.mark.parametrize(('damage', 'words'), [
    (lambda state: state['encoder'].update(backbone_hash='0' * 16), ['0000000000000000', 'restore']),
    (lambda state: state['decoder']['sizes'].update(hidden_size=30), ['decoder', 'does not fit']),
    (lambda state: state['decoder']['state'].pop('linear.bias'), ['linear.bias']),
    (lambda state: state['encoder']['sizes'].update(weights='gone.pt'), ['gone.pt']),
    (lambda state: state.pop('vocab'), ['not a checkpoint of this repository']),
])
def test_a_checkpoint_that_does_not_fit_says_what_differs(settings, damage, words):
    run = train(open_run(settings(epochs=1)))
    state = read_checkpoint(run.folder / 'best.pt')
    damage(state)
    save_checkpoint(run.folder / 'odd.pt', state)
    with pytest.raises(ValueError) as caught:
        load_captioner(run.folder / 'odd.pt')
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_checkpoint_with_code_is_refused_and_not_run(tmp_path):
    class Runs:
        def __reduce__(self):
            return (eval, (f'__import__("os").mkdir({str(tmp_path / "was-run")!r})',))

    torch.save({'encoder': Runs()}, tmp_path / 'strange.pt')
    with pytest.raises(ValueError, match='cannot be read safely|not a checkpoint'):
        load_captioner(tmp_path / 'strange.pt')
    assert not (tmp_path / 'was-run').exists()
    (tmp_path / 'cut.pt').write_bytes((tmp_path / 'strange.pt').read_bytes()[:50])
    with pytest.raises(ValueError, match='cut.pt'):
        load_captioner(tmp_path / 'cut.pt')
    with pytest.raises(FileNotFoundError, match='make run'):
        load_captioner(tmp_path / 'none.pt')


def test_data_and_runs_stay_apart(settings, dataset):
    """Nothing is written into the data folder, which may be read-only."""
    before = sorted(dataset.rglob('*'))
    train(open_run(settings(epochs=1)))
    assert sorted(dataset.rglob('*')) == before
    assert annotation_file(dataset, 'train').exists()
