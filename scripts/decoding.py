"""Decoding: from features to captions, for any decoder that has `init_state(features)` and `step(words, state)`.

    ids = greedy(decoder, features)         # features (B, E) -> B lists [start, words..., end]

A state is a tuple of tensors whose first axis is the batch. Axes: B batch, E embedding, V vocabulary.
"""

import torch


@torch.no_grad()
def greedy(decoder, features, max_len=20):
    """The likeliest word at each step, for a batch of images. Stops when every caption has ended.

    features: (B, E). Returns B lists of at most max_len ints, [start, words..., end]; the same words as
    `decoder.sample` gives one image at a time. Call it in eval mode.
    """
    words = torch.full((len(features),), decoder.start_id, device=features.device)
    state = decoder.init_state(features)
    captions, ended = [words], torch.zeros_like(words, dtype=torch.bool)
    while len(captions) < max_len and not ended.all():
        scores, state = decoder.step(words, state)                                # (B, V)
        words = scores.argmax(dim=1)
        captions.append(words)
        ended |= words == decoder.end_id
    return _cut(torch.stack(captions, dim=1), decoder.end_id)


def _cut(captions, end_id):
    """Rows of captions (B, T) up to their first end word, as lists of ints."""
    return [ids[:ids.index(end_id) + 1] if end_id in ids else ids for ids in captions.tolist()]


@torch.no_grad()
def beam_search(decoder, features, beam_size=3, max_len=20, length_power=0.7):
    """The likeliest caption among those that a beam of `beam_size` keeps, for a batch of images.

    features: (B, E). Captions are ranked by log-probability / words ** length_power (after Wu et al. 2016, Google's
    Neural Machine Translation System), since a plain sum prefers short ones. An ended caption keeps its place in the
    beam until better ones push it out. Returns, as `greedy` does, B lists of ids: the best ended caption, or the best
    unended one where none has ended. A beam of 1 is greedy.
    """
    B, K, end = len(features), beam_size, decoder.end_id
    state = tuple(part.repeat_interleave(K, dim=0) for part in decoder.init_state(features))       # (B * K, ...)
    captions = torch.full((B, K, 1), decoder.start_id, device=features.device)
    total = features.new_full((B, K), -torch.inf)        # log-probability; at first all K are the same, so one counts
    total[:, 0] = 0
    lengths, ended = torch.zeros_like(total), torch.zeros_like(total, dtype=torch.bool)
    best, best_rank = captions.new_full((B, max_len), end), features.new_full((B,), -torch.inf)
    while captions.shape[2] < max_len and not ended.all():
        scores, state = decoder.step(captions[:, :, -1].flatten(), state)
        chances = scores.float().log_softmax(dim=1).view(B, K, -1)                                 # (B, K, V)
        chances = chances.masked_fill(ended[:, :, None], -torch.inf)
        chances[:, :, end] = chances[:, :, end].masked_fill(ended, 0)                              # ended: end again
        longer = lengths + ~ended
        rank = (total[:, :, None] + chances) / longer[:, :, None] ** length_power
        rank, flat = rank.flatten(1).topk(K, dim=1)                                                # (B, K)
        beam, words = flat // chances.shape[2], flat % chances.shape[2]
        lengths = longer.gather(1, beam)
        total = rank * lengths ** length_power
        captions = torch.cat([captions.gather(1, beam[:, :, None].expand_as(captions)), words[:, :, None]], dim=2)
        rows = (beam + K * torch.arange(B, device=beam.device)[:, None]).flatten()
        state = tuple(part[rows] for part in state)
        ended = words == end
        top_rank, top = rank.masked_fill(~ended, -torch.inf).max(dim=1)
        better = top_rank > best_rank
        best[better, :captions.shape[2]] = captions[torch.arange(B, device=top.device), top][better]
        best_rank = torch.where(better, top_rank, best_rank)
    unended = best_rank == -torch.inf
    best[unended, :captions.shape[2]] = captions[unended, 0]
    return _cut(best[:, :captions.shape[2]], end)


@torch.no_grad()
def likeliest_words(decoder, features, top=5, max_len=20):
    """Greedy decoding of one image, step by step. features: (1, E).

    Yields for each step the `top` likeliest next words as a list of (id, probability), the chosen one first.
    """
    words, state = torch.tensor([decoder.start_id], device=features.device), decoder.init_state(features)
    for _ in range(max_len - 1):
        scores, state = decoder.step(words, state)
        chances, ids = scores[0].float().softmax(dim=0).topk(top)
        yield list(zip(ids.tolist(), chances.tolist(), strict=True))
        words = ids[:1]
        if words.item() == decoder.end_id:
            return
