"""Where a decoder with attention looked as it wrote a caption.

    figure = show_attention(captioner, photo)
"""

import torch

from captioning.decoding import attention_weights, greedy
from captioning.figures import plot_attention


def has_attention(captioner):
    """Whether the captioner's decoder looks at places of the image, as model.py's does."""
    decoder = captioner.decoder
    return getattr(decoder, 'image', None) == 'attention' and hasattr(decoder, 'attention')


@torch.no_grad()
def show_attention(captioner, photo, caption_ids=None, features=None):
    """The photo once for each word of a caption, bright where the decoder looked.

    captioner: one with attention. photo: PIL image. caption_ids: [start, words..., end], by default
    those of the greedy caption. features: (1, P, C) of the photo, if they are there already.
    Returns a matplotlib figure, see plot_attention.
    """
    if features is None:
        features = captioner.features([photo])
    if caption_ids is None:
        caption, = captioner.decode(features, greedy)
        caption_ids = caption.ids
    embedded = captioner.encoder.embed(features)                                # (1, P, E)
    writer = captioner.naming or captioner    # whose vocabulary is longer
    weights = attention_weights(writer.decoder, embedded, caption_ids)          # (T - 1, P)
    words = [writer.vocab.idx2word[idx] for idx in caption_ids[1:]]
    return plot_attention(photo, words, weights.cpu())
