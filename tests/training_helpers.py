"""What the tests of training share: a tiny run, its weights, an edited model file, a kill."""

import contextlib
from pathlib import Path

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

import model
from captioning import training
from captioning.caption_data import find_data
from captioning.drawn_captions import DrawnCaptions
from captioning.training import epoch, finish_epoch, make_settings, train_one_epoch, validate

TINY = {'name': 'squares', 'backbone': 'resnet18', 'vocab_threshold': 1, 'embed_size': 16,
        'hidden_size': 24, 'batch_size': 8, 'epochs': 2, 'image_size': 64}


def tiny_settings(data_folder, backbone_weights, **changes):
    """Settings of a run that takes a second or two."""
    values = {**TINY, 'cocoapi_loc': str(data_folder), 'weights': backbone_weights}
    return make_settings(**{**values, **changes})


def open_run(settings, device=None):
    """Open a run on the data set that its settings name."""
    return training.open_run(settings, find_data(settings.cocoapi_loc), device)


def train(run):
    while not run.finished:
        finish_epoch(run, train_one_epoch(run), validate(run))
    return run


def weights(run):
    """All trained weights as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in run.phase.parameters])


def val_paths(run):
    return [run.val.paths[row] for row in run.val.rows]


def edited_model(path, *edits):
    """Write model.py to `path`, edited by (text, what stands there instead) pairs -> path."""
    source = Path(model.__file__).read_text()
    for before, after in edits:
        assert source.count(before) == 1, f'model.py has this text {source.count(before)} times'
        source = source.replace(before, after)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return path


def drawn_captions(lists):
    """DrawnCaptions that are lists of ids."""
    ids = pad_sequence([torch.tensor(ids, dtype=torch.long) for ids in lists], batch_first=True)
    return DrawnCaptions(ids, torch.tensor([len(ids) for ids in lists]))


@contextlib.contextmanager
def before_each_step(function):
    """Within the block `function()` is called before each training step."""
    step = epoch.train_step

    def after_function(*arguments):
        function()
        return step(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epoch, 'train_step', after_function)
        yield


def train_until_killed(run, when):
    """Train a run up to the step before which `when(run)` is true; there it is killed."""
    def kill():
        if when(run):
            raise SystemError('killed')

    with before_each_step(kill), pytest.raises(SystemError, match='killed'):
        train(run)
