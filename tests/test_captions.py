"""What a batch holds: features and targets of captions, and images with all their captions."""

import numpy as np
import pytest
import torch

from captioning.caption_data import CaptionData
from captioning.captions import Captions
from captioning.losses import IGNORED
from data_loader import CoCoDataset


@pytest.fixture
def texts(dataset, tmp_path, isolated_root):
    """The captions of 12 images, as the data loader has them."""
    data = CaptionData(dataset)
    return CoCoDataset(None, 'train', 8, data.vocabulary(1), data, str(tmp_path))


@pytest.fixture
def captions(texts):
    features = np.random.default_rng(0).random((12, 6)).astype(np.float16)
    return Captions.of_split(texts, features)


@pytest.mark.parametrize('groups', [1, 3])
def test_targets_are_the_captions_without_start_and_padding(captions, texts, groups):
    indices = np.array([4, 17, 30, 2, 59, 8, 21])
    features = captions.features_of(captions.image_rows[indices])
    assert features.shape == (7, 6) and features.dtype == torch.float32
    served = []
    for inputs, ids, targets in captions.grouped_targets(indices, groups):
        assert ids.shape == targets.shape
        assert (targets != IGNORED).any(0)[1:].all(), 'a column of padding alone'
        for number, caption, target in zip(inputs.tolist(), ids, targets, strict=True):
            words = texts.caption_ids(indices[number])
            assert torch.equal(caption[:len(words)], words)
            assert (caption[len(words):] == texts.vocab.end_id).all()
            assert target[0] == IGNORED and torch.equal(target[1:len(words)], words[1:])
            assert (target[len(words):] == IGNORED).all()
            row = texts.image_rows[indices[number]]
            assert torch.equal(features[number], captions.features[row].float())
            served.append(number)
    assert sorted(served) == list(range(7))


def test_images_come_with_all_their_captions(captions, texts):
    rows = np.array([7, 0, 11])
    indices = captions.captions_of_images(rows)
    assert sorted(indices) == [*range(5), *range(35, 40), *range(55, 60)]
    seen = []
    for inputs, ids, _ in captions.targets_of_images(rows, groups=4):
        for number, caption in zip(inputs.tolist(), ids.tolist(), strict=True):
            of_image = captions.captions_of_images(rows[[number]])
            expected = [texts.caption_ids(index).tolist() for index in of_image]
            assert any(caption[:len(text)] == text for text in expected)
            seen.append(number)
    assert sorted(seen) == [0] * 5 + [1] * 5 + [2] * 5


def test_the_scored_words_are_counted(captions):
    indices = np.array([4, 17, 30])
    scored = [(group.targets != IGNORED).sum() for group in captions.grouped_targets(indices, 2)]
    assert captions.words(indices) == sum(scored)


@pytest.mark.parametrize('shape', [(12, 6), (12, 4, 6)], ids=['pooled', 'grid'])
def test_each_item_gets_the_features_of_its_view(texts, shape):
    views = np.random.default_rng(0).random((3, *shape)).astype(np.float16)
    captions = Captions.of_split(texts, views[0], views=list(views[1:]))
    rows, chosen = np.array([3, 3, 3, 0]), np.array([2, 0, 1, 1])
    expected = torch.from_numpy(views[chosen, rows]).float()
    assert torch.equal(captions.features_of(rows, chosen), expected)
    assert torch.equal(captions.features_of(rows), captions.features_of(rows, np.zeros(4, int)))


def test_unusable_images_and_endless_captions_are_left_out(captions):
    usable = np.ones(12, bool)
    usable[[1, 4]] = False
    lengths = captions.lengths.copy()
    lengths[0] = 103
    parts = captions.features, captions.image_rows, captions.table, lengths
    kept = Captions(*parts, usable)
    assert len(kept.indices) == 49 and 0 not in kept.indices
    assert kept.rows.tolist() == [0, 2, 3, 5, 6, 7, 8, 9, 10, 11]
    assert len(kept.captions_of_images(np.array([0]))) == 4
    with pytest.raises(ValueError, match='nothing to train on'):
        Captions(*parts, np.zeros(12, bool))


def test_captions_that_are_too_long_are_counted_and_left_out(texts, capsys, monkeypatch):
    monkeypatch.setattr('captioning.captions.LONGEST', 5)
    captions = Captions.of_split(texts, np.zeros((12, 6), np.float16))
    assert 'captions of more than 5 words are left out' in capsys.readouterr().out
    assert captions.lengths[captions.indices].max() <= 7 and captions.table.shape[1] == 7
    assert 0 < len(captions.indices) < 60
