"""Captions that were drawn, as the tensors that training needs and the lists that people read.

    drawn = DrawnCaptions.of_ids(ids, end_id)
    for ids in drawn: ...           # lists of ids, each [start, words..., end]

Axes: S drawn captions, T caption length.
"""

import functools


class DrawnCaptions:
    """S captions on a device, which can be read as a sequence of S lists of ids.

    ids: (S, T), each [start, words..., end, padding], without the end where max_len cut it short.
    lengths: (S,), with start and end. To read a list waits for the device; tensors do not.
    """

    def __init__(self, ids, lengths):
        self.ids, self.lengths = ids, lengths

    @classmethod
    def of_ids(cls, ids, end_id):
        """Captions (S, T) that repeat the end word after their end."""
        ended_before = (ids == end_id).cumsum(dim=1) - (ids == end_id).long() > 0
        return cls(ids, (~ended_before).sum(dim=1))

    @functools.cached_property
    def lists(self):
        return [ids[:length] for ids, length in
                zip(self.ids.tolist(), self.lengths.tolist(), strict=True)]

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, number):
        return self.lists[number]
