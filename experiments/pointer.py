"""model.py with a pointer: a word is written from the vocabulary, or copied from those recognized.

    python -m experiments.recognized_words ... --variants pointer pointer-in-turn

Li et al. 2019, Pointing Novel Objects in Image Captioning: for each word a gate decides between the
two, and what is copied need not have been learned. *In turn*: in training a recognized word is now
and then treated like one that no caption has, so that the decoder learns to copy those, and to go
on behind them.

Behind the places of the photo, features have places of recognized words; experiments/
recognized_words.py makes them, and tells the decoder how their words are written (`know`).

Axes: B batch, N positions that are scored, T caption length, V vocabulary, E embedding, H hidden,
P places, K of them of words, W words that can be recognized, L likes of a word.
"""

import functools
from typing import NamedTuple

import torch
from torch import nn

import model
from model import EncoderCNN as FrozenEncoder

__all__ = ['DecoderRNN', 'EncoderCNN']

LIKES = 3          # known words that a new one is read as
LEAST = 1e-6       # probability of a word that is neither scored nor copied


class EncoderCNN(FrozenEncoder):
    """model.EncoderCNN whose head hands on which word a place is of."""

    @functools.wraps(FrozenEncoder.__init__)    # its arguments are the settings
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.embed = NumberedPlaces(*self.embed)


class NumberedPlaces(nn.Sequential):
    """Features (B, P, C) -> (B, P, E + 1), the last: 1 + the number of the word of a place, or 0.

    A photo's features are positive; where the first is below 0, it is less that number.
    """

    def forward(self, features):
        first, others = features.split([1, features.shape[-1] - 1], dim=-1)
        embedded = super().forward(torch.cat([first.clamp(min=0), others], dim=-1))
        return torch.cat([embedded.float(), (-first).clamp(min=0).float()], dim=-1)


class Copied(NamedTuple):
    """What can be copied: keys (B, K, E), and which word each place has, words (B, K), or -1."""

    keys: torch.Tensor
    words: torch.Tensor


class DecoderRNN(model.DecoderRNN):
    """model.DecoderRNN with attention, and a pointer.

    recognized: number of words that can be. word_places: places of an image that are of words.
    in_turn: share of the recognized words that a caption is trained with as if they were new.
    Other arguments are those of model.DecoderRNN.
    """

    def __init__(self, embed_size, hidden_size, vocab_size, num_layers=1, dropout=0.0,
                 start_id=0, end_id=1, image='attention', tied=False, recognized=423,
                 word_places=3, in_turn=0.0):
        super().__init__(embed_size, hidden_size, vocab_size, num_layers, dropout, start_id,
                         end_id, image, tied)
        self.word_places, self.in_turn = word_places, in_turn
        self.pointer = nn.Linear(hidden_size, embed_size)
        self.stay = nn.Linear(hidden_size, 1)      # against copying
        self.plural = nn.Linear(hidden_size, 1)
        own = torch.arange(vocab_size)[:, None].expand(-1, LIKES)
        self.register_buffer('forms', torch.zeros(recognized, 2, dtype=torch.long))
        self.register_buffer('has_plural', torch.zeros(recognized, dtype=torch.bool))
        self.register_buffer('is_new', torch.zeros(vocab_size, dtype=torch.bool))
        self.register_buffer('likes', own.clone())                          # (V, L) ids
        self.register_buffer('shares', torch.full((vocab_size, LIKES), 1 / LIKES))

    def know(self, words, vocab, like, is_new):
        """Learn how recognized words are written. words: list of Word. like: {form: pairs (known
        word, share)}. is_new: forms that no caption has.
        """
        for number, word in enumerate(words):
            plural = word.plural if word.plural in vocab.word2idx else word.word
            self.forms[number] = torch.tensor([vocab(word.word), vocab(plural)])
            self.has_plural[number] = plural != word.word
        self.is_new[[vocab(form) for form in is_new]] = True
        for form, pairs in like.items():
            pairs = (pairs + [(pairs[0][0], 0.0)] * LIKES)[:LIKES]
            self.likes[vocab(form)] = torch.tensor([vocab(known) for known, _ in pairs])
            self.shares[vocab(form)] = torch.tensor([share for _, share in pairs])

    # ---- As model.DecoderRNN ----

    def forward(self, features, captions, scored=None):
        places, copied = self._split(features)
        unlearned = self._in_turn(copied)                                   # (B, V)
        image = self.dropout(self.attention.summary(places))
        words = self.dropout(self._read_words(captions[:, :-1], unlearned))
        hidden = self._read_caption(image, self._beside(words, image))      # (B, T, H)
        hidden, _ = self.attention(self.attention.places(places), hidden)
        hidden = self.dropout(hidden)
        batch, steps, _ = hidden.shape
        of_caption = torch.arange(batch, device=hidden.device).repeat_interleave(steps)
        hidden = hidden.flatten(0, 1)
        if scored is not None:
            hidden, of_caption = hidden[scored], of_caption[scored]
        scores = self._scores(hidden, Copied(*(part[of_caption] for part in copied)),
                              unlearned[of_caption])
        return scores if scored is not None else scores.view(batch, steps, -1)

    def init_state(self, features, state=None):
        places, copied = self._split(features)
        return *copied, *super().init_state(places, state)

    def step(self, words, state):
        keys, numbers, image, places, *state = state
        copied = Copied(keys, numbers)
        unlearned = self.is_new.expand(len(words), -1)
        read = self._read_words(words.unsqueeze(1), unlearned)
        hidden, state = self._read(self._beside(read, image), state)
        hidden, _ = self.attention(places, hidden)
        scores = self._scores(hidden.squeeze(1), copied, unlearned)
        return scores, (*copied, image, places, *state)

    # ---- What the pointer adds ----

    def _split(self, features):
        """(B, P, E + 1) -> features of all places (B, P, E), and Copied."""
        features, numbers = features[..., :-1], features[:, -self.word_places:, -1]
        return features, Copied(features[:, -self.word_places:], numbers.round().long() - 1)

    def _in_turn(self, copied):
        """The words that are read and written as if they were new, (B, V) bool."""
        unlearned = self.is_new.repeat(len(copied.words), 1)
        if self.training and self.in_turn:
            chosen = torch.rand(copied.words.shape, device=unlearned.device) < self.in_turn
            rows, columns = torch.nonzero(chosen & (copied.words >= 0), as_tuple=True)
            forms = self.forms[copied.words[rows, columns]]                 # (n, 2)
            unlearned[rows[:, None], forms] = True
        return unlearned

    def _read_words(self, words, unlearned):
        """Ids (B, T) -> (B, T, E): a word that is new is read as the ones that it is like."""
        borrowed = (self.embedding(self.likes[words]) * self.shares[words][..., None]).sum(dim=-2)
        is_new = unlearned.gather(1, words)[..., None]
        return self.scale * torch.where(is_new, borrowed, self.embedding(words))

    def _scores(self, hidden, copied, unlearned):
        """hidden (N, H), Copied and unlearned of each position -> log-probabilities (N, V)."""
        keys, numbers = copied
        pointed = (keys @ self.pointer(hidden).unsqueeze(2)).squeeze(2) / keys.shape[2] ** 0.5
        pointed = pointed.masked_fill(numbers < 0, -torch.inf)
        choice = torch.cat([pointed, self.stay(hidden)], dim=1).float().log_softmax(dim=1)
        written = self.linear(hidden).float().masked_fill(unlearned, -torch.inf).log_softmax(dim=1)
        is_plural = self.plural(hidden).float().sigmoid()                   # (N, 1)
        is_plural = is_plural * self.has_plural[numbers]                    # (N, K)
        shares = torch.stack([1 - is_plural, is_plural], dim=2)             # (N, K, 2)
        copies = (choice[:, :-1].exp()[..., None] * shares).flatten(1)
        probabilities = (written + choice[:, -1:]).exp()
        probabilities = probabilities.scatter_add(1, self.forms[numbers].flatten(1), copies)
        return probabilities.clamp(min=LEAST).log()
