"""Training: what a step takes, that it learns, and what fine-tuning and rewards change."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import FEATURES
from training_helpers import edited_model, open_run, train, val_paths, weights

import model
from captioning import encoding, files
from captioning.caption_data import CaptionData, find_data
from captioning.captioner import load_captioner
from captioning.captions import Captions
from captioning.checkpoint import read_checkpoint, save_checkpoint
from captioning.features import split_features
from captioning.sampler import EpochSampler
from captioning.training import (
    encode_images,
    final_scores,
    finish_epoch,
    train_one_epoch,
    validate,
    validation,
)
from captioning.training import epoch as training_epoch
from captioning.training.epoch import learning_rate
from captioning.training.run import best_epoch
from data_loader import CoCoDataset

# A small data set can be learned by heart.
BY_HEART = {'learning_rate': 0.01, 'dropout': 0.0, 'label_smoothing': 0.0}


def backbone_of(run):
    return run.model.encoder.backbone.state_dict()


# ---- Steps ----

def test_learning_rate_rises_then_falls_to_nothing():
    rates = [learning_rate(step, 100, highest=2.0, warmup=0.1) for step in range(100)]
    assert max(rates) == rates[10] == 2.0 and rates[:10] == sorted(rates[:10]) and rates[0] == 0.2
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.01


@pytest.mark.parametrize('by_image', [False, True])
def test_a_step_takes_images_with_all_captions_or_single_captions(settings, by_image):
    run, steps = open_run(settings(by_image=by_image, views=3, batch_size=10)), []
    features_of = run.train.features_of

    def listed(rows, views):
        steps.append((rows, views))
        return features_of(rows, views)

    run.train.features_of = listed
    train_one_epoch(run)
    captions = len(run.train.indices)
    words = run.train.lengths[run.train.indices].sum() - captions
    assert run.sums['words'] == words and run.sums['captions'] == captions
    assert len(steps) == run.phase.sampler.batches == 6
    assert max(len(rows) for rows, _ in steps) == (2 if by_image else 10)
    rows, views = (np.concatenate(parts) for parts in zip(*steps, strict=True))
    assert np.array_equal(np.bincount(rows), np.full(12, 1 if by_image else 5))
    assert set(views) == {0, 1, 2}


def test_unreadable_images_are_left_out_with_their_captions(settings, dataset):
    data = CaptionData(dataset)
    for name in ('train_001.jpg', 'train_004.jpg'):
        (data.image_folder('train') / name).write_bytes(b'no picture')
    (data.image_folder('val') / 'val_000.jpg').unlink()
    run = train(open_run(settings()))
    served = np.concatenate(list(EpochSampler(run.train.indices, 8)))
    assert len(served) == 50 and not {1, 4} & set(run.train.image_rows[served])
    assert len(run.val.rows) == 3 and all(np.isfinite(line['val_loss']) for line in run.log)


def test_validation_takes_the_first_images_only(settings):
    run = train(open_run(settings(val_images=3, epochs=1)))
    assert len(run.val.rows) == 3 and len(run.val.indices) == 15 and len(run.val.features) == 3
    assert run.references.image_ids == run.val.image_ids[:3]


def test_a_folder_without_a_readable_image_says_so(settings, dataset):
    for path in CaptionData(dataset).image_folder('train').iterdir():
        path.unlink()
    with pytest.raises(ValueError, match='train2014'):
        open_run(settings())


def test_two_models_are_trained_on_one_look_at_the_images(settings, monkeypatch, tmp_path):
    monkeypatch.setattr(files, 'CACHE', tmp_path / 'cache')    # other tests fill the usual one
    opened, load_image = [], encoding.load_image
    monkeypatch.setattr(encoding, 'load_image',
                        lambda *photo: opened.append(photo[0].name) or load_image(*photo))
    plain, places = settings(epochs=1), settings(name='places', epochs=1, image='attention')
    encode_images([plain, places], find_data(plain.cocoapi_loc))
    assert sorted(opened) == sorted({*opened}) and opened
    opened.clear()
    runs = [open_run(each) for each in (plain, places)]
    assert not opened
    assert [run.train.features.ndim for run in runs] == [2, 3]


def test_grids_stay_on_disk(settings, dataset):
    run, data = open_run(settings(image='attention')), CaptionData(dataset)
    texts = CoCoDataset(None, 'train', 4, run.model.vocab, data)
    features, _, _ = split_features(run.model.encoder, data, 'train')
    captions = Captions.of_split(texts, features)
    assert isinstance(features, np.memmap) and features.shape == (12, 4, FEATURES)
    features[3, 2, 1] = 7    # in memory alone: the map is copied where it is written to
    assert captions.features[3, 2, 1] == 7 and run.train.features[3, 2, 1] != 7


def test_a_loss_that_is_not_finite_stops_and_names_the_batch(settings):
    run = open_run(settings())
    run.model.decoder.linear.bias.data[:] = float('nan')
    with pytest.raises(RuntimeError, match='epoch 1, batch 1.*not finite'):
        train_one_epoch(run)


def test_running_out_of_memory_names_the_setting_to_lower(settings, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB.')

    monkeypatch.setattr(training_epoch, 'train_step', full)
    run = open_run(settings())
    with pytest.raises(RuntimeError, match=r'in epoch 1: lower batch_size \(now 8\)'):
        train_one_epoch(run)
    monkeypatch.setattr(validation, 'validation_loss', full)
    with pytest.raises(RuntimeError, match=r'epoch 1 was validated: lower val_images \(now 5000'):
        validate(run)


def test_training_and_decoding_need_neither_nltk_nor_pycocotools():
    code = """if True:
        import sys
        for name in ('nltk', 'pycocotools', 'pycocoevalcap', 'matplotlib'):
            sys.modules[name] = None
        import model, captioning.decoding, captioning.training, scripts.train
    """
    subprocess.run([sys.executable, '-c', code], check=True, cwd=Path(model.__file__).parent)


# ---- Learning ----

def test_it_learns_the_colours(settings):
    run = train(open_run(settings(epochs=40, patience=40, **BY_HEART)))
    results, scores = final_scores(run)
    assert run.log[-1]['val_loss'] < run.log[0]['val_loss'] / 2 and scores['CIDEr'] > 0.5
    for name in ('settings.json', 'model.py', 'log.jsonl', 'last.pt', 'best.pt', 'scores.json',
                 'captions_val.json'):
        assert (run.folder / name).is_file()
    lines = (run.folder / 'log.jsonl').read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.log
    assert json.loads((run.folder / 'scores.json').read_text())['CIDEr'] == scores['CIDEr']
    assert json.loads((run.folder / 'captions_val.json').read_text()) == results
    assert len(results) == 4


@pytest.mark.parametrize('changes', [
    {'image': 'first', 'tied': True, 'embed_size': 24}, {'image': 'state'},
    {'image': 'attention', 'num_layers': 2}], ids=lambda changes: changes['image'])
def test_every_way_of_the_image_trains_and_is_rebuilt_from_its_checkpoint(settings, changes):
    run = train(open_run(settings(epochs=30, patience=30, **BY_HEART, **changes)))
    results, scores = final_scores(run)
    assert scores['CIDEr'] > 0.5
    captioner = load_captioner(run.folder / 'best.pt', 'cpu')
    assert captioner.decoder.image == changes['image']
    assert [result['caption'] for result in results] == captioner.caption(val_paths(run))


def test_the_best_epoch_is_scored_by_the_model_file_that_was_trained(settings, tmp_path):
    file = edited_model(tmp_path / 'mine.py')
    run = train(open_run(settings(epochs=1, model_file=str(file))))
    expected, _ = final_scores(run)
    file.write_text('an edit for the next experiment, not done yet')
    assert final_scores(run)[0] == expected


def test_a_phase_ends_when_the_scores_do_not_improve(settings, capsys):
    run = train(open_run(settings(epochs=9, learning_rate=0.0, patience=2)))
    assert run.epoch == best_epoch(run.log)['epoch'] + 2 < 9
    assert 'no better CIDEr in 2 epochs' in capsys.readouterr().out
    again = open_run(settings(epochs=9, learning_rate=0.0, patience=2))
    assert again.finished and again.epoch == run.epoch


# ---- Fine-tuning ----

def test_fine_tuning_changes_the_last_stages_and_nothing_else_of_the_encoder(
        settings, few_photos):
    run = open_run(settings(cocoapi_loc=few_photos, epochs=1, tune_epochs=2, tune_stages=2,
                            tune_batch_size=4))
    before = {key: value.clone() for key, value in backbone_of(run).items()}
    train(run)
    after = backbone_of(run)
    changed = [key for key in before if not torch.equal(after[key], before[key])]
    assert {key.split('.')[0] for key in changed} == {'layer3', 'layer4'}
    assert not [key for key in changed if 'running' in key or 'num_batches' in key]    # statistics
    assert [line['phase'] for line in run.log] == ['features', 'tune', 'tune']
    state = read_checkpoint(run.folder / 'last.pt')['encoder']['state']
    stages = {key.split('.')[1] for key in state if key.startswith('backbone.')}
    assert stages == {'layer3', 'layer4'}
    final_scores(run)    # from features of the tuned encoder, as the captioner has them
    expected = load_captioner(run.folder / 'best.pt', 'cpu').features(val_paths(run))
    error = (run.val.features[run.val.rows].float() - expected).abs().mean()
    assert error / expected.abs().mean() < 0.02


def test_fine_tuning_goes_on_from_the_best_epoch(settings):
    run = open_run(settings(epochs=4, learning_rate=0.1, tune_epochs=1))
    while run.phase.name == 'features':
        finish_epoch(run, train_one_epoch(run), validate(run))
    best = read_checkpoint(run.folder / 'best.pt')
    assert best['epoch'] == best_epoch(run.log)['epoch'] < 4, 'the last epoch must not be the best'
    state = run.model.decoder.state_dict()
    assert all(torch.equal(state[key], value) for key, value in best['decoder']['state'].items())
    train(run)
    assert [line['phase'] for line in run.log] == ['features'] * 4 + ['tune']


def test_tuning_that_did_not_help_is_left_behind(settings):
    run = open_run(settings(epochs=8, learning_rate=0.01, dropout=0.0, tune_epochs=1,
                            tune_learning_rate=1.0, tune_head_rate=1.0, reward_epochs=1))
    before = {key: value.clone() for key, value in backbone_of(run).items()}
    while run.phase.name != 'reward':
        finish_epoch(run, train_one_epoch(run), validate(run))
    assert best_epoch(run.log)['phase'] == 'features', 'the test needs tuning that harms'
    assert all(torch.equal(value, before[key]) for key, value in backbone_of(run).items())
    best = best_epoch(run.log)['CIDEr']    # the log has five digits
    assert validate(run)['CIDEr'] == pytest.approx(best, rel=1e-4)


# ---- Starting from a checkpoint ----

def test_a_run_starts_from_the_weights_of_a_checkpoint_that_fits(settings):
    first = train(open_run(settings(epochs=1, learning_rate=0.01)))
    start = str(first.folder / 'last.pt')
    second = open_run(settings(start=start, epochs=1))
    assert second.folder != first.folder and torch.equal(weights(first), weights(second))
    with pytest.raises(ValueError, match='does not fit: decoder hidden_size: 24 there, 20 here'):
        open_run(settings(start=start, hidden_size=20))
    with pytest.raises(ValueError, match='words in the vocabulary: .* there, .* here'):
        open_run(settings(start=start, vocab_threshold=20))
    state = read_checkpoint(first.folder / 'best.pt')
    state['encoder']['backbone_hash'] = '0' * 16
    save_checkpoint(first.folder / 'odd.pt', state)
    with pytest.raises(ValueError, match='hash of the backbone.*0000000000000000 there'):
        open_run(settings(name='other', start=str(first.folder / 'odd.pt')))


def test_a_run_takes_the_cnn_alone_of_a_checkpoint_with_another_decoder(settings, few_photos):
    settings = functools.partial(settings, cocoapi_loc=few_photos)
    first = train(open_run(settings(epochs=1, tune_epochs=1)))
    start = str(first.folder / 'last.pt')
    fresh = open_run(settings(name='fresh', hidden_size=20))
    run = open_run(settings(start=start, start_with='cnn', hidden_size=20, epochs=1))
    tuned, taken = backbone_of(first), backbone_of(run)
    assert all(torch.equal(value, tuned[key]) for key, value in taken.items())
    assert not all(torch.equal(value, tuned[key]) for key, value in backbone_of(fresh).items())
    parts = zip(run.model.decoder.parameters(), fresh.model.decoder.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in parts)
    captioner = load_captioner(train(run).folder / 'last.pt', 'cpu')
    features = run.val.features[run.val.rows].float()
    assert torch.allclose(captioner.features(val_paths(run)), features, rtol=0.02, atol=0.02)
    with pytest.raises(ValueError, match='fresh.last.pt has tuned nothing of its CNN'):
        finish_epoch(fresh, train_one_epoch(fresh), validate(fresh))
        open_run(settings(start=str(fresh.folder / 'last.pt'), start_with='cnn'))
    with pytest.raises(ValueError, match='epochs=0 needs a model to start from'):
        settings(start=start, start_with='cnn', epochs=0, tune_epochs=1)
    state = read_checkpoint(start)
    state['encoder']['backbone_hash'] = '0' * 16
    save_checkpoint(first.folder / 'odd.pt', state)
    with pytest.raises(ValueError, match='odd.pt does not fit: hash of the backbone.*0000 there'):
        open_run(settings(start=str(first.folder / 'odd.pt'), start_with='cnn'))


def test_fine_tuning_alone_from_a_checkpoint_equals_fine_tuning_after_training(
        settings, few_photos):
    settings = functools.partial(settings, cocoapi_loc=few_photos)
    both = train(open_run(settings(name='both', epochs=1, tune_epochs=1)))
    first = train(open_run(settings(name='first', epochs=1)))
    second = open_run(settings(name='second', epochs=0, tune_epochs=1,
                               start=str(first.folder / 'best.pt')))
    assert second.phase.name == 'tune'
    train(second)
    assert second.log[0]['train_loss'] == pytest.approx(both.log[1]['train_loss'], rel=0.05)
    start = str(second.folder / 'last.pt')    # best.pt may be from before tuning
    changes = {'name': 'third', 'epochs': 0, 'reward_epochs': 1, 'reward_batch_size': 3}
    third = open_run(settings(start=start, **changes))
    expected = load_captioner(start, 'cpu').features(val_paths(third))
    features = third.val.features[third.val.rows].float()    # of the tuned encoder
    assert torch.allclose(features, expected, rtol=0.02, atol=0.02)
    finished = weights(train(third)).clone()
    again = open_run(settings(start=start, **changes))
    assert again.finished and torch.equal(weights(again), finished)
    results, _ = final_scores(third)
    captioner = load_captioner(third.folder / 'best.pt', 'cpu')    # it holds the tuned stages
    assert [result['caption'] for result in results] == captioner.caption(val_paths(third))
