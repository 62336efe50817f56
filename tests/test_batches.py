"""Batches: an epoch serves each caption once, also in shares and from the middle; what a batch holds."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from data_loader import CoCoDataset, annotation_file, image_folder
from scripts.batches import Captions, EpochSampler, by_length
from vocabulary import Vocabulary


@pytest.fixture
def captions(dataset, tmp_path):
    file = str(annotation_file(dataset, 'train'))
    vocab = Vocabulary(1, str(tmp_path / 'vocab.pkl'), annotations_file=file)
    images = CoCoDataset(None, 'train', 8, vocab, file, image_folder(dataset, 'train'), str(tmp_path))
    features = np.random.default_rng(0).random((12, 6)).astype(np.float16)
    return Captions.of_split(images, features), images


def order(sampler, epoch, batch=0):
    sampler.set_epoch(epoch, batch)
    assert len(list(sampler)) == len(sampler)
    return [list(items) for items in sampler]


@pytest.mark.parametrize('count', [12, 60, 61, 1000])
@pytest.mark.parametrize('batch_size', [1, 7, 64])
def test_an_epoch_serves_each_item_once_in_an_order_of_its_own(count, batch_size):
    sampler = EpochSampler(np.arange(count) + 10, batch_size, seed=3)
    one, other = (sum(order(sampler, epoch), []) for epoch in (0, 1))
    assert sorted(one) == sorted(other) == list(range(10, 10 + count)) and one != other
    sizes = {len(items) for items in order(sampler, 0)}
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
    assert sum(order(EpochSampler(np.arange(count) + 10, batch_size, seed=3), 0), []) == one
    assert sum(order(EpochSampler(np.arange(count) + 10, batch_size, seed=4), 0), []) != one


def test_an_epoch_continues_at_any_batch():
    sampler = EpochSampler(np.arange(50), 8)
    whole = order(sampler, 2)
    for batch in range(len(whole) + 1):
        assert order(sampler, 2, batch) == whole[batch:]


@pytest.mark.parametrize('ranks', [2, 3, 8])
def test_ranks_share_each_batch_without_overlap_or_loss(ranks):
    whole = order(EpochSampler(np.arange(100), 9), 1)
    shares = [order(EpochSampler(np.arange(100), 9, rank=rank, ranks=ranks), 1) for rank in range(ranks)]
    for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert sorted(sum(parts, [])) == sorted(batch) and all(parts)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_too_few_items_for_the_ranks_are_refused():
    with pytest.raises(ValueError, match='batch_size=1: 3 items in 3 batches.*2 processes'):
        EpochSampler(np.arange(3), 1, ranks=2)


def test_it_is_a_batch_sampler_of_a_data_loader():
    data, sampler = torch.arange(20) * 10, EpochSampler(np.arange(20), 6)
    served = list(DataLoader(data, batch_sampler=sampler))
    assert [batch.tolist() for batch in served] == [[10 * i for i in items] for items in sampler]


@pytest.mark.parametrize('count', [1, 2, 5, 128])
@pytest.mark.parametrize('groups', [1, 3, 4])
def test_groups_of_like_length_are_a_partition(count, groups):
    lengths = np.random.default_rng(0).integers(5, 30, count)
    parts = by_length(lengths, groups)
    assert sorted(np.concatenate(parts)) == list(range(count)) and len(parts) <= groups and all(map(len, parts))
    for shorter, longer in zip(parts, parts[1:], strict=False):
        assert lengths[shorter].max() <= lengths[longer].min()


@pytest.mark.parametrize('groups', [1, 3])
def test_targets_are_the_captions_without_start_and_padding(captions, groups):
    captions, images = captions
    indices = np.array([4, 17, 30, 2, 59, 8, 21])
    features, texts = captions.batch(indices, groups)
    assert features.shape == (7, 6) and features.dtype == torch.float32
    served = []
    for rows, ids, targets in texts:
        assert ids.shape == targets.shape and (targets != -100).any(0)[1:].all()    # no column of padding alone
        for row, caption, target in zip(rows.tolist(), ids, targets, strict=True):
            words = images.caption_ids(indices[row])
            assert target[0] == -100 and torch.equal(target[1:len(words)], words[1:])
            assert (target[len(words):] == -100).all() and (caption[len(words):] == images.vocab.end_id).all()
            assert torch.equal(caption[:len(words)], words)
            assert torch.equal(features[row], captions.features[images.image_rows[indices[row]]].float())
            served.append(row)
    assert sorted(served) == list(range(7))


def test_images_come_with_all_their_captions(captions):
    captions, images = captions
    rows = np.array([7, 0, 11])
    own = captions.of_images(rows)
    assert sorted(own) == [*range(5), *range(35, 40), *range(55, 60)]
    seen = []
    for owners, ids, _ in captions.image_texts(rows, groups=4):
        for owner, caption in zip(owners.tolist(), ids, strict=True):
            texts = [images.caption_ids(index).tolist() for index in captions.of_images(rows[[owner]])]
            assert any(caption.tolist()[:len(text)] == text for text in texts)
            seen.append(owner)
    assert sorted(seen) == [0] * 5 + [1] * 5 + [2] * 5


def test_unusable_images_and_endless_captions_are_left_out(captions):
    captions, images = captions
    usable = np.ones(12, bool)
    usable[[1, 4]] = False
    lengths = captions.lengths.copy()
    lengths[0] = 103
    some = Captions(captions.features, captions.image_rows, captions.table, lengths, usable)
    assert len(some.indices) == 49 and 0 not in some.indices
    assert some.rows.tolist() == [0, 2, 3, 5, 6, 7, 8, 9, 10, 11] and len(some.of_images(np.array([0]))) == 4
    with pytest.raises(ValueError, match='nothing to train on'):
        Captions(captions.features, captions.image_rows, captions.table, lengths, np.zeros(12, bool))


def test_captions_that_are_too_long_are_counted_and_left_out(captions, capsys, monkeypatch):
    monkeypatch.setattr('scripts.batches.LONGEST', 5)
    some = Captions.of_split(captions[1], np.zeros((12, 6), np.float16))
    assert 'captions of more than 5 words are left out' in capsys.readouterr().out
    assert some.lengths[some.indices].max() <= 7 and 0 < len(some.indices) < 60 and some.table.shape[1] == 7
