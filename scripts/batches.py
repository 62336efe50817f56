"""Captions as batches for training: who is served when, and what a batch holds. Needs numpy and torch alone.

    sampler = EpochSampler(captions.indices, batch_size=128, seed=0)
    sampler.set_epoch(3)                        # each epoch has an order of its own, the same at each start
    for indices in sampler:
        features, texts = captions.batch(indices, groups=4)

A batch is drawn at random, so that it looks like the data; inside it, captions of like length go through the decoder
together, so that little of it is padding. Axes: B batch, T caption length, C channels of a feature.
"""

import functools

import numpy as np
import torch

LONGEST = 100    # words of a caption that is trained on: one longer would pad its whole group
IGNORED = -100   # target of a position that is not scored, as PyTorch's losses have it


class EpochSampler:
    """Serves each of `items` exactly once an epoch, in batches, in a random order that (seed, epoch) determine.

    Yields arrays of at most batch_size items, all of one size or of one less. With several ranks, each gets its share
    of every batch: the shares do not overlap and together are the batch of a single rank. Works as the batch_sampler of
    a DataLoader too. Raises ValueError if there are too few items for the ranks.
    """

    def __init__(self, items, batch_size, seed=0, rank=0, ranks=1):
        self.items, self.seed, self.rank, self.ranks = np.asarray(items), seed, rank, ranks
        if batch_size < 1:
            raise ValueError(f'batch_size={batch_size}: expected a whole number from 1.')
        self.batches = -(-len(self.items) // batch_size)
        if len(self.items) < self.batches * ranks:
            raise ValueError(f'batch_size={batch_size}: {len(self.items)} items in {self.batches} batches cannot be '
                             f'shared among {ranks} processes. Expected at least one each.')
        self.set_epoch(0)

    def set_epoch(self, epoch, batch=0):
        """Go to an epoch (of the first, 0), and in it to a batch: the first `batch` are not served."""
        self.epoch, self.batch = epoch, batch

    def __len__(self):
        """Batches that are left of the epoch."""
        return self.batches - self.batch

    def bounds(self, batch):
        """Where a batch begins and ends among the shuffled items; batches differ in size by at most one."""
        return len(self.items) * batch // self.batches, len(self.items) * (batch + 1) // self.batches

    def whole(self, batch):
        """The items of one batch of the epoch, of all ranks together."""
        key = (self.epoch, self.seed)
        if getattr(self, '_key', None) != key:
            self._order, self._key = np.random.default_rng([self.seed, self.epoch]).permutation(self.items), key
        start, end = self.bounds(batch)
        return self._order[start:end]

    def __iter__(self):
        for batch in range(self.batch, self.batches):
            yield self.whole(batch)[self.rank::self.ranks]


def by_length(lengths, groups):
    """Split a batch into `groups` of like length: positions sorted by length, as a list of arrays, none empty."""
    order = np.argsort(lengths, kind='stable')
    size = -(-len(order) // groups)
    return [order[start:start + size] for start in range(0, len(order), size)]


class Captions:
    """The captions of one split and the features of its images, as tensors on one device.

    features: (N, C), one row an image, or (N, P, C), which stay on disk. image_rows: (captions,), the row of each
    caption's image. table: (captions, T) ids, each [start, words..., end, padding]; lengths: (captions,), with start
    and end. usable: bool for each row, the images that may be used; image_ids and paths: of each row's image.
    views: more features (N, ...), of the same images flipped or cropped.
    Attributes: these, `indices` of the usable captions, and `rows` of the usable images that have some.
    """

    def __init__(self, features, image_rows, table, lengths, usable, image_ids=None, paths=None, views=()):
        self.image_ids, self.paths = image_ids, paths
        self.image_rows, self.lengths = np.asarray(image_rows), np.asarray(lengths)
        self.indices = np.flatnonzero(usable[self.image_rows] & (self.lengths <= LONGEST + 2))
        self.rows = np.unique(self.image_rows[self.indices])
        if not len(self.indices):
            where = f' in {paths[0].parent}' if paths else ''
            raise ValueError(f'none of the images with captions{where} could be read: nothing to train on.')
        self.features, self.table, self.views = features, table, list(views)
        self._rows, self._lengths = torch.from_numpy(self.image_rows), torch.from_numpy(self.lengths)

    @classmethod
    def of_split(cls, dataset, features, unreadable=(), limit=None, views=()):
        """Captions of a CoCoDataset: of its first `limit` images, without those whose rows are in `unreadable`."""
        lengths = np.array(dataset.caption_lengths) + 2
        if too_long := int((lengths > LONGEST + 2).sum()):
            print(f'{too_long} captions of more than {LONGEST} words are left out')
        table = torch.full((len(lengths), min(lengths.max(), LONGEST + 2)), dataset.vocab.end_id, dtype=torch.int32)
        for start in range(0, len(lengths), 10_000):    # in pieces, since numpy needs several times the memory
            ids, _ = dataset.padded_ids(np.arange(start, min(start + 10_000, len(lengths))))
            width = min(ids.shape[1], table.shape[1])
            table[start:start + len(ids), :width] = ids[:, :width]
        usable = np.ones(len(dataset.paths), bool)
        usable[list(unreadable)] = False
        usable[len(usable) if limit is None else limit:] = False
        features, *views = (torch.from_numpy(np.array(seen) if seen.ndim == 2 else seen)    # grids stay on disk
                            for seen in (features, *views))
        return cls(features, dataset.image_rows, table, lengths, usable, dataset.image_ids,
                   [dataset.img_folder / path for path in dataset.paths], views)

    def to(self, device):
        """Move everything that a batch is made of, so that making one needs no copy from the processor's memory."""
        for name in ('table', '_rows', '_lengths', *['features'] * (self.features.ndim == 2)):
            setattr(self, name, getattr(self, name).to(device))
        self.views = [seen.to(device) if seen.ndim == 2 else seen for seen in self.views]
        return self

    def texts(self, indices, groups=1, owners=None):
        """Captions in groups of like length -> list of (rows (b,), captions (b, T), targets (b, T)).

        rows: which of the indices they are, or their `owners` where given. A target is IGNORED at position 0 and where
        padded.
        """
        texts = []
        for which in by_length(self.lengths[indices], groups):
            own = torch.from_numpy(indices[which]).to(self.table.device)
            captions = self.table[own, :int(self.lengths[indices[which[-1]]])].long()
            position = torch.arange(captions.shape[1], device=captions.device)
            unscored = (position == 0) | (position >= self._lengths[own][:, None])
            rows = torch.from_numpy(which if owners is None else owners[which]).to(captions.device)
            texts.append((rows, captions, captions.masked_fill(unscored, IGNORED)))
        return texts

    @functools.cached_property
    def _of_image(self):
        order = self.indices[np.argsort(self.image_rows[self.indices], kind='stable')]
        return dict(zip(self.rows, np.split(order, np.flatnonzero(np.diff(self.image_rows[order])) + 1), strict=True))

    def of_images(self, rows):
        """Indices of all captions of the images `rows`, image after image."""
        return np.concatenate([self._of_image[row] for row in rows])

    def image_texts(self, rows, groups=1):
        """The `texts` of all captions of the images `rows`, with positions in `rows` as their rows."""
        owners = np.repeat(np.arange(len(rows)), [len(self._of_image[row]) for row in rows])
        return self.texts(self.of_images(rows), groups, owners)

    def batch(self, indices, groups=1):
        """-> features (B, C) or (B, P, C) float32 of the captions `indices`, and their `texts`."""
        return self.of_rows(self._rows[torch.from_numpy(indices).to(self.table.device)]), self.texts(indices, groups)

    def of_rows(self, rows, which=None):
        """Features (B, C) or (B, P, C) float32 of the images `rows`, a tensor.

        which: array (B,), the view of each: 0 is `features`, n is views[n - 1].
        """
        if which is None:
            return self.features[rows.to(self.features.device)].to(self.table.device).float()
        found = torch.empty(len(rows), *self.features.shape[1:], device=self.table.device)
        for view in np.unique(which):
            seen, own = [self.features, *self.views][view], torch.from_numpy(np.flatnonzero(which == view))
            found[own.to(found.device)] = seen[rows[own].to(seen.device)].to(found)
        return found
