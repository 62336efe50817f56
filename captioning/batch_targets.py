"""What the decoder has to say in many batches, laid out ahead.

    targets = BatchTargets(captions, batches, groups=4)     # of an epoch, say
    for group in targets[0]: ...                            # of the first batch: TargetGroups

Order and lengths are known before the first step: which captions go through the decoder together,
and which of their positions are scored. So the processor computes that at once and copies it to the
device in one go. A step takes a slice, and never waits.
Axes: b captions of a group, T caption length, W scored words.
"""

from typing import NamedTuple

import numpy as np
import torch

from captioning.devices import moved


class TargetGroup(NamedTuple):
    """Captions of like length that go through the decoder together.

    inputs: (b,) which input of the batch (its image) each caption belongs to. captions: (b, T) ids,
    each [start, words..., end, padding]. scored: (W,) positions among the b * T that are scored:
    all but the first, where the image alone predicts the start word, and the padding. targets: (W,)
    the words there.
    """

    inputs: torch.Tensor
    captions: torch.Tensor
    scored: torch.Tensor
    targets: torch.Tensor


class BatchTargets:
    """The captions of batches in groups of like length; `targets[number]` are those of a batch.

    captions: Captions. batches: pairs of arrays (n,), the indices of a batch's captions and which
    of its inputs each belongs to. groups: into how many a batch is split.
    """

    def __init__(self, captions, batches, groups=1):
        self.captions = captions
        layout = lay_out(captions, batches, groups)
        self.longest, self.bounds = layout.longest, layout.bounds
        self.word_bounds, self.first_group = layout.word_bounds, layout.first_group
        device = captions.table.device
        self.indices, self.inputs, self.scored = (
            moved(part, device) for part in (layout.indices, layout.inputs, layout.scored))

    def __len__(self):
        return len(self.first_group) - 1

    def __getitem__(self, number):
        if not 0 <= number < len(self):
            raise IndexError(number)
        first, after = self.first_group[number:number + 2]
        return [self._group(group) for group in range(first, after)]

    def _group(self, number):
        chosen = slice(*self.bounds[number:number + 2])
        scored = self.scored[slice(*self.word_bounds[number:number + 2])]
        captions = self.captions.table[self.indices[chosen], :self.longest[number]].long()
        return TargetGroup(self.inputs[chosen], captions, scored, captions.flatten()[scored])


class Layout(NamedTuple):
    """Arrays that say which captions of many batches are in which group, group after group.

    indices, inputs: of the captions. scored: positions as in TargetGroup. longest: T of each group.
    bounds, word_bounds: where each group begins among the captions and among the scored, and the
    end. first_group: the first group of each batch, and the end.
    """

    indices: np.ndarray
    inputs: np.ndarray
    scored: np.ndarray
    longest: np.ndarray
    bounds: np.ndarray
    word_bounds: np.ndarray
    first_group: np.ndarray


def lay_out(captions, batches, groups=1, multiple=1):
    """Captions and batches as BatchTargets takes them -> Layout.

    multiple: T is a multiple of it, or the longest of all captions.
    """
    indices = np.concatenate([indices for indices, _ in batches])
    inputs = np.concatenate([inputs for _, inputs in batches])
    sizes = np.array([len(indices) for indices, _ in batches])
    lengths = captions.lengths[indices]
    order, first_of_group = groups_of_like_length(lengths, sizes, groups)
    lengths = lengths[order]
    longest = np.maximum.reduceat(lengths, first_of_group)
    longest = np.minimum(-(-longest // multiple) * multiple, captions.table.shape[1])
    bounds = np.append(first_of_group, len(lengths))
    return Layout(
        indices[order], inputs[order], scored_positions(lengths, first_of_group, longest), longest,
        bounds, word_bounds=np.append(0, np.cumsum(lengths - 1))[bounds],
        first_group=np.searchsorted(first_of_group, np.append(0, np.cumsum(sizes))))


def groups_of_like_length(lengths, sizes, groups):
    """Sort the captions of each batch by length, and cut each batch into `groups`, none empty.

    lengths: of the captions of all batches, batch after batch; sizes: how many each batch has.
    Returns the new order, and where in it each group begins.
    """
    batch = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((lengths, batch))    # by batch, in it by length; stable
    position = np.arange(len(lengths)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    group_size = -(-sizes // groups)
    return order, np.flatnonzero(position % np.repeat(group_size, sizes) == 0)


def scored_positions(lengths, first_of_group, longest):
    """Where the scored words of all captions are, in the flattened ids (b * T) of their group.

    lengths: of the captions, group after group. first_of_group: the first caption of each group.
    longest: T of each.
    """
    words = lengths - 1                                                     # all but the start word
    sizes = np.diff(np.append(first_of_group, len(lengths)))
    row = np.arange(len(lengths)) - np.repeat(first_of_group, sizes)        # in its group
    start = row * np.repeat(longest, sizes)
    first_word = np.cumsum(words) - words
    return np.repeat(start + 1 - first_word, words) + np.arange(words.sum())
