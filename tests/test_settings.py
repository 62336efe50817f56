"""Settings: those of training, and each argument of the model, in Python and as flags."""

import json
from dataclasses import asdict

import pytest
from training_helpers import edited_model, open_run

import model
from captioning import augmentations, losses, rewards
from captioning.checkpoint import read_checkpoint
from captioning.model_files import model_arguments
from captioning.training import make_settings
from captioning.training.settings import read_arguments
from captioning.transforms import make_pixels


@pytest.fixture
def depth_model(tmp_path):
    """A model file whose decoder has one argument more."""
    return edited_model(
        tmp_path / 'depth' / 'model.py',
        ("image='every', tied=False):", "image='every', tied=False, depth=3, bias=True):"),
        ('    num_layers: of the LSTM\n',
         '    num_layers: of the LSTM\n    depth: how deep 100 % of the water\n'
         '        below the bridge is\n'))


def flags_of(*arguments, capsys):
    """The text of --help, without its line breaks."""
    with pytest.raises(SystemExit) as end:
        read_arguments('Train.', [*arguments, '--help'])
    assert end.value.code == 0
    return ' '.join(capsys.readouterr().out.split())


# ---- The arguments of the model ----

def test_a_new_argument_of_the_decoder_is_a_setting_and_a_flag(depth_model, capsys):
    file = str(depth_model)
    assert make_settings(model_file=file).depth == 3
    assert make_settings(model_file=file, depth=5, bias=False).depth == 5
    with pytest.raises(TypeError, match='depth'):
        make_settings(depth=5)    # model.py has none
    flags = ['--model-file', file, '--depth', '7', '--no-bias', '--epochs', '2']
    settings, device = read_arguments('Train.', [*flags, '--device', 'cpu'])
    assert (settings.depth, settings.bias, settings.epochs, device) == (7, False, 2, 'cpu')
    text = flags_of('--model-file', file, capsys=capsys)
    assert '--depth DEPTH how deep 100 % of the water below the bridge is (default: 3)' in text
    assert '--bias, --no-bias' in text and '--depth' not in flags_of(capsys=capsys)


def test_a_new_argument_counts_for_the_run_and_is_kept_in_its_checkpoint(settings, depth_model):
    def opened(**changes):
        run = open_run(settings(model_file=str(depth_model), **changes))
        run.save()
        identity = json.loads((run.folder / 'settings.json').read_text())['identity']
        sizes = read_checkpoint(run.folder / 'last.pt')['decoder']['sizes']
        return run.folder.name, identity['depth'], sizes['depth']

    assert opened(depth=5) == ('squares', 5, 5)
    assert opened() == ('squares-2', 3, 3)
    assert opened(depth=5) == ('squares', 5, 5)


@pytest.mark.parametrize(('argument', 'problem'), [
    ('*, depth', 'the argument depth of the model needs a default'),
    ('depth=(3, 5)', 'depth of the model needs a default, a number'),
    ('max_len=64', 'max_len of the model has the name of a setting of training')])
def test_an_argument_that_can_be_no_setting_is_named(tmp_path, argument, problem):
    file = edited_model(tmp_path / 'model.py', ('tied=False):', f'tied=False, {argument}):'))
    with pytest.raises(ValueError, match=problem):
        make_settings(model_file=str(file))


def test_a_copy_of_model_py_trains_with_the_weights_that_ship(tmp_path):
    file = edited_model(tmp_path / 'mine' / 'my_model.py')
    assert make_settings(model_file=file).weights == make_settings().weights
    settings = make_settings(model_file=file, cocoapi_loc=tmp_path)
    assert settings.cocoapi_loc == str(tmp_path) and settings.model_file == str(file)


def test_entries_that_are_added_while_a_notebook_is_open_can_be_chosen(monkeypatch):
    """The tables are then others than those that were imported first."""
    monkeypatch.setattr(losses, 'LOSSES', {**losses.LOSSES, 'focal': None})
    monkeypatch.setattr(rewards, 'REWARDS', {**rewards.REWARDS, 'bleu': None})
    settings = make_settings(loss='focal', reward='bleu')
    assert (settings.loss, settings.reward) == ('focal', 'bleu')
    changes = augmentations.flipped, lambda size, crop: ['an edited one']
    monkeypatch.setattr(augmentations, 'AUGMENTATIONS', changes)
    assert make_pixels(64, view=2).transforms[0] == 'an edited one'


def test_what_follows_from_the_data_is_no_setting(capsys):
    settings, text = make_settings(), flags_of(capsys=capsys)
    for name in ('vocab_size', 'start_id', 'end_id', 'grid'):
        assert not hasattr(settings, name) and name.replace('_', '-') not in text
        with pytest.raises(TypeError, match=name):
            make_settings(**{name: 1})


def test_the_defaults_are_those_that_experiments_of_before_had():
    settings = make_settings()
    expected = {'embed_size': 512, 'hidden_size': 512, 'dropout': 0.5, 'num_layers': 1,
                'backbone': 'resnet50', 'weights': 'models/resnet50_v1_imagenet.pt',
                'image': 'every', 'tied': False, 'loss': 'cross_entropy', 'reward': 'cider'}
    assert {name: getattr(settings, name) for name in expected} == expected
    by_flags, device = read_arguments('Train.', [])
    assert asdict(by_flags) == asdict(settings) and device is None


def test_each_argument_of_the_model_is_described():
    arguments = model_arguments(model)
    assert list(arguments) == ['embed_size', 'backbone', 'weights', 'image_size', 'hidden_size',
                               'num_layers', 'dropout', 'image', 'tied']
    assert all(argument.help for argument in arguments.values())


# ---- Settings that make no sense ----

@pytest.mark.parametrize(('changes', 'words'), [
    ({'reward_samples': 1}, 'reward_samples=1'),
    ({'reward_baseline': 'best'}, "reward_baseline='best': expected 'mean' or 'greedy'"),
    ({'loss': 'focal'}, "loss='focal': expected 'cross_entropy'"),
    ({'reward': 'bleu'}, "reward='bleu': expected 'cider'"),
    ({'batch_size': 0}, 'batch_size=0'),
    ({'seed': -1}, 'seed=-1'),
    ({'epochs': 2.5}, 'epochs=2.5: expected a whole number'),
    ({'max_len': 2}, 'max_len=2'),
    ({'learning_rate': -1.0}, 'learning_rate=-1'),
    ({'start_with': 'cnn'}, 'needs a checkpoint to start from'),
    ({'tune_stages': 0}, 'tune_stages=0'),
    ({'epochs': 0}, 'nothing to train'),
    ({'epochs': 0, 'tune_epochs': 2}, 'nothing to train'),
    ({'tune_epochs': 1, 'tune_stages': 6}, 'tune_stages=6: resnet18 has 6'),
    ({'weights': None}, 'weights=None'),
    ({'name': 'a/b'}, "name='a/b'"),
    ({'name': ''}, "name=''"),
])
def test_settings_that_make_no_sense_are_refused(settings, changes, words):
    with pytest.raises(ValueError, match=words):
        open_run(settings(**changes))
