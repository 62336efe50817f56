"""The captions of a split with the features of its images, as tensors ready for training.

    captions = Captions.of_split(dataset, features)
    groups = captions.grouped_targets(indices, groups=4)
    features = captions.features_of(captions.image_rows[indices])

Two index spaces: a caption is an index into `table` and `lengths`; an image is a row of `features`.
`image_rows` leads from a caption to its image, `captions_of_images` from images to their captions.
Needs numpy and torch alone. Axes: B batch, T caption length, N images, C channels, P places.
"""

import functools
from typing import NamedTuple

import numpy as np
import torch

from captioning.losses import mask_padding
from captioning.sampler import by_length

LONGEST = 100    # words of a caption that is trained on: one longer would pad its whole group


class TargetGroup(NamedTuple):
    """Captions of like length that go through the decoder together.

    inputs: (b,) which input of the batch (its image) each caption belongs to. captions: (b, T) ids,
    each [start, words..., end, padding]. targets: (b, T), IGNORED where nothing is scored: at
    position 0 and where padded.
    """

    inputs: torch.Tensor
    captions: torch.Tensor
    targets: torch.Tensor


class Captions:
    """The captions of one split and the features of its images, on one device.

    features: (N, C), one row an image, or grids (N, P, C), which stay on disk. image_rows:
    (captions,), the row of each caption's image. table: (captions, T) ids, each
    [start, words..., end, padding]; lengths: (captions,), with start and end. usable: bool for each
    row, the images that may be used; image_ids and paths: of each row's image. views: more features
    (N, ...), of the same images flipped or cropped.

    Attributes: these, `indices` of the usable captions, and `rows` of the usable images that have
    some. Raises ValueError where there are none.
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
        self._lengths = torch.from_numpy(self.lengths)

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
        """Move everything that a batch is made of, but grids."""
        self.table, self._lengths = self.table.to(device), self._lengths.to(device)
        self.features, *self.views = (
            features.to(device) if features.ndim == 2 else features
            for features in (self.features, *self.views))
        return self

    def grouped_targets(self, indices, groups=1, inputs=None):
        """The captions `indices` in groups of like length -> list of TargetGroup.

        inputs: which input of the batch each of them belongs to; by default each has its own.
        """
        device = self.table.device
        inputs = np.arange(len(indices)) if inputs is None else inputs
        targets = []
        for chosen in by_length(self.lengths[indices], groups):    # the last one is the longest
            chosen_indices = torch.from_numpy(indices[chosen]).to(device)
            longest = int(self.lengths[indices[chosen[-1]]])
            captions = self.table[chosen_indices, :longest].long()
            targets.append(TargetGroup(
                inputs=torch.from_numpy(inputs[chosen]).to(device),
                captions=captions,
                targets=mask_padding(captions, self._lengths[chosen_indices])))
        return targets

    @functools.cached_property
    def _captions_of_row(self):
        """{image row: indices of its captions}"""
        rows = self.image_rows[self.indices]
        order = self.indices[np.argsort(rows, kind='stable')]
        ends = np.flatnonzero(np.diff(self.image_rows[order])) + 1
        return dict(zip(self.rows, np.split(order, ends), strict=True))

    def captions_of_images(self, rows):
        """Indices of all captions of the images `rows`, image after image."""
        return np.concatenate([self._captions_of_row[row] for row in rows])

    def targets_of_images(self, rows, groups=1):
        """All captions of the images `rows` as `grouped_targets`; the images are the inputs."""
        counts = [len(self._captions_of_row[row]) for row in rows]
        inputs = np.repeat(np.arange(len(rows)), counts)
        return self.grouped_targets(self.captions_of_images(rows), groups, inputs)

    def features_of(self, rows, views=None):
        """Features (B, C) or (B, P, C) float32 of the images `rows`, an array.

        views: array (B,), the view of each image: 0 is `features`, n is views[n - 1].
        """
        device, rows = self.table.device, torch.from_numpy(np.asarray(rows))
        if views is None:
            return self.features[rows.to(self.features.device)].to(device).float()
        chosen = torch.empty(len(rows), *self.features.shape[1:], device=device)
        for view in np.unique(views):
            features = [self.features, *self.views][view]
            of_view = torch.from_numpy(np.flatnonzero(views == view))
            values = features[rows[of_view].to(features.device)]
            chosen[of_view.to(device)] = values.to(chosen)
        return chosen

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
