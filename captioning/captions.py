"""The captions of a split with the features of its images, as tensors ready for training.

    captions = Captions.of_split(dataset, features)
    features = captions.features_of(captions.image_rows[indices])
    targets = BatchTargets(captions, [(indices, np.arange(len(indices)))])      # batch_targets.py

Two index spaces: a caption is an index into `table` and `lengths`; an image is a row of `features`.
`image_rows` leads from a caption to its image, `captions_of_images` from images to their captions.
Needs numpy and torch alone. Axes: B batch, T caption length, N images, C channels, P places.
"""

import functools

import numpy as np
import torch

from captioning.devices import fits, moved

LONGEST = 100    # words of a caption that is trained on: one longer would pad its whole group


class Captions:
    """The captions of one split and the features of its images, on one device.

    features: (N, C), one row an image, or grids (N, P, C), which stay on disk if there is no room
    for them. image_rows: (captions,), the row of each caption's image. table: (captions, T) ids,
    each [start, words..., end, padding]; lengths: (captions,), with start and end. usable: bool for
    each row, the images that may be used; image_ids and paths: of each row's image. views: more
    features (N, ...), of the same images flipped or cropped.

    Attributes: these, `indices` of the usable captions, `rows` of the usable images that have some,
    and `in_memory`: are the features in the memory of the device? Raises ValueError where there are
    no captions.
    """

    def __init__(self, features, image_rows, table, lengths, usable, image_ids=None, paths=None,
                 views=()):
        self.features, self.views, self.table = features, list(views), table
        self.image_ids, self.paths = image_ids, paths
        self.image_rows, self.lengths = np.asarray(image_rows), np.asarray(lengths)
        short_enough = self.lengths <= LONGEST + 2
        self.indices = np.flatnonzero(usable[self.image_rows] & short_enough)
        self.rows = np.unique(self.image_rows[self.indices])
        if not len(self.indices):
            where = f' in {paths[0].parent}' if paths else ''
            raise ValueError(f'none of the images with captions{where} could be read: '
                             'nothing to train on.')
        self.in_memory = features.ndim == 2
        self._all_views = None

    @classmethod
    def of_split(cls, dataset, features, unreadable=(), limit=None, views=()):
        """Captions of a CoCoDataset: of its first `limit` images, without the unreadable rows."""
        lengths = np.array(dataset.caption_lengths) + 2
        too_long = lengths > LONGEST + 2
        if too_long.any():
            print(f'{too_long.sum()} captions of more than {LONGEST} words are left out')
        usable = np.ones(len(dataset.paths), bool)
        usable[list(unreadable)] = False
        if limit is not None:
            usable[limit:] = False
        features, *views = (_as_tensor(array) for array in (features, *views))
        return cls(features, dataset.image_rows, _padded_table(dataset, lengths), lengths, usable,
                   dataset.image_ids, dataset.paths, views)

    def to(self, device):
        """Move everything that a batch is made of, but grids that do not fit into its memory."""
        self.table = moved(self.table, device)
        views = [self.features, *self.views]
        size = sum(view.nbytes for view in views)
        self.in_memory = self.features.ndim == 2 or fits(size, device)
        if not self.in_memory:
            return self
        if len(views) == 1:
            self.features = self.features.to(device)
            return self
        self._all_views = torch.empty(len(views), *self.features.shape, device=device,
                                      dtype=self.features.dtype)
        for view, features in zip(self._all_views, views, strict=True):
            view.copy_(features)
        self.features, *self.views = self._all_views    # they share its memory
        return self

    # ---- Features ----

    def features_of(self, rows, views=None):
        """Features (B, C) or (B, P, C) float32, on the device, of the images `rows`.

        rows: array, or where the features are in memory a tensor on the device. views: beside it,
        the view of each image: 0 is `features`, n is views[n - 1]; after `to` alone.
        """
        device = self.table.device
        if self.in_memory:
            if views is None:
                return self.features[torch.as_tensor(rows, device=device)].float()
            rows, views = (torch.as_tensor(part, device=device) for part in (rows, views))
            return self._all_views[views, rows].float()
        if views is None:
            return moved(self.features[rows], device).float()
        all_views = [self.features, *self.views]
        chosen = torch.empty(len(rows), *self.features.shape[1:], dtype=self.features.dtype)
        for view in np.unique(views):
            of_view = np.flatnonzero(views == view)
            chosen[of_view] = all_views[view][rows[of_view]]
        return moved(chosen, device).float()

    def feature_batches(self, batches, views=None):
        """The features of batch after batch -> yields what `features_of` gives.

        batches: list of arrays of rows. views: list of arrays beside them. What is in memory is
        indexed by one copy for all batches, so that no step waits.
        """
        views = views or [None] * len(batches)
        if self.in_memory:
            batches = self._moved_batches(batches)
            views = views if views[0] is None else self._moved_batches(views)
        for rows, views_of_rows in zip(batches, views, strict=True):
            yield self.features_of(rows, views_of_rows)

    def _moved_batches(self, batches):
        sizes = [len(batch) for batch in batches]
        return moved(np.concatenate(batches), self.table.device).split(sizes)

    # ---- Captions ----

    def captions_of_images(self, rows):
        """Indices of all captions of the images `rows`, image after image."""
        order, first, counts = self._captions_by_image
        counts_of_rows = counts[rows]
        before = np.cumsum(counts_of_rows) - counts_of_rows
        shift = np.repeat(first[rows] - before, counts_of_rows)
        return order[shift + np.arange(len(shift))]

    def caption_counts(self, rows):
        """How many captions each of the images `rows` has."""
        return self._captions_by_image[2][rows]

    @functools.cached_property
    def _captions_by_image(self):
        """(indices sorted by image, where those of each row begin, how many each row has)"""
        rows = self.image_rows[self.indices]
        order = self.indices[np.argsort(rows, kind='stable')]
        counts = np.bincount(rows, minlength=len(self.features))
        return order, np.cumsum(counts) - counts, counts

    def words(self, indices):
        """How many words of these captions are scored: all but the start words."""
        return int(self.lengths[indices].sum()) - len(indices)


def _as_tensor(array):
    """Pooled features are read into memory; grids stay on disk."""
    return torch.from_numpy(np.array(array) if array.ndim == 2 else array)


def _padded_table(dataset, lengths, piece=10_000):
    """Ids of all captions of a CoCoDataset, (captions, T) int32, each at most LONGEST words.

    In pieces, since numpy needs several times the memory of one.
    """
    width = min(lengths.max(), LONGEST + 2)
    table = torch.full((len(lengths), width), dataset.vocab.end_id, dtype=torch.int32)
    for start in range(0, len(lengths), piece):
        indices = np.arange(start, min(start + piece, len(lengths)))
        ids, _ = dataset.padded_ids(indices)
        filled = min(ids.shape[1], width)
        table[start:start + len(ids), :filled] = ids[:, :filled]
    return table
