"""Checkpoints: all that is needed to caption, and what is said of one that does not fit."""

import pytest
import torch
from training_helpers import edited_model, open_run, tiny_settings, train, val_paths

import model
from captioning import files
from captioning.caption_data import CaptionData
from captioning.captioner import load_captioner
from captioning.checkpoint import read_checkpoint, save_checkpoint
from captioning.features import split_features


@pytest.fixture(scope='module')
def trained(tmp_path_factory, small_weights, make_data):
    """A finished run of one epoch, shared by these tests: its folder stays as it is."""
    root = tmp_path_factory.mktemp('trained')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, 'RUNS', root / 'runs')
        patch.setattr(files, 'CACHE', root / 'cache')
        return train(open_run(tiny_settings(make_dataset(root / 'squares'), small_weights,
                                            epochs=6, learning_rate=0.01)))
