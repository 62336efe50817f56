"""Captions as vectors of n-grams, as CIDEr compares them, and what CIDEr one can expect.

    ngrams = NGrams.of_captions(captions)           # of images, for each a list, each of words
    shares = ngrams.mean_vectors(captions)          # (N, G)
    ngrams.expected_cider(shares, candidates)       # for each image an array

Axes: N images, G n-grams.
"""

import collections
import math

import numpy as np
import torch

from captioning.cider import LONGEST_NGRAM, SCALE

LEAST_IMAGES = 8        # of which the captions have an n-gram that is kept,
LEAST_SHARE = 1 / 750   # and this share of them


class NGrams:
    """The n-grams that are common, and captions as vectors of them.

    images: how many the captions belong to. images_with: {n-gram: how many of them have it}.
    """

    def __init__(self, images, images_with):
        self.images, self.images_with = images, images_with
        self.column = {gram: column for column, gram in enumerate(images_with)}

    @classmethod
    def of_captions(cls, captions, least_share=LEAST_SHARE):
        """Those that enough images have. captions: of each image a list, each of words."""
        counts = collections.Counter()
        for of_image in captions:
            counts.update({gram for words in of_image for gram in _ngrams_up_to_longest(words)})
        least = max(LEAST_IMAGES, least_share * len(captions))
        common = sorted(gram for gram, count in counts.items() if count >= least)
        return cls(len(captions), {gram: counts[gram] for gram in common})

    @classmethod
    def of_content(cls, content):
        """As `content` gave it."""
        return cls(content['images'], {tuple(text.split(' ')): count for text, count
                                       in content['images_with'].items()})

    def content(self):
        """What a file keeps of it."""
        return {'images': self.images, 'images_with': {' '.join(gram): count for gram, count
                                                       in self.images_with.items()}}

    def vector(self, words):
        """A caption -> (columns, values) of its n-grams that are common.

        Values are divided by LONGEST_NGRAM, so that a product of two is the mean of four cosines.
        """
        columns, values = [], []
        for n in range(1, LONGEST_NGRAM + 1):
            counts = collections.Counter(_ngrams(words, n))
            weights = {gram: count * self._rarity(gram) for gram, count in counts.items()}
            norm = math.sqrt(sum(weight ** 2 for weight in weights.values())) * LONGEST_NGRAM
            for gram, weight in weights.items():
                if gram in self.column and weight:
                    columns.append(self.column[gram])
                    values.append(weight / norm)
        return np.array(columns, dtype=int), np.array(values, dtype=np.float32)

    def mean_vectors(self, captions):
        """The mean vector of the captions of each image, times LONGEST_NGRAM, (N, G)."""
        vectors = torch.zeros(len(captions), len(self.column))
        for row, of_image in zip(vectors.numpy(), captions, strict=True):
            for words in of_image:
                columns, values = self.vector(words)
                row[columns] += values * LONGEST_NGRAM / len(of_image)
        return vectors

    def expected_cider(self, shares, candidates):
        """CIDEr that captions can expect -> for each image an array; 1 of it is 100 in papers.

        shares: (N, G), what mean_vectors would give of its captions. candidates: for each image a
        list of captions, each of words.
        """
        expected = []
        for of_image, captions in zip(np.asarray(shares), candidates, strict=True):
            vectors = [self.vector(words) for words in captions]
            expected.append(np.array([SCALE * float(values @ of_image[columns])
                                      for columns, values in vectors]))
        return expected

    def _rarity(self, gram):
        """Inverse document frequency; of n-grams that are not common, a guess."""
        return math.log(self.images / self.images_with.get(gram, LEAST_IMAGES / 2))


def _ngrams(words, n):
    return [tuple(words[start:start + n]) for start in range(len(words) - n + 1)]


def _ngrams_up_to_longest(words):
    return [gram for n in range(1, LONGEST_NGRAM + 1) for gram in _ngrams(words, n)]
