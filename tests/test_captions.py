"""What a batch holds: features and targets of captions, and images with all their captions."""

import numpy as np
import pytest
import torch

from captioning.batch_targets import BatchTargets, groups_of_like_length
from captioning.caption_data import CaptionData
from captioning.captions import Captions
from captioning.training.steps import ImageItems
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


def targets_of(captions, *batches, groups=1):
    """BatchTargets of batches of captions, each an input of its own."""
    return BatchTargets(captions, [(batch, np.arange(len(batch))) for batch in batches], groups)


@pytest.mark.parametrize('groups', [1, 3])
def test_targets_are_the_words_after_the_start(captions, texts, groups):
    batches = np.array([4, 17, 30, 2, 59, 8, 21]), np.array([1, 40]), np.array([9])
    targets = targets_of(captions, *batches, groups=groups)
    assert len(targets) == 3
    for indices, batch in zip(batches, targets, strict=True):
        served = []
        for inputs, ids, scored, words in batch:
            expected = [texts.caption_ids(indices[number]) for number in inputs]
            assert ids.shape == (len(inputs), max(map(len, expected)))
            for caption, text in zip(ids, expected, strict=True):
                assert torch.equal(caption[:len(text)], text)
                assert (caption[len(text):] == texts.vocab.end_id).all()
            assert torch.equal(words, torch.cat([text[1:] for text in expected]))
            assert torch.equal(ids.flatten()[scored], words)
            assert (scored % ids.shape[1] > 0).all() and len(scored.unique()) == len(scored)
            served += inputs.tolist()
        assert sorted(served) == list(range(len(indices)))
        assert captions.words(indices) == sum(len(group.targets) for group in batch)


@pytest.mark.parametrize('count', [1, 2, 5, 128])
@pytest.mark.parametrize('groups', [1, 3, 4])
def test_groups_of_like_length_are_a_partition(count, groups):
    sizes = np.array([count, 3, count])
    lengths = np.random.default_rng(0).integers(5, 30, sizes.sum())
    order, first_of_group = groups_of_like_length(lengths, sizes, groups)
    assert sorted(order) == list(range(len(lengths)))
    parts = np.split(order, first_of_group[1:])
    batch = np.repeat(np.arange(3), sizes)
    assert all(len(part) and len({*batch[part]}) == 1 for part in parts)
    assert np.bincount([batch[part[0]] for part in parts]).max() <= groups
    for shorter, longer in zip(parts, parts[1:], strict=False):
        if batch[shorter[0]] == batch[longer[0]]:
            assert lengths[shorter].max() <= lengths[longer].min()


def test_images_come_with_all_their_captions(captions, texts):
    rows = np.array([7, 0, 11])
    indices = captions.captions_of_images(rows)
    assert sorted(indices) == [*range(5), *range(35, 40), *range(55, 60)]
    assert captions.caption_counts(rows).tolist() == [5, 5, 5]
    items = ImageItems(captions, 3)
    assert np.array_equal(items.caption_indices(rows), indices)
    inputs_of_captions = items.inputs_of_captions(rows)
    assert np.array_equal(captions.image_rows[indices], rows[inputs_of_captions])


def test_batches_of_features_are_those_of_their_rows(captions):
    batches = [np.array([3, 0]), np.array([11]), np.array([5, 5, 5])]
    served = list(captions.feature_batches(batches))
    assert [len(features) for features in served] == [2, 1, 3]
    for rows, features in zip(batches, served, strict=True):
        assert features.dtype == torch.float32
        assert torch.equal(features, captions.features[rows].float())


@pytest.mark.parametrize('shape', [(12, 6), (12, 4, 6)], ids=['pooled', 'grid'])
def test_each_item_gets_the_features_of_its_view(texts, shape):
    views = np.random.default_rng(0).random((3, *shape)).astype(np.float16)
    captions = Captions.of_split(texts, views[0], views=list(views[1:]))
    rows, chosen = np.array([3, 3, 3, 0]), np.array([2, 0, 1, 1])
    expected = torch.from_numpy(views[chosen, rows]).float()
    captions.to('cpu')
    assert torch.equal(captions.features_of(rows, chosen), expected)
    first = captions.features_of(rows, np.zeros(4, int))
    assert torch.equal(captions.features_of(rows), first)
    batch, = captions.feature_batches([rows], [chosen])
    assert torch.equal(batch, expected)


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
