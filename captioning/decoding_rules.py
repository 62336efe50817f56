"""What all decoding methods share: the captions that they return, and the rules on the next word.

    log_probs, allowed = next_words(logits, captions, forbidden=[2], no_repeat=3)
    captions = cut_after_end(ids, log_probs, end_id)

Axes: B batch, T words so far, V vocabulary.
"""

from typing import NamedTuple

import torch


class Caption(NamedTuple):
    """A caption with the probability of each word.

    ids: [start, words..., end], a list of ints, without the end where max_len cut it short.
    log_probs: of each id but the first, given the image and the ids before it. They are the model's
    own, in nats, whatever rules and temperature chose the words.
    """

    ids: list
    log_probs: list


def next_words(logits, captions, forbidden, no_repeat):
    """How likely each word is to come next, without and with the rules.

    logits: (B, V), of the word that follows captions (B, T). forbidden, no_repeat: see
    captioning.decoding. Returns log-probabilities (B, V), and the same with -inf where a rule
    forbids the word.
    """
    log_probs = logits.float().log_softmax(dim=1)
    if not forbidden and not no_repeat:
        return log_probs, log_probs
    allowed = log_probs.clone()
    if forbidden:
        allowed[:, list(forbidden)] = -torch.inf
    if no_repeat and captions.shape[1] >= no_repeat:
        rows, words = repeating_words(captions, no_repeat)
        allowed[rows, words] = -torch.inf
    return log_probs, allowed


def repeating_words(captions, length):
    """Words that would end a sequence of `length` ids that the caption has already.

    captions: (B, T), T at least `length`. Returns two tensors: rows of captions, and a word for
    each row.
    """
    sequences = captions.unfold(1, length, 1)                               # (B, T - n + 1, n)
    latest = captions[:, captions.shape[1] - length + 1:]                   # (B, n - 1)
    begins_alike = (sequences[:, :, :-1] == latest[:, None]).all(dim=2)     # (B, T - n + 1)
    rows, positions = begins_alike.nonzero(as_tuple=True)
    return rows, sequences[rows, positions, -1]


def cut_after_end(captions, log_probs, end_id):
    """Captions (B, T) with log-probabilities (B, T - 1) -> B times Caption, cut after the end."""
    cut = []
    for ids, values in zip(captions.tolist(), log_probs.tolist(), strict=True):
        length = ids.index(end_id) + 1 if end_id in ids else len(ids)
        cut.append(Caption(ids[:length], values[:length - 1]))
    return cut
