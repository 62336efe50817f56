"""A run that was stopped or killed, and started again, equals one that never was, to the bit."""

import signal

import pytest
import torch
from training_helpers import (
    before_each_step,
    open_run,
    train,
    train_until_killed,
    val_paths,
    weights,
)

from captioning.captioner import load_captioner
from captioning.training import final_scores
from captioning.training.self_critical_phase import SelfCriticalPhase


def logged(run, *keys):
    return [[line.get(key) for key in keys] for line in run.log]


def killed_and_resumed(settings, phase):
    """Train, killed in the second epoch of a phase, and started again -> the finished run."""
    train_until_killed(open_run(settings), lambda run: (
        run.phase.name == phase and run.phase_epoch == 1 and run.batch == 1))
    return train(open_run(settings))


def test_killed_and_resumed_equals_never_stopped_to_the_bit(settings):
    uninterrupted = train(open_run(settings(name='uninterrupted', save_seconds=0)))
    killed = settings(name='killed', save_seconds=0)
    for stop in ((0, 2), (0, 7), (1, 2)):    # in the first epoch, at its end, in the second
        train_until_killed(open_run(killed),
                           lambda run, stop=stop: (run.epoch, run.batch) == stop)
    run = train(open_run(killed))
    assert torch.equal(weights(run), weights(uninterrupted))
    keys = 'train_loss', 'val_loss', 'CIDEr', 'gradient_norm', 'learning_rate'
    assert logged(run, *keys) == logged(uninterrupted, *keys)
    assert not list(run.folder.glob('*.tmp')) and not list(run.folder.glob('.*.tmp'))


def test_the_stop_button_saves_and_running_again_continues(settings, capsys):
    uninterrupted = train(open_run(settings(name='uninterrupted')))
    run = open_run(settings(name='stopped'))

    def press():
        if run.batch == 4:
            signal.raise_signal(signal.SIGINT)

    with before_each_step(press), pytest.raises(KeyboardInterrupt):
        train(run)
    assert 'saved after 0 epochs and 5 batches' in capsys.readouterr().out
    run = train(open_run(settings(name='stopped')))
    assert 'continues after 5 batches and 0 epochs' in capsys.readouterr().out
    assert torch.equal(weights(run), weights(uninterrupted))


@pytest.mark.parametrize('reopened', [False, True])
def test_the_stop_button_as_the_next_phase_begins_loses_nothing(settings, monkeypatch, reopened):
    """Which may take an hour: all images are encoded by the CNN as it was tuned."""
    changes = {'epochs': 1, 'reward_epochs': 1, 'reward_batch_size': 3}
    uninterrupted = train(open_run(settings(name='uninterrupted', **changes)))
    run = open_run(settings(name='stopped', **changes))

    def press(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(SelfCriticalPhase, '__init__', press)
        train(run)
    if reopened:
        run = open_run(settings(name='stopped', **changes))
        assert run.phase.name == 'reward' and run.epoch == 1
    train(run)
    assert torch.equal(weights(run), weights(uninterrupted))
    assert logged(run, 'phase', 'CIDEr') == logged(uninterrupted, 'phase', 'CIDEr')


@pytest.mark.parametrize('changes', [{}, {'by_image': True}, {'image': 'attention'}],
                         ids=['captions', 'images', 'attention'])
def test_training_on_views_goes_on_to_the_bit(settings, changes):
    changes = {'views': 3, 'batch_size': 20, 'save_seconds': 0, **changes}
    uninterrupted = train(open_run(settings(name='uninterrupted', **changes)))
    assert uninterrupted.log[0]['val_loss'] > uninterrupted.log[1]['val_loss']
    run = killed_and_resumed(settings(name='killed', **changes), 'features')
    assert torch.equal(weights(run), weights(uninterrupted))
    one_view = train(open_run(settings(name='one', **{**changes, 'views': 1})))
    assert not torch.equal(weights(one_view), weights(uninterrupted))


def test_fine_tuning_goes_on_to_the_bit(settings, few_photos):
    changes = {'cocoapi_loc': few_photos, 'epochs': 1, 'tune_epochs': 2, 'tune_batch_size': 3,
               'save_seconds': 0}
    uninterrupted = train(open_run(settings(name='uninterrupted', **changes)))
    run = killed_and_resumed(settings(name='killed', **changes), 'tune')
    assert torch.equal(weights(run), weights(uninterrupted))
    assert logged(run, 'CIDEr') == logged(uninterrupted, 'CIDEr')


@pytest.mark.parametrize('changes', [
    {'image': 'attention', 'reward_baseline': 'greedy', 'views': 2},
    {'tune_epochs': 1, 'tune_batch_size': 3}], ids=['attention', 'after tuning'])
def test_self_critical_training_goes_on_to_the_bit(settings, few_photos, changes):
    changes = {'cocoapi_loc': few_photos, 'epochs': 1, 'reward_epochs': 2, 'reward_batch_size': 3,
               'save_seconds': 0, **changes}
    uninterrupted = train(open_run(settings(name='uninterrupted', **changes)))
    run = killed_and_resumed(settings(name='killed', **changes), 'reward')
    assert torch.equal(weights(run), weights(uninterrupted))
    assert logged(run, 'reward') == logged(uninterrupted, 'reward')
    results, _ = final_scores(run)
    captioner = load_captioner(run.folder / 'best.pt', 'cpu')
    assert [result['caption'] for result in results] == captioner.caption(val_paths(run))
