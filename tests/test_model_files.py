"""Model files: other classes by --model-file, and modules of the repository that one imports."""

import sys

import pytest
import torch
from training_helpers import edited_model, open_run, train, train_until_killed, val_paths, weights

import model
import scripts.train
from captioning import files
from captioning.captioner import load_captioner
from captioning.checkpoint import read_checkpoint
from captioning.training.settings import read_arguments

GRU = (
    ('self.lstm = nn.LSTM(', 'self.lstm = nn.GRU('),
    ('state = tuple(part.transpose(0, 1).contiguous() for part in state)',
     'state = state[0].transpose(0, 1).contiguous()'),
    ('return hidden, tuple(part.transpose(0, 1) for part in state)',
     'return hidden, (state.transpose(0, 1),)'),
)


def flags_of(settings):
    """The flags that give these settings, those that differ from the defaults."""
    default, _ = read_arguments('Train.', ['--model-file', settings.model_file])
    changed = {name: value for name, value in vars(settings).items()
               if value != getattr(default, name)}
    changed['model_file'] = settings.model_file
    return [f'--{name.replace("_", "-")}={value}' for name, value in changed.items()]


def test_the_command_trains_and_resumes_the_classes_of_a_model_file(
        settings, tmp_path, monkeypatch, capsys):
    file = edited_model(tmp_path / 'gru' / 'model.py', *GRU)
    options = settings(name='gru', model_file=str(file), save_seconds=0)
    uninterrupted = train(open_run(settings(name='other', model_file=str(file))))
    train_until_killed(open_run(options), lambda run: run.epoch == 1 and run.batch == 3)
    capsys.readouterr()
    monkeypatch.setattr(sys, 'argv', ['train', *flags_of(options)])
    scripts.train.main()
    assert 'gru: continues after 3 batches and 1 epochs' in capsys.readouterr().out
    folder = files.RUNS / 'gru'
    state = read_checkpoint(folder / 'last.pt')['decoder']['state']
    assert state['lstm.weight_ih_l0'].shape == (3 * 24, 16)    # an LSTM has 4 gates
    assert all(torch.equal(value, state[key])
               for key, value in uninterrupted.model.decoder.state_dict().items())
    assert (folder / 'model.py').read_text() == file.read_text()
    assert not (folder / 'imports').exists()


