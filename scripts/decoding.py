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
        words = scores.argmax(dim=1).masked_fill(ended, decoder.end_id)           # an ended caption stays ended
        captions.append(words)
        ended |= words == decoder.end_id
    captions = torch.stack(captions, dim=1).tolist()                              # (B, T)
    return [ids[:ids.index(decoder.end_id) + 1] if decoder.end_id in ids else ids for ids in captions]


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
