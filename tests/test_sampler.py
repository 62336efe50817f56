"""The order of an epoch: each item once, in shares too, from the middle, and by length."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from captioning.sampler import EpochSampler, random_views


def order(sampler, epoch, batch=0):
    sampler.set_epoch(epoch, batch)
    assert len(list(sampler)) == len(sampler)
    return [list(items) for items in sampler]


@pytest.mark.parametrize('count', [12, 60, 61, 1000])
@pytest.mark.parametrize('batch_size', [1, 7, 64])
def test_an_epoch_serves_each_item_once_in_an_order_of_its_own(count, batch_size):
    items = np.arange(count) + 10
    sampler = EpochSampler(items, batch_size, seed=3)
    first, second = (sum(order(sampler, epoch), []) for epoch in (0, 1))
    assert sorted(first) == sorted(second) == items.tolist() and first != second
    sizes = {len(batch) for batch in order(sampler, 0)}
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
    assert sum(order(EpochSampler(items, batch_size, seed=3), 0), []) == first
    assert sum(order(EpochSampler(items, batch_size, seed=4), 0), []) != first


def test_an_epoch_continues_at_any_batch():
    sampler = EpochSampler(np.arange(50), 8)
    epoch = order(sampler, 2)
    for batch in range(len(epoch) + 1):
        assert order(sampler, 2, batch) == epoch[batch:]


@pytest.mark.parametrize('ranks', [2, 3, 8])
def test_ranks_share_each_batch_without_overlap_or_loss(ranks):
    epoch = order(EpochSampler(np.arange(100), 9), 1)
    samplers = [EpochSampler(np.arange(100), 9, rank=rank, ranks=ranks) for rank in range(ranks)]
    shares = [order(sampler, 1) for sampler in samplers]
    for number, (batch, parts) in enumerate(zip(epoch, zip(*shares, strict=True), strict=True)):
        assert sorted(sum(parts, [])) == sorted(batch) and all(parts)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert samplers[-1].global_batch(number).tolist() == batch


def test_bounds_tell_how_many_items_are_done():
    sampler = EpochSampler(np.arange(50), 8)
    ends = np.cumsum([len(batch) for batch in order(sampler, 0)])
    assert [sampler.bounds(batch)[1] for batch in range(7)] == ends.tolist()
    assert [sampler.bounds(batch)[0] for batch in range(1, 8)] == ends.tolist()


def test_too_few_items_for_the_ranks_are_refused():
    with pytest.raises(ValueError, match='batch_size=1: 3 items in 3 batches.*2 processes'):
        EpochSampler(np.arange(3), 1, ranks=2)


def test_it_is_a_batch_sampler_of_a_data_loader():
    data, sampler = torch.arange(20) * 10, EpochSampler(np.arange(20), 6)
    served = [batch.tolist() for batch in DataLoader(data, batch_sampler=sampler)]
    assert served == [[10 * item for item in items] for items in sampler]


def test_views_are_drawn_for_each_item_of_an_epoch():
    views = random_views(0, 1, 300, 3)
    assert np.bincount(views).min() > 60 and len(views) == 300 and views.max() == 2
    assert np.array_equal(random_views(0, 1, 300, 3), views)
    for seed, epoch in ((1, 1), (0, 2)):
        assert not np.array_equal(random_views(seed, epoch, 300, 3), views)
