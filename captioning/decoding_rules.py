"""What all decoding methods share: the captions that they return, and the rules on the next word.

    log_probs, allowed = Rules(forbidden=[2], no_repeat=3).next_words(logits, captions)
    captions = cut_after_end(ids, log_probs, end_id)

Axes: B batch, T words so far, V vocabulary.
"""

from typing import NamedTuple

import torch

from captioning.devices import moved


class Caption(NamedTuple):
    """A caption with the probability of each word.

    ids: [start, words..., end], a list of ints, without the end where max_len cut it short.
    log_probs: of each id but the first, given the image and the ids before it. They are the
    decoder's own, in nats, whatever rules and temperature chose the words; where it is made to
    name things, those of the decoder that has the new words.
    """

    ids: list
    log_probs: list


class Rules:
    """Which words may come next.

    forbidden, no_repeat, not_after: see captioning.decoding. ruled_out: (images, V) bool, words
    that are not said of an image, or None; the rows of a batch are its images' in order, as many of
    each.
    """

    def __init__(self, forbidden=(), no_repeat=0, not_after=None, ruled_out=None):
        self.forbidden, self.no_repeat = list(forbidden), no_repeat
        self.not_after, self.ruled_out = not_after or {}, ruled_out
        self._bias = self._rows = self._bias_after = None

    def next_words(self, logits, captions):
        """How likely each word is to come next, without and with the rules.

        logits: (B, V), of the word that follows captions (B, T). Returns log-probabilities (B, V),
        and the same with -inf where a rule forbids the word.
        """
        log_probs = logits.float().log_softmax(dim=1)
        allowed = self.without_ruled_out(self.without_forbidden(log_probs))
        if self.not_after:
            allowed = allowed + self.bias_after(captions, allowed)
        if self.no_repeat and captions.shape[1] >= self.no_repeat:
            allowed = without_repeats(allowed, captions, self.no_repeat)
        return log_probs, allowed

    def without_forbidden(self, scores):
        """Scores (B, V) float32 with -inf for the forbidden words."""
        if not self.forbidden:
            return scores
        if self._bias is None:    # once: to copy the list to a GPU at each word takes long
            bias = torch.zeros(scores.shape[1])
            bias[self.forbidden] = -torch.inf
            self._bias = moved(bias, scores.device)
        return scores + self._bias

    def without_ruled_out(self, scores):
        """Scores (B, V) with -inf for the words that are ruled out."""
        if self.ruled_out is None:
            return scores
        each = len(scores) // len(self.ruled_out)
        return scores.masked_fill(self.ruled_out.repeat_interleave(each, dim=0), -torch.inf)

    def bias_after(self, captions, scores):
        """0 for the words that may follow captions (B, T), -inf for the others -> as scores (B, V).
        """
        if self._bias_after is None:    # once, as above
            V, after = scores.shape[1], {None: (), **self.not_after}
            rows, bias = torch.zeros(V, dtype=torch.long), torch.zeros(len(after), V)
            for row, (word, others) in enumerate(after.items()):
                if word is not None:
                    rows[word] = row
                bias[row, list(others)] = -torch.inf
            self._rows, self._bias_after = moved(rows, scores.device), moved(bias, scores.device)
        last = captions[:, -1:]                                             # (B, 1)
        return self._bias_after[self._rows[last.squeeze(1)]].scatter(1, last, -torch.inf)


def without_repeats(log_probs, captions, length):
    """Log-probabilities (B, V) with -inf for words that would repeat a sequence of `length` ids.

    captions: (B, T), T at least `length`.
    """
    sequences = captions.unfold(1, length, 1)                               # (B, T - n + 1, n)
    latest = captions[:, captions.shape[1] - length + 1:]                   # (B, n - 1)
    begins_alike = (sequences[:, :, :-1] == latest[:, None]).all(dim=2)     # (B, T - n + 1)
    highest = torch.zeros_like(begins_alike, dtype=log_probs.dtype)         # log of 1
    highest = highest.masked_fill(begins_alike, -torch.inf)
    return log_probs.scatter_reduce(1, sequences[:, :, -1], highest, 'amin')


def cut_after_end(captions, log_probs, end_id):
    """Captions (B, T) with log-probabilities (B, T - 1) -> B times Caption, cut after the end."""
    cut = []
    for ids, values in zip(captions.tolist(), log_probs.tolist(), strict=True):
        length = ids.index(end_id) + 1 if end_id in ids else len(ids)
        cut.append(Caption(ids[:length], values[:length - 1]))
    return cut
