"""Decoding: from features to captions, for any decoder that has `init_state(features)` and `step(words, state)`.

    captions = greedy(decoder, features)            # features (B, E), with attention (B, P, E) -> B captions
    captions[0].ids, captions[0].log_probs          # [start, words..., end], and how likely each word was

A state is a tuple of tensors whose first axis is the batch. All methods work on a batch of images, on any device, in
eval mode; they stop when every caption has ended, and what one image gets does not depend on the others. Rules that all
take: max_len, the most ids, start and end included; forbidden, ids that are never written, such as the unknown word's;
no_repeat, the length of word sequences that no caption has twice, such as 3 (Paulus et al. 2018, A Deep Reinforced
Model for Abstractive Summarization), 0 allows all.
Axes: B batch, K beam, T words so far, E embedding, V vocabulary, P places.
"""

from typing import NamedTuple

import torch


class Caption(NamedTuple):
    """ids: [start, words..., end], a list of ints. log_probs: of each id but the first, given image and those before.

    The log-probabilities are the model's own, in nats, whatever rules and temperature chose the words.
    """

    ids: list
    log_probs: list


# ---- One caption an image ----

@torch.no_grad()
def greedy(decoder, features, max_len=20, forbidden=(), no_repeat=0):
    """The likeliest word at each step -> B captions. Without rules they have the words of `decoder.sample`."""
    return _decode(decoder, features, lambda allowed, t: allowed.argmax(dim=1), max_len, forbidden, no_repeat)


@torch.no_grad()
def sample(decoder, features, max_len=20, forbidden=(), no_repeat=0, temperature=1.0, nucleus=1.0, seeds=None):
    """Each word drawn by its probability, among the likeliest that together have the share `nucleus` -> B captions.

    (Holtzman et al. 2020, The Curious Case of Neural Text Degeneration.) temperature: below 1 sharpens the
    probabilities, above 1 flattens them. seeds: B ints, one an image; by default they are drawn by torch's generator.
    """
    if not temperature > 0 or not 0 < nucleus <= 1:
        raise ValueError(f'temperature={temperature}, nucleus={nucleus}: expected above 0, and above 0 up to 1.')
    seeds = torch.randint(2 ** 62, (len(features),)).tolist() if seeds is None else seeds
    drawn = [torch.rand(max_len, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    drawn = torch.stack(drawn).to(features.device)                                       # (B, max_len), from 0 below 1

    def choose(allowed, t):
        chances, words = (allowed / temperature).softmax(dim=1), None                    # (B, V)
        if nucleus < 1:
            chances, words = chances.sort(dim=1, descending=True)
            chances = chances.masked_fill(chances.cumsum(dim=1) - chances >= nucleus, 0)
        upto = chances.cumsum(dim=1)
        at = (upto <= drawn[:, t, None] * upto[:, -1:]).sum(dim=1, keepdim=True)         # its word begins there
        unlikely = chances.gather(1, at.clamp(max=chances.shape[1] - 1)) == 0            # by rounding
        at = torch.where(unlikely, chances.argmax(dim=1, keepdim=True), at)
        return (at if words is None else words.gather(1, at)).squeeze(1)

    return _decode(decoder, features, choose, max_len, forbidden, no_repeat)


def _decode(decoder, features, choose, max_len, forbidden, no_repeat):
    """Word after word as `choose(allowed (B, V), t)` -> (B,) says, until every caption has ended."""
    captions = torch.full((len(features), 1), decoder.start_id, device=features.device)
    chances, state = torch.zeros((len(features), 0), device=features.device), decoder.init_state(features)
    ended = torch.zeros(len(features), dtype=torch.bool, device=features.device)
    while captions.shape[1] < max_len and not ended.all():
        scores, state = decoder.step(captions[:, -1], state)
        log_probs, allowed = _next(scores, captions, decoder.end_id, forbidden, no_repeat)
        words = choose(allowed, captions.shape[1]).masked_fill(ended, decoder.end_id)    # ended: end again
        captions = torch.cat([captions, words[:, None]], dim=1)
        chances = torch.cat([chances, log_probs.gather(1, words[:, None])], dim=1)
        ended |= words == decoder.end_id
    return _cut(captions, chances, decoder.end_id)


def _next(scores, captions, end_id, forbidden, no_repeat):
    """Scores (B, V) after captions (B, T) -> log-probabilities (B, V), and the same with -inf where a rule forbids."""
    log_probs = scores.float().log_softmax(dim=1)
    allowed = log_probs.clone() if forbidden or no_repeat else log_probs
    if forbidden:
        allowed[:, list(forbidden)] = -torch.inf
    if no_repeat and captions.shape[1] >= no_repeat:
        windows = captions.unfold(1, no_repeat, 1)                                       # (B, T - n + 1, n)
        last = captions[:, captions.shape[1] - no_repeat + 1:]                           # (B, n - 1)
        rows, where = (windows[:, :, :-1] == last[:, None]).all(dim=2).nonzero(as_tuple=True)
        allowed[rows, windows[rows, where, -1]] = -torch.inf
        allowed[:, end_id] = log_probs[:, end_id]                                        # what has ended repeats it
    return log_probs, allowed


def _cut(captions, chances, end_id):
    """Captions (B, T) and log-probabilities (B, T - 1), cut after the first end word -> list of Caption."""
    cut = []
    for ids, own in zip(captions.tolist(), chances.tolist(), strict=True):
        length = ids.index(end_id) + 1 if end_id in ids else len(ids)
        cut.append(Caption(ids[:length], own[:length - 1]))
    return cut


# ---- Beam search ----

@torch.no_grad()
def beam_search(decoder, features, beam_size=3, max_len=20, forbidden=(), no_repeat=0, length_power=0.7):
    """The likeliest caption among those that a beam of `beam_size` keeps -> B captions; a beam of 1 is greedy.

    Captions are ranked by `rank`. An ended caption keeps its place in the beam until better ones push it out. What is
    returned is the best that has ended at any step, or the best of the last step where none has ended.
    """
    return [beam[0] for beam in beams(decoder, features, beam_size, max_len, forbidden, no_repeat, length_power)]


@torch.no_grad()
def beams(decoder, features, beam_size=3, max_len=20, forbidden=(), no_repeat=0, length_power=0.7):
    """As beam_search, with all that is left at the end -> for each image a list of different captions, best first."""
    B, K, end, device = len(features), beam_size, decoder.end_id, features.device
    state = start = tuple(part.repeat_interleave(K, dim=0) for part in decoder.init_state(features))    # (B * K, ...)
    captions = torch.full((B, K, 1), decoder.start_id, device=device)
    chances = torch.zeros((B, K, 0), device=device)                                                # of each word
    total = torch.full((B, K), -torch.inf, device=device)    # log-probability; at first all K are one, so one counts
    total[:, 0] = 0
    ranks, lengths, ended = total, torch.zeros_like(total), torch.zeros_like(total, dtype=torch.bool)
    best = torch.full((B, max_len), end, device=device), torch.zeros(B, max_len - 1, device=device)
    best_rank = torch.full((B,), -torch.inf, device=device)
    first = K * torch.arange(B, device=device)[:, None]      # row of the first of each image
    while captions.shape[2] < max_len and not ended.all():
        scores, after = decoder.step(captions[:, :, -1].flatten(), state)
        log_probs, allowed = _next(scores, captions.flatten(0, 1), end, forbidden, no_repeat)      # (B * K, V)
        log_probs, allowed = log_probs.view(B, K, -1), allowed.view(B, K, -1)
        allowed = allowed.masked_fill(ended[:, :, None], -torch.inf)
        allowed[:, :, end] = allowed[:, :, end].masked_fill(ended, 0)                              # ended: end again
        longer = lengths + ~ended
        ranks, flat = rank(total[:, :, None] + allowed, longer[:, :, None], length_power).flatten(1).topk(K, dim=1)
        beam, words = flat // allowed.shape[2], flat % allowed.shape[2]                            # (B, K)
        own = log_probs.flatten(1).gather(1, flat).masked_fill(ended.gather(1, beam), 0)
        lengths = longer.gather(1, beam)
        total = ranks * lengths ** length_power
        captions = torch.cat([_rows(captions, beam), words[:, :, None]], dim=2)
        chances = torch.cat([_rows(chances, beam), own[:, :, None]], dim=2)
        rows = (beam + first).flatten()
        # What is still as it was at the start, such as the image, is the same for all K: it need not be moved.
        state = tuple(part if any(part is own for own in start) else part[rows] for part in after)
        ended = (words == end) & (ranks > -torch.inf)
        top_rank, top = ranks.masked_fill(~ended, -torch.inf).max(dim=1)
        better = top_rank > best_rank
        best[0][better, :captions.shape[2]] = captions[better, top[better]]
        best[1][better, :chances.shape[2]] = chances[better, top[better]]
        best_rank = torch.maximum(best_rank, top_rank)
    listed = [[caption] * known for caption, known in zip(_cut(*best, end), (best_rank > -torch.inf).tolist(),
                                                          strict=True)]
    order = (~ended).int().sort(dim=1, stable=True).indices                                        # ended ones first
    left, possible = _cut(_rows(captions, order).flatten(0, 1), _rows(chances, order).flatten(0, 1), end), (
        ranks > -torch.inf).gather(1, order).tolist()
    for i in range(B):
        for caption, allowed in zip(left[i * K:(i + 1) * K], possible[i], strict=True):
            new = all(caption.ids != other.ids for other in listed[i])
            if (allowed or not listed[i]) and len(listed[i]) < K and new:
                listed[i].append(caption)
    return listed


def rank(log_prob, words, length_power=0.7):
    """What a beam ranks captions by: log-probability / words ** length_power. A plain sum prefers short captions.

    (After Wu et al. 2016, Google's Neural Machine Translation System.) words: how many, the end word counts.
    """
    return log_prob / words ** length_power


def _rows(tensor, beam):
    """Take rows `beam` (B, K) of a tensor (B, K, T)."""
    return tensor.gather(1, beam[:, :, None].expand(-1, -1, tensor.shape[2]))


# ---- Looking on ----

@torch.no_grad()
def likeliest_words(decoder, features, caption, top=5):
    """What a caption of one image could have gone on with. features: (1, ...); caption: its ids.

    Returns for each id but the first a list of `top` pairs (id, probability), the likeliest first.
    """
    state, steps = decoder.init_state(features), []
    for word in caption[:-1]:
        scores, state = decoder.step(torch.tensor([word], device=features.device), state)
        chances, ids = scores[0].float().softmax(dim=0).topk(top)
        steps.append(list(zip(ids.tolist(), chances.tolist(), strict=True)))
    return steps


@torch.no_grad()
def attention_weights(decoder, features, caption):
    """Where a decoder with `attention` looked as it wrote each id of a caption but the first -> (T - 1, P).

    features: (1, P, E); caption: T ids, whichever method chose them.
    """
    seen = []
    hook = decoder.attention.register_forward_hook(lambda module, inputs, output: seen.append(output[1][0, -1]))
    try:
        likeliest_words(decoder, features, caption, top=1)
    finally:
        hook.remove()
    return torch.stack(seen)
