"""Who is served when: an epoch's order, its batches, and each process's share of them.

    sampler = EpochSampler(captions.indices, batch_size=128, seed=0)
    sampler.set_epoch(3)            # each epoch has an order of its own, the same at each start
    for indices in sampler: ...
"""

import numpy as np


class EpochSampler:
    """Serves each of `items` exactly once an epoch, in batches, in random order.

    Seed and epoch determine the order. Yields arrays of at most batch_size items, all of one size
    or of one less. With several ranks, each gets its share of every batch: the shares do not
    overlap and together are the batch of a single rank. Works as the batch_sampler of a DataLoader
    too. Raises ValueError if there are too few items for the ranks.
    """

    def __init__(self, items, batch_size, seed=0, rank=0, ranks=1):
        self.items, self.seed = np.asarray(items), seed
        self.rank, self.ranks = rank, ranks
        if batch_size < 1:
            raise ValueError(f'batch_size={batch_size}: expected a whole number from 1.')
        self.batches = -(-len(self.items) // batch_size)
        if len(self.items) < self.batches * ranks:
            raise ValueError(
                f'batch_size={batch_size}: {len(self.items)} items in {self.batches} batches '
                f'cannot be shared among {ranks} processes. Expected at least one each.')
        self._shuffled_for = None
        self.set_epoch(0)

    def set_epoch(self, epoch, batch=0):
        """Go to an epoch (of the first, 0), and in it to a batch: those before are not served."""
        self.epoch, self.batch = epoch, batch

    def __len__(self):
        """Batches that are left of the epoch."""
        return self.batches - self.batch

    def bounds(self, batch):
        """Where a batch begins and ends among the shuffled items: sizes differ by one at most."""
        first = len(self.items) * batch // self.batches
        return first, len(self.items) * (batch + 1) // self.batches

    def global_batch(self, batch):
        """The items of one batch of the epoch, of all ranks together."""
        if self._shuffled_for != (self.epoch, self.seed):
            random = np.random.default_rng([self.seed, self.epoch])
            self._order = random.permutation(self.items)
            self._shuffled_for = (self.epoch, self.seed)
        start, end = self.bounds(batch)
        return self._order[start:end]

    def __iter__(self):
        for batch in range(self.batch, self.batches):
            yield self.global_batch(batch)[self.rank::self.ranks]


def random_views(seed, epoch, items, views):
    """Which of so many views of its image each of `items` items is shown in an epoch -> (items,).

    An item's view does not depend on the batch and the process that serve it.
    """
    return np.random.default_rng([seed, epoch, 1]).integers(views, size=items)
