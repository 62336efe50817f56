"""Rewards of drawn captions: another reward is a function here and an entry in REWARDS.

    reward = REWARDS['cider'](captions)     # the Captions of the training split
    values = reward(sampled, rows)          # float32 (S,), on the device of captions.table

sampled: DrawnCaptions, a sequence of S lists of ids, each [start, words..., end], without the end
where max_len cut it short, and the same as tensors. rows: array (S,), the row of the image that
each belongs to. Training asks for the rewards of its samples at each step, and makes those likelier
that earn more than others of the same image.
Such as the share of words that occur in a reference:

    def word_overlap(captions):
        def reward(sampled, rows):
            shares = []
            for ids, row in zip(sampled, rows, strict=True):
                known = {word for other in reference_captions(captions, row) for word in other}
                shares.append(len(known & set(ids)) / len(set(ids)))
            return torch.tensor(shares, device=captions.table.device)
        return reward

This file is part of what identifies a run: after an edit of it, training starts a new run.
"""

import torch

from captioning.cider import CiderD


def cider(captions):
    """CIDEr-D against the training captions of the image, the end word counted as a word."""
    return CiderD(captions)


# Each takes Captions once and returns a function (sampled, rows) -> (S,), as cider does; the
# setting `reward` chooses one.
REWARDS = {'cider': cider}


def reference_captions(captions, row):
    """The training captions of the image in a row -> list of lists of ids [start, words..., end].
    """
    indices = captions.captions_of_images([row])
    table = captions.table[torch.from_numpy(indices)].tolist()
    lengths = captions.lengths[indices]
    return [ids[:length] for ids, length in zip(table, lengths, strict=True)]
