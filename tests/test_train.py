"""Training: what a batch is, what an epoch serves, resuming, run folders, checkpoints."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_dataset
from torchvision.models import resnet18

import model
import scripts.train
from data_loader import annotation_file, image_folder
from scripts.batches import EpochSampler
from scripts.checkpoint import latest_checkpoint, load_captioner, load_model_file, read_checkpoint, save_checkpoint
from scripts.features import split_features
from scripts.train import (
    Settings,
    caption_losses,
    final_scores,
    finish_epoch,
    learning_rate,
    open_run,
    policy_loss,
    sample_captions,
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
    while not run.finished:
        finish_epoch(run, train_one_epoch(run), validate(run))
    return run


def weights(run):
    return torch.cat([p.detach().flatten() for p in run.parameters])


# ---- Steps ----

def test_padding_and_start_get_no_gradient():
    scores = torch.randn(2, 5, 7, requires_grad=True)
    targets = torch.tensor([[-100, 3, 4, 1, -100], [-100, 6, 1, -100, -100]])
    cross_entropy, smoothing = caption_losses(scores, targets)
    (cross_entropy + smoothing).backward()
    assert torch.equal(scores.grad.abs().sum(-1) > 0, targets != -100)
    expected = torch.nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction='sum')
    assert torch.allclose(cross_entropy, expected)
    smooth = torch.nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction='sum',
                                               label_smoothing=0.3)
    assert torch.allclose(0.7 * cross_entropy + 0.3 * smoothing, smooth)


def test_learning_rate_rises_then_falls_to_nothing():
    rates = [learning_rate(step, 100, highest=2.0, warmup=0.1) for step in range(100)]
    assert max(rates) == rates[10] == 2.0 and rates[:10] == sorted(rates[:10]) and rates[0] == 0.2
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.01


def test_unreadable_images_are_left_out_with_their_captions(settings, dataset):
    for name in ('train_001.jpg', 'train_004.jpg'):
        (image_folder(dataset, 'train') / name).write_bytes(b'no picture')
    (image_folder(dataset, 'val') / 'val_000.jpg').unlink()
    run = train(open_run(settings()))
    served = np.concatenate(list(EpochSampler(run.train.indices, 8)))
    assert len(served) == 50 and not {1, 4} & set(run.train.image_rows[served])
    assert len(run.val.rows) == 3 and all(np.isfinite(line['val_loss']) for line in run.log)


def test_validation_takes_the_first_images_only(settings, isolated_root):
    run = train(open_run(settings(val_images=3, epochs=1)))
    assert len(run.val.rows) == 3 and len(run.val.indices) == 15 and len(run.val.features) == 3
    assert run.references.image_ids == run.val.image_ids[:3]


def test_a_folder_without_a_readable_image_says_so(settings, dataset):
    for path in image_folder(dataset, 'train').iterdir():
        path.unlink()
    with pytest.raises(ValueError, match='train2014'):
        open_run(settings())


# ---- Learning ----

def test_it_learns_the_colours(settings):
    run = train(open_run(settings(epochs=40, patience=40, learning_rate=0.01, dropout=0.0, label_smoothing=0.0)))
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
    step, steps = scripts.train.train_step, []

    def killed_at(count):
        def stepping(*args):
            steps.append(1)
            if len(steps) == count:
                raise SystemError('killed')
            return step(*args)
        return stepping

    for count in (3, 9, 13):    # in the first epoch, at its end, in the second
        monkeypatch.setattr(scripts.train, 'train_step', killed_at(count))
        with pytest.raises(SystemError):
            train(run)
        run = open_run(settings(name='stopped', save_seconds=0))
    monkeypatch.setattr(scripts.train, 'train_step', step)
    train(run)
    assert torch.equal(weights(run), weights(whole))
    keys = ('train_loss', 'val_loss', 'CIDEr', 'gradient_norm', 'learning_rate')
    assert [[line[key] for key in keys] for line in run.log] == [[line[key] for key in keys] for line in whole.log]
    assert not [path for path in run.folder.iterdir() if path.name.endswith('.tmp')]


def test_the_stop_button_saves_and_running_again_continues(settings, monkeypatch, capsys):
    whole = train(open_run(settings(name='whole')))
    run = open_run(settings(name='stopped'))
    step = scripts.train.train_step

    def pressed(*args):
        if run.batch == 4:
            signal.raise_signal(signal.SIGINT)
        return step(*args)

    monkeypatch.setattr(scripts.train, 'train_step', pressed)
    with pytest.raises(KeyboardInterrupt):
        train(run)
    assert 'saved after 0 epochs and 5 batches' in capsys.readouterr().out
    monkeypatch.setattr(scripts.train, 'train_step', step)
    assert torch.equal(weights(train(open_run(settings(name='stopped')))), weights(whole))


def stopped_and_resumed(settings, phase, monkeypatch):
    """Train, killed once in the second epoch of a phase, and started again -> the finished run."""
    step, kills = scripts.train.train_step, []

    def killed(run, *args):
        if run.phase == phase and run.phase_epoch == 1 and run.batch == 1 and not kills:
            kills.append(1)
            raise SystemError('killed')
        return step(run, *args)

    monkeypatch.setattr(scripts.train, 'train_step', killed)
    with pytest.raises(SystemError):
        train(open_run(settings))
    return train(open_run(settings))


@pytest.mark.parametrize('cache', [False, True])
def test_fine_tuning_stopped_and_resumed_equals_never_stopped_to_the_bit(settings, monkeypatch, cache):
    changes = {'epochs': 1, 'tune_epochs': 2, 'tune_batch_size': 5, 'tune_cache': cache, 'save_seconds': 0}
    whole = train(open_run(settings(name='whole', **changes)))
    run = stopped_and_resumed(settings(name='stopped', **changes), 'tune', monkeypatch)
    assert torch.equal(weights(run), weights(whole))
    assert [line['CIDEr'] for line in run.log] == [line['CIDEr'] for line in whole.log]


@pytest.mark.parametrize('image', ['every', 'attention'])
@pytest.mark.parametrize('by_image', [False, True])
def test_training_on_views_stopped_and_resumed_equals_never_stopped_to_the_bit(settings, monkeypatch, image, by_image):
    changes = {'epochs': 2, 'views': 3, 'image': image, 'by_image': by_image, 'batch_size': 20, 'save_seconds': 0}
    whole = train(open_run(settings(name='whole', **changes)))
    assert whole.log[0]['val_loss'] > whole.log[1]['val_loss']
    run = stopped_and_resumed(settings(name='stopped', **changes), 'features', monkeypatch)
    assert torch.equal(weights(run), weights(whole))
    one = train(open_run(settings(name='one', **{**changes, 'views': 1})))
    assert not torch.equal(weights(one), weights(whole))


@pytest.mark.parametrize('by_image', [False, True])
def test_a_step_serves_whole_images_or_single_captions(settings, by_image):
    run, seen = open_run(settings(by_image=by_image, views=3, batch_size=10)), []
    of_rows = run.train.of_rows
    run.train.of_rows = lambda rows, which: seen.append((rows, which)) or of_rows(rows, which)
    words = run.train.lengths[run.train.indices].sum() - len(run.train.indices)
    train_one_epoch(run)
    rows, which = (np.concatenate([np.asarray(part) for part in parts]) for parts in zip(*seen, strict=True))
    assert run.sums['words'] == words and run.sums['captions'] == len(run.train.indices)
    assert len(seen) == run.sampler.batches == 6 and max(len(own) for own, _ in seen) == (2 if by_image else 10)
    assert np.array_equal(np.bincount(rows), np.full(12, 1 if by_image else 5)) and set(which) == {0, 1, 2}


def test_each_item_gets_the_features_of_its_view(settings):
    captions = open_run(settings(views=3)).train
    rows, which = torch.tensor([3, 3, 3, 0]), np.array([2, 0, 1, 1])
    found = captions.of_rows(rows, which)
    expected = [captions.views[1][3], captions.features[3], captions.views[0][3], captions.views[0][0]]
    assert torch.equal(found, torch.stack(expected).float())
    assert torch.equal(captions.of_rows(rows), captions.of_rows(rows, np.zeros(4, int)))


@pytest.mark.parametrize('changes', [
    {'image': 'attention', 'reward_baseline': 'greedy', 'views': 2}, {'tune_epochs': 1, 'tune_batch_size': 5}],
    ids=['attention', 'after tuning'])
def test_self_critical_training_stopped_and_resumed_equals_never_stopped_to_the_bit(settings, monkeypatch, changes):
    changes = {'epochs': 1, 'reward_epochs': 2, 'reward_batch_size': 5, 'save_seconds': 0, **changes}
    whole = train(open_run(settings(name='whole', **changes)))
    run = stopped_and_resumed(settings(name='stopped', **changes), 'reward', monkeypatch)
    assert torch.equal(weights(run), weights(whole))
    assert [line.get('reward') for line in run.log] == [line.get('reward') for line in whole.log]
    results, _ = final_scores(run)
    captioner = load_captioner(run.folder / 'best.pt', 'cpu')
    assert [result['caption'] for result in results] == captioner.caption([run.val.paths[row] for row in run.val.rows])


# ---- Self-critical training ----

def test_tuning_that_did_not_help_is_left_behind(settings):
    run = open_run(settings(epochs=8, learning_rate=0.01, dropout=0.0, tune_epochs=1, tune_learning_rate=1.0,
                            tune_head_rate=1.0, reward_epochs=1))
    original = {key: value.clone() for key, value in run.encoder.backbone.state_dict().items()}
    while run.phase != 'reward':
        finish_epoch(run, train_one_epoch(run), validate(run))
    assert max(run.log, key=lambda line: line['CIDEr'])['phase'] == 'features', 'the test needs tuning that harms'
    assert all(torch.equal(value, original[key]) for key, value in run.encoder.backbone.state_dict().items())
    best = max(line['CIDEr'] for line in run.log)    # the log has five digits
    assert validate(run)['CIDEr'] == pytest.approx(best, rel=1e-4)


def test_dropout_rests_while_captions_are_rewarded(settings):
    run = train(open_run(settings(epochs=1, reward_epochs=1, dropout=0.9, num_layers=2)))
    train_modes = [name for name, module in run.decoder.named_modules() if module.training]
    assert train_modes == [] and run.decoder.lstm.dropout == 0    # validation came last
    features, captions = run.encoder.embed(run.train.of_rows(torch.arange(2))), run.train.table[:2].long()
    run.decoder.lstm.train()
    assert torch.equal(run.decoder(features, captions), run.decoder(features, captions))


@pytest.mark.parametrize('baseline', ['mean', 'greedy'])
def test_the_reward_rises(settings, baseline):
    run = train(open_run(settings(epochs=3, learning_rate=0.01, reward_epochs=12, reward_batch_size=6, patience=20,
                                  reward_learning_rate=0.01, reward_baseline=baseline, reward_cross_entropy=0.0)))
    rewards = [line['reward'] for line in run.log if line['phase'] == 'reward']
    assert len(rewards) == 12 and rewards[-1] > 1.5 * rewards[0]


def test_what_is_drawn_has_text_rewards_and_advantages_that_fit(settings):
    run = train(open_run(settings(epochs=1, reward_epochs=1, reward_batch_size=4, reward_samples=3)))
    items = run.train.rows[:4]
    inputs = run.train.of_rows(torch.from_numpy(items))
    [(rows, captions, targets)], advantages, rewards = sample_captions(run, items, inputs)
    assert rows.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3] and rewards.shape == (4, 3)
    for row, (own, target) in enumerate(zip(captions.tolist(), targets.tolist(), strict=True)):
        length = own.index(1) + 1 if 1 in own else len(own)
        assert own[0] == 0 and target[0] == -100 and run.vocab.unk_id not in own
        assert target[1:length] == own[1:length] and set(target[length:]) <= {-100}
        reward = run.reward([own[:length]], items[rows[row]:rows[row] + 1])
        assert reward.item() == pytest.approx(rewards[rows[row], row % 3].item(), abs=1e-5)
    others = (rewards.sum(1, keepdim=True) - rewards) / 2
    assert torch.allclose(advantages, (rewards - others).flatten())
    assert torch.allclose(advantages.view(4, 3).sum(1), torch.zeros(4), atol=1e-5)


def test_the_policy_gradient_makes_better_captions_likelier():
    scores = torch.zeros(2, 3, 5, requires_grad=True)
    targets = torch.tensor([[-100, 3, 1], [-100, 4, -100]])
    policy_loss(scores, targets, torch.tensor([0.5, -0.2])).backward()
    assert scores.grad[0, 1, 3] < 0 and scores.grad[0, 2, 1] < 0 < scores.grad[1, 1, 4]
    assert torch.equal(scores.grad.abs().sum(-1) > 0, targets != -100)
    assert scores.grad[0, 1, 3].item() == pytest.approx(-0.5 * (1 - 0.2) / 3)    # three words


# ---- Other models ----

@pytest.mark.parametrize('changes', [{'image': 'first', 'tied': True, 'embed_size': 24}, {'image': 'state'},
                                     {'image': 'attention', 'num_layers': 2}], ids=lambda changes: changes['image'])
def test_every_way_of_the_image_trains_and_is_rebuilt_from_its_checkpoint(settings, changes):
    run = train(open_run(settings(epochs=30, patience=30, learning_rate=0.01, dropout=0.0, label_smoothing=0.0,
                                  **changes)))
    results, scores = final_scores(run)
    assert scores['CIDEr'] > 0.5
    captioner = load_captioner(run.folder / 'best.pt', 'cpu')
    assert captioner.decoder.image == changes['image']
    assert [result['caption'] for result in results] == captioner.caption([run.val.paths[row] for row in run.val.rows])


def test_grids_stay_on_disk(settings, dataset):
    run = open_run(settings(image='attention'))
    dataset = scripts.train.CoCoDataset(None, 'train', 4, run.vocab, str(annotation_file(dataset, 'train')),
                                        image_folder(dataset, 'train'), str(dataset))
    features, _, _ = split_features(run.encoder, run.settings.cocoapi_loc, 'train')
    captions = scripts.train.Captions.of_split(dataset, features)
    assert isinstance(features, np.memmap) and features.shape == (12, 49, 512)
    features[3, 2, 1] = 7    # in memory alone: the map is copied where it is written to
    assert captions.features[3, 2, 1] == 7 and run.train.features[3, 2, 1] != 7


# ---- Fine-tuning ----

@pytest.mark.parametrize('cache', [False, True])
def test_fine_tuning_changes_the_last_stages_and_nothing_else_of_the_encoder(settings, dataset, cache):
    run = open_run(settings(epochs=1, tune_epochs=2, tune_stages=2, tune_batch_size=4, tune_cache=cache))
    before = {key: value.clone() for key, value in run.encoder.backbone.state_dict().items()}
    train(run)
    changed = {key.split('.')[0] for key, value in run.encoder.backbone.state_dict().items()
               if not torch.equal(value, before[key])}
    assert changed == {'layer3', 'layer4'}
    statistics = [key for key in before if 'running' in key or 'num_batches' in key]
    assert all(torch.equal(run.encoder.backbone.state_dict()[key], before[key]) for key in statistics)
    assert [line['phase'] for line in run.log] == ['features', 'tune', 'tune']
    state = read_checkpoint(run.folder / 'last.pt')['encoder']['state']
    assert {key.split('.')[1] for key in state if key.startswith('backbone.')} == {'layer3', 'layer4'}
    final_scores(run)    # from features of the tuned encoder, as the captioner has them
    expected = load_captioner(run.folder / 'best.pt', 'cpu').features([run.val.paths[row] for row in run.val.rows])
    error = (run.val.features[run.val.rows].float() - expected).abs().mean() / expected.abs().mean()
    assert error < 0.02


def test_fine_tuning_goes_on_from_the_best_epoch(settings, monkeypatch):
    run, seen, enter = open_run(settings(epochs=4, learning_rate=0.1, tune_epochs=1)), [], scripts.train.enter_phase

    def entering(run, phase):
        best = read_checkpoint(run.folder / 'best.pt')
        state = run.decoder.state_dict()
        seen.append((phase, best['epoch'], all(torch.equal(state[key], own) for key, own in
                                               best['decoder']['state'].items())))
        enter(run, phase)

    monkeypatch.setattr(scripts.train, 'enter_phase', entering)
    train(run)
    best = max(run.log[:4], key=lambda line: line['CIDEr'])['epoch']
    assert best < 4, 'the test needs a last epoch that is not the best'
    assert seen == [('tune', best, True)]


def test_a_phase_ends_when_the_scores_do_not_improve(settings, capsys):
    run = train(open_run(settings(epochs=9, learning_rate=0.0, patience=2)))
    best = max(run.log, key=lambda line: line['CIDEr'])['epoch']
    assert run.epoch == best + 2 < 9 and 'no better CIDEr in 2 epochs' in capsys.readouterr().out
    again = open_run(settings(epochs=9, learning_rate=0.0, patience=2))
    assert again.finished and again.epoch == run.epoch


def test_a_run_starts_from_the_weights_of_a_checkpoint_that_fits(settings, capsys):
    first = train(open_run(settings(epochs=2, learning_rate=0.01)))
    second = open_run(settings(start=str(first.folder / 'last.pt'), epochs=1))
    assert second.folder != first.folder and torch.equal(weights(first), weights(second))
    with pytest.raises(ValueError, match='does not fit: decoder hidden_size: 24 there, 20 here'):
        open_run(settings(start=str(first.folder / 'last.pt'), hidden_size=20))
    with pytest.raises(ValueError, match='words in the vocabulary: .* there, .* here'):
        open_run(settings(start=str(first.folder / 'last.pt'), vocab_threshold=20))


def test_fine_tuning_alone_from_a_checkpoint_equals_fine_tuning_after_training(settings):
    both = train(open_run(settings(name='both', epochs=1, tune_epochs=1)))
    first = train(open_run(settings(name='first', epochs=1)))
    second = open_run(settings(name='second', epochs=0, tune_epochs=1, start=str(first.folder / 'best.pt')))
    assert second.phase == 'tune'
    train(second)
    assert second.log[0]['train_loss'] == pytest.approx(both.log[1]['train_loss'], rel=0.05)
    changes = {'name': 'third', 'epochs': 0, 'reward_epochs': 1, 'reward_batch_size': 5}
    third = open_run(settings(start=str(second.folder / 'last.pt'), **changes))    # best.pt may be from before tuning
    captioner = load_captioner(second.folder / 'last.pt', 'cpu')
    rows = third.val.rows[:3]
    features = captioner.features([third.val.paths[row] for row in rows])
    assert torch.allclose(third.val.features[rows].float(), features, rtol=0.02, atol=0.02)    # of the tuned encoder
    train(third)
    whole, again = weights(third), open_run(settings(start=str(second.folder / 'last.pt'), **changes))
    assert again.finished and torch.equal(weights(again), whole)
    results, _ = final_scores(third)
    captioner = load_captioner(third.folder / 'best.pt', 'cpu')    # it holds the tuned stages
    paths = [third.val.paths[row] for row in third.val.rows]
    assert [result['caption'] for result in results] == captioner.caption(paths)


def test_a_start_from_another_backbone_is_refused(settings):
    first = train(open_run(settings(epochs=1)))
    state = read_checkpoint(first.folder / 'best.pt')
    state['encoder']['backbone_hash'] = '0' * 16
    save_checkpoint(first.folder / 'odd.pt', state)
    with pytest.raises(ValueError, match='hash of the backbone.*0000000000000000 there'):
        open_run(settings(name='other', start=str(first.folder / 'odd.pt')))


@pytest.mark.parametrize(('changes', 'words'), [
    ({'reward_samples': 1}, 'reward_samples=1'), ({'reward_baseline': 'best'}, "reward_baseline='best'"),
    ({'batch_size': 0}, 'batch_size=0'), ({'seed': -1}, 'seed=-1'), ({'tune_stages': 0}, 'tune_stages=0'),
    ({'epochs': 0}, 'nothing to train'), ({'epochs': 0, 'tune_epochs': 2}, 'nothing to train'),
    ({'tune_epochs': 1, 'tune_stages': 6}, 'tune_stages=6: resnet18 has 6'),
    ({'name': 'a/b'}, "name='a/b'"), ({'name': ''}, "name=''"),
])
def test_settings_that_make_no_sense_are_refused(settings, changes, words):
    with pytest.raises(ValueError, match=words):
        open_run(settings(**changes))


def test_a_name_with_odd_characters_is_a_name(settings):
    first = open_run(settings(name='a[1]*'))
    assert open_run(settings(name='a[1]*')).folder == first.folder
    assert open_run(settings(name='a[1]*', hidden_size=20)).folder.name == 'a[1]*-2'


def test_running_out_of_memory_names_the_setting_to_lower(settings, monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB.')

    monkeypatch.setattr(scripts.train, 'train_step', full)
    with pytest.raises(RuntimeError, match=r'epoch 1, batch 1: lower batch_size \(now 8\)'):
        train_one_epoch(open_run(settings()))


def test_training_and_decoding_need_neither_nltk_nor_pycocotools():
    code = """if True:
        import sys
        for name in ('nltk', 'pycocotools', 'pycocoevalcap', 'matplotlib'):
            sys.modules[name] = None
        import model, scripts.batches, scripts.decoding, scripts.train
    """
    subprocess.run([sys.executable, '-c', code], check=True, cwd=Path(model.__file__).parent)


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
    (lambda state: state['decoder']['sizes'].update(hidden_size=30), ['lstm.weight_hh_l0', '[96, 24]', '[120, 30]']),
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


def test_a_checkpoint_of_another_model_loads_with_the_classes_of_that_file(settings, tmp_path, monkeypatch):
    edited = tmp_path / 'model.py'
    edited.write_text(Path(model.__file__).read_text().replace(
        'self.linear = nn.Linear(hidden_size, vocab_size)',
        'self.linear = nn.Sequential(nn.Linear(hidden_size, 9), nn.Linear(9, vocab_size))'))
    with monkeypatch.context() as edit:
        edit.setattr(scripts.train, 'model', load_model_file(edited))
        run = train(open_run(settings(epochs=1)))
        expected = run.captioner.caption_features(run.val.features[run.val.rows])
    with pytest.raises(ValueError, match=r'linear.0.weight: \[9, 24\] there, nothing here.*model_file'):
        load_captioner(run.folder / 'best.pt')
    captioner = load_captioner(run.folder / 'best.pt', 'cpu', model_file=run.folder / 'model.py')
    assert captioner.caption([run.val.paths[row] for row in run.val.rows]) == expected
    with pytest.raises(ValueError, match=r'model.py \(.*linear.weight: nothing there'):    # another file's classes
        load_captioner(run.folder / 'best.pt', model_file=model.__file__)
    with pytest.raises(FileNotFoundError, match='model_file'):
        load_captioner(run.folder / 'best.pt', model_file=tmp_path / 'gone.py')


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
