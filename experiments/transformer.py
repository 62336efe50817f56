"""model.py with a Transformer in place of the LSTM: each word looks at all before it and the image.

    python -m scripts.train --name transformer --model-file experiments/transformer.py

Vaswani et al. 2017, Attention Is All You Need. The norms come first in each layer (Xiong et al.
2020, On Layer Normalization in the Transformer Architecture). What the heads compare, keys and
values, is kept while a caption is written: a step computes those of the new word alone.

Axes: B batch, T caption length, S words or places that are looked at, V vocabulary, E embedding,
H hidden, P places of an image.
"""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

import model
from model import AlignedLinear, Dropout, EncoderCNN

__all__ = ['DecoderRNN', 'EncoderCNN']


class DecoderRNN(nn.Module):
    """Image -> caption: a Transformer that reads the words so far and scores the next.

    embed_size: of a word, and of each place of the image
    hidden_size: of the Transformer; its feed-forward layers are four times as wide
    vocab_size: number of words
    num_layers: of the Transformer
    dropout: share of what is read, and of what each layer adds, that is dropped in training
    start_id: id of the word that begins a caption
    end_id: id of the word that ends a caption
    image: 'attention', a vector for each place; or 'every', one for the image: a single place
    heads: of attention, each with its share of hidden_size

    Features are (B, P, E), of an encoder with grid=True, or (B, E) with image='every'.
    """

    def __init__(self, embed_size, hidden_size, vocab_size, num_layers=2, dropout=0.0,
                 start_id=0, end_id=1, image='attention', heads=8):
        super().__init__()
        if image not in ('attention', 'every'):
            raise ValueError(f"image='{image}': expected 'attention' or 'every'.")
        if hidden_size % heads:
            raise ValueError(
                f'hidden_size={hidden_size}: attention needs a multiple of its {heads} heads.')
        self.start_id, self.end_id, self.image = start_id, end_id, image
        self.embedding = nn.Embedding(vocab_size, embed_size)
        self.read = nn.Linear(embed_size, hidden_size)
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(
            Layer(embed_size, hidden_size, heads, dropout) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size)
        self.linear = AlignedLinear(hidden_size, vocab_size)

    @property
    def attention(self):
        """The last look at the image, which is what pictures show."""
        return self.layers[-1].image

    def forward(self, features, captions, scored=None, inputs=None):
        """Scores of the next word at every position, teacher-forced: (B, T, V), or (W, V).

        Arguments and positions are those of model.DecoderRNN. inputs: (B,), which of the features
        each caption describes, where several describe one: keys and values are computed once.
        Training leaves out the first position, where the image alone predicts the start word, and
        all after the end: no layer reads these.
        """
        features = self.dropout(self._as_places(features))                  # (N, P, E)
        if inputs is None:
            inputs = torch.arange(len(features), device=features.device)
        hidden = self.read(features.mean(dim=1)).index_select(0, inputs)    # (B, H)
        hidden = hidden.unsqueeze(1)                                        # (B, 1, H)
        if captions.shape[1] > 1:
            read = captions[:, :-1]                                         # (B, T-1)
            has_word = read != self.end_id if scored is not None and read.is_cpu else None
            at = Positions(read.shape, has_word)
            words = at.packed(self.dropout(self._read_words(read)))         # (W, H)
            for layer in self.layers:
                places = layer.image.keys_and_values(features).index_select(0, inputs)
                words, _ = layer(words, at, places)
            hidden = torch.cat([hidden, at.padded(words)], dim=1)           # (B, T, H)
        if scored is not None:
            return self.linear(self.norm(hidden.flatten(0, 1).index_select(0, scored)))    # (W, V)
        return self.linear(self.norm(hidden)).contiguous()                  # (B, T, V)

    def init_state(self, features, state=None):
        """State before the first word, a tuple of keys and values of each layer.

        First those of the image, (B, 2, heads, P, H / heads) for each layer, then those of the
        words so far, of which each step adds one to the same axis. features: as in `forward`.
        state: None, as `sample` gives it; an LSTM could start from another.
        """
        features = self._as_places(features)
        places = [layer.image.keys_and_values(features) for layer in self.layers]
        no_words = [of_image[:, :, :, :0] for of_image in places]
        return *places, *no_words

    def step(self, words, state):
        """Read one word each, words (B,), and score the next: (scores (B, V), state)."""
        places, earlier = state[:len(self.layers)], state[len(self.layers):]
        at = Positions((len(words), 1))
        hidden = at.packed(self._read_words(words[:, None], first=earlier[0].shape[3]))  # (B, H)
        later = []
        for layer, *kept in zip(self.layers, places, earlier, strict=True):
            hidden, of_words = layer(hidden, at, *kept)
            later.append(of_words)
        return self.linear(self.norm(hidden)), (*places, *later)

    sample = model.DecoderRNN.sample    # greedy, of one image; `states` are an LSTM's: None here

    def _as_places(self, features):
        return features if self.image == 'attention' else features.unsqueeze(1)

    def _read_words(self, words, first=0):
        """Words (B, T), the first of them at position `first` -> (B, T, H)."""
        hidden = self.read(self.embedding(words))
        return hidden + positions(first, *hidden.shape[1:], hidden.device)


class Positions:
    """The positions of captions (B, T) that are computed: packed rows (W, ...), one for each.

    has_word: bool (B, T), those; by default all. On a CPU it is quicker to leave out the others.
    """

    def __init__(self, shape, has_word=None):
        self.shape = shape
        self.rows = None if has_word is None else has_word.flatten().nonzero().squeeze(1)

    def packed(self, padded):
        """(B, T, ...) -> (W, ...)"""
        flat = padded.flatten(0, 1)
        return flat if self.rows is None else flat.index_select(0, self.rows)

    def padded(self, packed):
        """(W, ...) -> (B, T, ...), 0 where nothing is computed."""
        if self.rows is not None:
            count = self.shape[0] * self.shape[1]
            flat = packed.new_zeros(count, *packed.shape[1:])
            packed = flat.index_copy(0, self.rows, packed)
        return packed.unflatten(0, self.shape)


class Layer(nn.Module):
    """Look at the words so far, look at the image, feed forward: each adds to what came in."""

    def __init__(self, embed_size, hidden_size, heads, dropout):
        super().__init__()
        self.words = WordAttention(hidden_size, hidden_size, heads)
        self.image = ImageAttention(embed_size, hidden_size, heads)
        self.feed_forward = nn.Sequential(
            nn.Linear(hidden_size, 4 * hidden_size), nn.GELU(),
            nn.Linear(4 * hidden_size, hidden_size))
        self.before_words = nn.LayerNorm(hidden_size)
        self.before_image = nn.LayerNorm(hidden_size)
        self.before_feed_forward = nn.LayerNorm(hidden_size)
        self.dropout = Dropout(dropout)

    def forward(self, hidden, at, places, earlier=None):
        """hidden: (W, H), at Positions of captions. places, earlier: keys and values of the image,
        and of earlier words.

        Returns hidden for the next layer, and the keys and values of all words so far.
        """
        seen, words = self.words(self.before_words(hidden), at, earlier)
        hidden = hidden + self.dropout(seen)
        seen, _ = self.image(self.before_image(hidden), at, places)
        hidden = hidden + self.dropout(seen)
        added = self.feed_forward(self.before_feed_forward(hidden))
        return hidden + self.dropout(added), words


class Attention(nn.Module):
    """What words and places have in common: heads that compare queries with keys.

    source_size: of what is looked at. Keys and values are one tensor (B, 2, heads, S, H / heads).
    """

    def __init__(self, source_size, hidden_size, heads):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_and_value = nn.Linear(source_size, 2 * hidden_size)
        self.out = nn.Linear(hidden_size, hidden_size)

    def split(self, both):
        """(B, S, 2 * H) -> keys and values; contiguous: or each step would copy them."""
        return both.unflatten(2, (2, self.heads, -1)).permute(0, 2, 3, 1, 4).contiguous()

    def queries(self, hidden, at):
        """hidden: (W, H) -> (B, heads, T, H / heads)."""
        return at.padded(self.query(hidden)).unflatten(2, (self.heads, -1)).transpose(1, 2)

    def joined(self, seen, at):
        """What all heads saw, (B, heads, T, H / heads) -> (W, H)."""
        return self.out(at.packed(seen.transpose(1, 2)).flatten(1))


class WordAttention(Attention):
    """Look at the words so far."""

    def forward(self, hidden, at, earlier=None):
        """hidden: (W, H); earlier: keys and values of words before, then T is 1, or None.

        Returns what was seen, (W, H), and the keys and values of all words so far.
        """
        words = self.split(at.padded(self.key_and_value(hidden)))
        if earlier is not None:
            words = torch.cat([earlier, words], dim=3)
        keys, values = words.unbind(dim=1)
        seen = scaled_dot_product_attention(
            self.queries(hidden, at), keys, values, is_causal=earlier is None)
        return self.joined(seen, at), words


class ImageAttention(Attention):
    """Look at the places of the image, and tell where."""

    def keys_and_values(self, features):
        """Of places (B, P, E)."""
        return self.split(self.key_and_value(features))

    def forward(self, hidden, at, places):
        """hidden: (W, H). places: keys and values. Returns what was seen, (W, H), and the weights
        (B, T, P), means over the heads."""
        keys, values = places.unbind(dim=1)
        queries = self.queries(hidden, at) / keys.shape[3] ** 0.5
        weights = (queries @ keys.transpose(2, 3)).softmax(dim=3)           # (B, heads, T, P)
        return self.joined(weights @ values, at), weights.mean(dim=1)


def positions(first, count, size, device):
    """Sines and cosines that tell the place in the caption, from `first` on: (count, size).

    They go on for captions of any length. (Vaswani et al. 2017.)
    """
    place = torch.arange(first, first + count, device=device)
    frequencies = 10000 ** (-torch.arange(0, size, 2, device=device) / size)
    angles = place[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :size]
