"""New words for a trained decoder: each borrows the rows of known words that are like it.

    nouns = KnownNouns(row_norms(decoder, vocab))           # of captioning.recognition.like_words
    like = {word: nouns.like(word) for word in ('elephant', 'elephants')}
    decoder, vocab, new_ids = extended(decoder, vocab, like)
    captions = constrained_search(decoder, features, [[{vocab('elephant'), vocab('elephants')}]],
                                  forbidden=[vocab.unk_id], only_required=new_ids)

A new word is read as the weighted mean of the words that it is like, and scored with the weighted
mean of their scores: its probability is their weighted geometric mean. (After Hendricks et al.
2016, Deep Compositional Captioning, who hand the weights of known words on to new ones.) Nothing is
trained, so such words must not compete with those that the decoder has learned: `only_required` of
captioning/constrained_search.py writes them only where they are required.
"""

import copy
from typing import NamedTuple

import torch
from torch import nn


class Extended(NamedTuple):
    """A decoder that has new words, its Vocabulary and the ids of the new ones, which come last."""

    decoder: nn.Module
    vocab: object
    new_ids: list


def extended(decoder, vocab, like_words):
    """A copy of a decoder that has new words -> Extended.

    decoder: it has `embedding`, an nn.Embedding, and `linear`, an nn.Linear that scores the words,
    which may share their weights; it stays as it is. like_words: dict from each new word to pairs
    (known word, weight above 0); words that the vocabulary has keep their rows.

    The copy is for decoding: its weights take no gradients. Raises ValueError for a decoder of
    another kind, and for words that are like none or like one that is not known.
    """
    _check_kind(decoder, vocab)
    new_words = [word for word in like_words if word not in vocab.word2idx]
    shares = [_shares(word, like_words[word], vocab) for word in new_words]
    decoder = copy.deepcopy(decoder).requires_grad_(False)
    for layer in decoder.modules():
        if isinstance(layer, nn.RNNBase):
            layer.flatten_parameters()    # on a GPU: a copy has them in pieces
    if new_words:
        _add_rows(decoder, shares)
    words = [vocab.idx2word[word_id] for word_id in range(len(vocab))]
    special = vocab.start_word, vocab.end_word, vocab.unk_word
    new_vocab = type(vocab).from_words([*words, *new_words], *special)
    return Extended(decoder, new_vocab, [new_vocab(word) for word in new_words])


def row_norms(decoder, vocab):
    """{word: length of the row by which it is written}: the longer, the more often it was seen.

    Of the words in Flickr8k's captions, the order by it and by the number of occurrences have a
    correlation of 0.83 in the best model that ships, and 0.77 in the plain one. ValueError as in
    `extended`.
    """
    _check_kind(decoder, vocab)
    norms = decoder.linear.weight.detach().float().norm(dim=1).tolist()
    return {vocab.idx2word[word_id]: norm for word_id, norm in enumerate(norms)}


def _check_kind(decoder, vocab):
    name = type(decoder).__name__
    embedding, linear = getattr(decoder, 'embedding', None), getattr(decoder, 'linear', None)
    if not isinstance(embedding, nn.Embedding) or not isinstance(linear, nn.Linear):
        raise ValueError(
            f'{name} cannot take new words: its embedding is of type {type(embedding).__name__} '
            f'and its linear of type {type(linear).__name__}; expected nn.Embedding and nn.Linear.')
    sizes = embedding.num_embeddings, linear.out_features
    if sizes != (len(vocab), len(vocab)):
        raise ValueError(
            f'{name} cannot take new words: its embedding has {sizes[0]} rows and its linear '
            f'{sizes[1]}; expected {len(vocab)}, the words of the vocabulary.')


def _shares(word, likes, vocab):
    """-> pairs (id, share) of the known words that a new one is like; the shares add up to 1."""
    total = sum(weight for _, weight in likes)
    if not likes or not all(weight > 0 for _, weight in likes):
        raise ValueError(f"'{word}' is like {likes}: expected at least one known word, and weights "
                         'above 0.')
    unknown = [known for known, _ in likes if known not in vocab.word2idx]
    if unknown:
        raise ValueError(f"'{word}' is like {unknown}: expected words of the vocabulary.")
    return [(vocab(known), weight / total) for known, weight in likes]


def _add_rows(decoder, shares):
    """Add rows to the embedding and the linear layer, one for each list of pairs (id, share)."""
    embedding, linear = decoder.embedding, decoder.linear
    tied = embedding.weight is linear.weight
    linear.weight = _with_means(linear.weight, shares)
    if linear.bias is not None:
        linear.bias = _with_means(linear.bias, shares)
    embedding.weight = linear.weight if tied else _with_means(embedding.weight, shares)
    linear.out_features = embedding.num_embeddings = len(linear.weight)


def _with_means(rows, shares):
    """Rows (V, ...) with as many more as there are lists of pairs (id, share)."""
    means = [sum(share * rows[word_id] for word_id, share in pairs) for pairs in shares]
    return nn.Parameter(torch.cat([rows, torch.stack(means)]), requires_grad=False)
