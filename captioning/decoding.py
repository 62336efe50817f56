"""Decoding: from features to captions, by greedy choice, sampling or beam search.

    captions = greedy(decoder, features)            # features (B, E), with attention (B, P, E)
    captions[0].ids, captions[0].log_probs          # [start, words..., end], how likely each was
    best, *others = beams(decoder, features, beam_size=5)[0]

A decoder has `start_id`, `end_id`, `init_state(features)` -> state and `step(words, state)` ->
(logits, state), where a state is a tuple of tensors whose first axis is the batch. Every method
works on a batch of images, on any device, in eval mode. It stops when all captions have ended, and
what one image gets does not depend on the others. All take these rules:

    max_len     the most ids that a caption has, start and end included
    forbidden   ids that are never written, such as that of the unknown word
    no_repeat   no caption has the same sequence of this many ids twice, such as 3 (Paulus et al.
                2018, A Deep Reinforced Model for Abstractive Summarization); 0 allows it
    not_after   {id: ids that never follow it}, such as those of words with a vowel after `a`;
                those of the key None never follow ids that are no key; nor does any word follow
                itself (of 30,000 captions of Flickr8k in three: very very)

Beam search is in captioning/beam_search.py. Axes: B batch, T words so far, E embedding,
V vocabulary, P places.
"""

import torch

from captioning.beam_search import beam_search, beams, length_normalized
from captioning.decoding_rules import Caption, Rules, cut_after_end
from captioning.devices import moved, words_between_checks
from captioning.random_numbers import uniform_numbers

__all__ = ['Caption', 'attention_weights', 'beam_search', 'beams', 'greedy', 'length_normalized',
           'likeliest_words', 'sample']


# ---- One caption an image ----

@torch.no_grad()
def greedy(decoder, features, max_len=20, forbidden=(), no_repeat=0, not_after=None):
    """The likeliest word at each step -> B times Caption, without rules as `decoder.sample` has it.
    """
    rules = Rules(forbidden, no_repeat, not_after)
    written = write_likeliest(decoder, features, max_len, rules)
    return cut_after_end(*written, decoder.end_id)


@torch.no_grad()
def sample(decoder, features, max_len=20, forbidden=(), no_repeat=0, temperature=1.0, nucleus=1.0,
           seeds=None, not_after=None):
    """Words drawn by their probability -> B times Caption.

    temperature: above 0; below 1 sharpens the probabilities, above 1 flattens them. nucleus: above
    0 up to 1; words are drawn among the likeliest that together have this share of the probability
    (Holtzman et al. 2020, The Curious Case of Neural Text Degeneration). seeds: B ints
    from 0 below 2 ** 63, one an image; by default they are drawn by torch's generator. Raises
    ValueError for a temperature or nucleus outside of these bounds.
    """
    if not temperature > 0 or not 0 < nucleus <= 1:
        raise ValueError(f'temperature={temperature}, nucleus={nucleus}: expected above 0, and '
                         'above 0 up to 1.')
    if seeds is None:
        seeds = torch.randint(2 ** 62, (len(features),))
    seeds = moved(torch.as_tensor(seeds), features.device)
    rules = Rules(forbidden, no_repeat, not_after)
    written = write_drawn(decoder, features, seeds, max_len, rules, temperature, nucleus)
    return cut_after_end(*written, decoder.end_id)


# ---- The same as tensors, for training ----

def write_likeliest(decoder, features, max_len, rules):
    """As `greedy` -> ids (B, T), after the end the end word again, and log-probabilities
    (B, T - 1)."""
    def choose(allowed, step):
        return allowed.argmax(dim=1)

    return _write_captions(decoder, features, choose, max_len, rules)


def write_drawn(decoder, features, seeds, max_len, rules, temperature=1.0, nucleus=1.0):
    """As `sample`, seeds (B,) int64 on the device -> ids (B, T), after the end the end word again,
    and log-probabilities (B, T - 1)."""
    uniform = uniform_numbers(seeds, max_len)                               # (B, max_len)

    def choose(allowed, step):
        probabilities = (allowed / temperature).softmax(dim=1)              # (B, V)
        if nucleus == 1:
            return _draw(probabilities, uniform[:, step])
        probabilities, words = probabilities.sort(dim=1, descending=True)
        likelier = probabilities.cumsum(dim=1) - probabilities              # sum of those before
        probabilities = probabilities.masked_fill(likelier >= nucleus, 0)
        drawn = _draw(probabilities, uniform[:, step])
        return words.gather(1, drawn[:, None]).squeeze(1)

    return _write_captions(decoder, features, choose, max_len, rules)


def _draw(probabilities, uniform):
    """Draw a column of each row by its probability -> (B,).

    probabilities: (B, V), whose sum need not be 1. uniform: (B,), from 0 below 1.
    """
    cumulative = probabilities.cumsum(dim=1)
    threshold = uniform[:, None] * cumulative[:, -1:]
    drawn = (cumulative <= threshold).sum(dim=1, keepdim=True)
    drawn = drawn.clamp(max=probabilities.shape[1] - 1)
    # Rounding can end at a word that has probability 0: take the likeliest instead.
    impossible = probabilities.gather(1, drawn) == 0
    likeliest = probabilities.argmax(dim=1, keepdim=True)
    return torch.where(impossible, likeliest, drawn).squeeze(1)


def _write_captions(decoder, features, choose, max_len, rules):
    """Write word after word until every caption has ended -> ids (B, T), log-probabilities.

    choose(allowed, step): takes log-probabilities (B, V), -inf where a rule forbids the word, and
    the number of ids so far; returns the next words (B,).
    """
    B, device = len(features), features.device
    captions = torch.full((B, 1), decoder.start_id, device=device)
    chosen_log_probs = torch.zeros(B, 0, device=device)
    ended = torch.zeros(B, dtype=torch.bool, device=device)
    state, patience = decoder.init_state(features), words_between_checks(device)
    while captions.shape[1] < max_len:
        logits, state = decoder.step(captions[:, -1], state)
        log_probs, allowed = rules.next_words(logits, captions)
        words = choose(allowed, captions.shape[1])
        words = words.masked_fill(ended, decoder.end_id)[:, None]           # ended: end again
        captions = torch.cat([captions, words], dim=1)
        chosen_log_probs = torch.cat([chosen_log_probs, log_probs.gather(1, words)], dim=1)
        ended = ended | (words[:, 0] == decoder.end_id)
        if captions.shape[1] % patience == 0 and ended.all():
            break
    return captions, chosen_log_probs


# ---- What the decoder had in mind as it wrote a caption ----

@torch.no_grad()
def likeliest_words(decoder, features, caption, top=5):
    """The words with which a caption of one image could have gone on, at each of its steps.

    features: (1, ...). caption: its T ids. Returns for each id but the first a list of `top` pairs
    (id, probability), the likeliest first.
    """
    state, steps = decoder.init_state(features), []
    for word in moved(torch.tensor(caption[:-1]), features.device).split(1):
        logits, state = decoder.step(word, state)
        probabilities, ids = logits[0].float().softmax(dim=0).topk(top)
        steps.append((ids, probabilities))
    return [list(zip(ids.tolist(), probabilities.tolist(), strict=True))
            for ids, probabilities in steps]


@torch.no_grad()
def attention_weights(decoder, features, caption):
    """Where a decoder with `attention` looked before it wrote each id of a caption but the first.

    features: (1, P, E). caption: its T ids, whichever method chose them. Returns (T - 1, P).
    """
    seen = []

    def keep_weights(module, inputs, output):
        _, weights = output                                                 # (1, 1, P)
        seen.append(weights[0, -1])

    hook = decoder.attention.register_forward_hook(keep_weights)
    try:
        likeliest_words(decoder, features, caption, top=1)
    finally:
        hook.remove()
    return torch.stack(seen)
