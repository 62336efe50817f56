"""Beam search: go on with the K best captions of each image at once, and keep the best.

    captions = beam_search(decoder, features, beam_size=5)      # B captions, one an image
    lists = beams(decoder, features, beam_size=5)               # up to 5 for each, best first

Decoders, features and rules are those of captioning/decoding.py. To the decoder, a beam is a batch
of B * K captions: the K of the first image, then the K of the second, and so on.
Axes: B images, K beam, T ids so far, V vocabulary.
"""

from typing import NamedTuple

import torch

from captioning.decoding_rules import Rules, cut_after_end
from captioning.devices import words_between_checks


@torch.no_grad()
def beam_search(decoder, features, beam_size=3, max_len=20, forbidden=(), no_repeat=0,
                length_power=0.7, not_after=None):
    """The best caption that a beam of `beam_size` comes to -> B times Caption.

    A beam of 1 is greedy. Captions compete by their `length_normalized` scores; one that has ended
    keeps its place in the beam until better ones push it out. What is returned is the best that has
    ended at any step, or the best of the last step where none has ended.
    """
    lists = beams(decoder, features, beam_size, max_len, forbidden, no_repeat, length_power,
                  not_after)
    return [captions[0] for captions in lists]


@torch.no_grad()
def beams(decoder, features, beam_size=3, max_len=20, forbidden=(), no_repeat=0, length_power=0.7,
          not_after=None, ruled_out=None):
    """As beam_search, with all captions that are left in the beam.

    ruled_out: (B, V) bool, words that are not said of an image, or None.
    Returns for each image a list of 1 to `beam_size` different Captions: first what beam_search
    returns, then other ended ones, then those without an end, each group from the best down.
    """
    images, device = len(features), features.device
    end_id = decoder.end_id
    state = decoder.init_state(features)
    state = start_state = tuple(part.repeat_interleave(beam_size, dim=0) for part in state)
    beam = start_beam(images, beam_size, decoder.start_id, device)
    best = BestEnded(images, max_len, end_id, device)
    rules = Rules(forbidden, no_repeat, not_after, ruled_out)
    patience = words_between_checks(device)
    while beam.captions.shape[1] < max_len:
        logits, state = decoder.step(beam.captions[:, -1], state)
        log_probs, allowed = rules.next_words(logits, beam.captions)
        beam, rows = extend(beam, beam_size, log_probs, allowed, end_id, length_power)
        state = reorder(state, rows, start_state)
        best.update(beam, beam_size)
        if beam.captions.shape[1] % patience == 0 and beam.ended.all():
            break
    return _list_captions(best, beam, beam_size, end_id)


def length_normalized(log_prob, words, length_power=0.7):
    """The score by which captions compete in a beam: log-probability / words ** length_power.

    A plain sum of log-probabilities prefers short captions. (After Wu et al. 2016, Google's Neural
    Machine Translation System.) words: how many, the end word counts.
    """
    return log_prob / words ** length_power


class Beam(NamedTuple):
    """K captions of each image after one of the steps, from the best score down.

    A place of the beam is empty where there are fewer than K captions, such as before the first
    word; its total and its score are -inf.
    """

    captions: torch.Tensor     # (B * K, T) ids; those that have ended repeat the end word
    log_probs: torch.Tensor    # (B * K, T - 1) of each word; 0 after the end
    words: torch.Tensor        # (B * K,) how many words, as floats; the end word counts once
    total: torch.Tensor        # (B * K,) sum of the log-probabilities
    scores: torch.Tensor       # (B * K,) the same, length-normalized
    ended: torch.Tensor        # (B * K,) bool


def start_beam(images, beam_size, start_id, device):
    """The beam before the first word: one caption an image, all other places are empty."""
    total = torch.full((images, beam_size), -torch.inf, device=device)
    total[:, 0] = 0
    total = total.flatten()
    captions = torch.full((len(total), 1), start_id, device=device)
    log_probs = torch.zeros(len(total), 0, device=device)
    words = torch.zeros_like(total)
    ended = torch.zeros_like(total, dtype=torch.bool)
    return Beam(captions, log_probs, words, total, total, ended)


def extend(beam, beam_size, log_probs, allowed, end_id, length_power):
    """Write one more word: of the K * V ways to go on with an image's captions, keep the best K.

    log_probs, allowed: (B * K, V), as `Rules.next_words` gives them. Returns the new beam, and for
    each of its captions the row of the old beam that it goes on with, (B * K,).
    """
    V = allowed.shape[1]
    allowed = allowed.masked_fill(beam.ended[:, None], -torch.inf)
    allowed[:, end_id].masked_fill_(beam.ended, 0)                          # ended: end again
    words = beam.words + ~beam.ended                                        # (B * K,)
    scores = length_normalized(beam.total[:, None] + allowed, words[:, None], length_power)
    scores, chosen = scores.view(-1, beam_size * V).topk(beam_size, dim=1)  # (B, K)

    first = first_rows(len(chosen), beam_size, chosen.device)               # (B,)
    rows = (first[:, None] + chosen // V).flatten()                         # (B * K,)
    word_ids = (chosen % V).flatten()                                       # (B * K,)
    scores = scores.flatten()
    words = words[rows]
    total = scores * words ** length_power
    ended = (word_ids == end_id) & (scores > -torch.inf)
    word_log_probs = log_probs[rows, word_ids].masked_fill(beam.ended[rows], 0)
    captions = torch.cat([beam.captions[rows], word_ids[:, None]], dim=1)
    log_probs = torch.cat([beam.log_probs[rows], word_log_probs[:, None]], dim=1)
    return Beam(captions, log_probs, words, total, scores, ended), rows


def first_rows(images, beam_size, device):
    """The row of each image's first caption in a beam -> (B,)."""
    return beam_size * torch.arange(images, device=device)


def reorder(state, rows, start_state):
    """The decoder's state in the order of a new beam, whose captions go on with `rows` of the old.

    A part that steps hand on as it was at the start, such as the image, is the same for all K
    captions of an image. It stays as it is, since to copy the image would take most of the time.
    """
    unchanged = {id(part) for part in start_state}
    return tuple(part if id(part) in unchanged else part[rows] for part in state)


class BestEnded:
    """For each image the best caption that has ended at any step: it may have left the beam since.

    captions: (B, max_len) ids. log_probs: (B, max_len - 1). scores: (B,), -inf where no caption
    has ended.
    """

    def __init__(self, images, max_len, end_id, device):
        self.captions = torch.full((images, max_len), end_id, device=device)
        self.log_probs = torch.zeros(images, max_len - 1, device=device)
        self.scores = torch.full((images,), -torch.inf, device=device)

    def update(self, beam, beam_size):
        """Take from a beam what has ended and is better."""
        ended_scores = beam.scores.masked_fill(~beam.ended, -torch.inf)
        scores, places = ended_scores.view(-1, beam_size).max(dim=1)        # (B,)
        rows = first_rows(len(places), beam_size, places.device) + places
        better = scores > self.scores
        self.scores = torch.where(better, scores, self.scores)
        T, better = beam.captions.shape[1], better[:, None]
        captions, log_probs = self.captions[:, :T], self.log_probs[:, :T - 1]    # views
        captions.copy_(torch.where(better, beam.captions[rows], captions))
        log_probs.copy_(torch.where(better, beam.log_probs[rows], log_probs))


def _list_captions(best, beam, beam_size, end_id):
    """The different captions of each image, in the order that `beams` tells."""
    best_captions = cut_after_end(best.captions, best.log_probs, end_id)
    beam_captions = cut_after_end(beam.captions, beam.log_probs, end_id)
    best_exists = (best.scores > -torch.inf).tolist()
    exists = (beam.scores > -torch.inf).tolist()
    lists = []
    for image, best_caption in enumerate(best_captions):
        captions = [best_caption] if best_exists[image] else []
        first = image * beam_size
        rows = range(first, first + beam_size)
        captions += [beam_captions[row] for row in rows if exists[row]]
        if not captions:    # the rules forbid every word
            captions = [beam_captions[first]]
        captions.sort(key=lambda caption: caption.ids[-1] != end_id)    # stable: keeps the order
        different = {tuple(caption.ids): caption for caption in captions}
        lists.append(list(different.values())[:beam_size])
    return lists
