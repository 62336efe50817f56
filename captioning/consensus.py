"""What people would say of an image, foretold from its features; it chooses among captions.

    consensus = Consensus(features, captions)           # of training images; takes a minute
    expected = consensus.expected_cider(features, candidates)
    consensus.chosen(features, candidates, log_probs)   # of each image the best one

A caption scores high in CIDEr if it has the n-grams of the captions that people wrote. Which these
are can be foretold as a whole: for each n-gram its mean share in an image's captions, weighed as
CIDEr weighs it. Between that and a caption CIDEr itself is expected. Devlin et al. 2015 (Exploring
Nearest Neighbor Approaches for Image Captioning) choose the caption that is most like those of the
nearest images; here a kernel ridge regression takes the place of the neighbours.

Axes: N images, C channels, M centres of the kernel, G n-grams.
"""

import collections
import math

import numpy as np
import torch

from captioning.beam_search import length_normalized
from captioning.cider import LONGEST_NGRAM, SCALE
from captioning.recognition.linear import roots

LEAST_IMAGES = 8        # of which the captions have an n-gram that is foretold
ROUNDS = 8              # of k-means
WEIGHT = 2.0            # of the expected CIDEr beside the log-probability


class Consensus:
    """Foretells the n-grams of people's captions from pooled features; made of training images.

    features: (N, C), pooled. captions: of each image a list of captions, each a list of words.
    centres: of the kernel, means of like images by k-means; at most N. decay: of the ridge
    regression.
    """

    @torch.no_grad()
    def __init__(self, features, captions, centres=1500, decay=0.1):
        self.images = len(captions)
        self.images_with = _images_with(captions)
        self.column = {gram: column for column, gram in enumerate(self.images_with)}
        inputs = roots(features)
        self.mean, self.deviation = inputs.mean(dim=0), inputs.std(dim=0) + 1e-3
        inputs = self._standardized(features)
        self.centres = k_means(inputs, min(centres, len(inputs)))               # (M, C)
        self.width = squared_distances(inputs, inputs[:1000]).median() / 1.5
        kernel, shares = self._kernel(features), self._mean_vectors(captions)   # (N, M), (N, G)
        self.kernel_mean, self.shares_mean = kernel.mean(dim=0), shares.mean(dim=0)
        kernel, shares = kernel - self.kernel_mean, shares - self.shares_mean
        ridge = kernel.T @ kernel + decay * torch.eye(len(self.centres))
        self.weight = torch.linalg.solve(ridge, kernel.T @ shares)              # (M, G)

    @torch.no_grad()
    def expected_cider(self, features, candidates):
        """CIDEr that captions can expect -> for each image an array; 1 of it is 100 in papers.

        features: (N, C), pooled. candidates: for each image a list of captions, each of words.
        """
        kernel = self._kernel(features) - self.kernel_mean
        shares = kernel @ self.weight + self.shares_mean                        # (N, G)
        expected = []
        for shares_of_image, captions in zip(shares.numpy(), candidates, strict=True):
            vectors = [self._vector(words) for words in captions]
            expected.append(np.array([SCALE * float(values @ shares_of_image[columns])
                                      for columns, values in vectors]))
        return expected

    def chosen(self, features, candidates, log_probs, weight=WEIGHT):
        """Which of its candidates has the highest sum for each image -> list of their numbers.

        features, candidates: as in `expected_cider`. log_probs: of each candidate those of its
        words and of the end. The sum is that of the log-probability, normalized by the length as in
        beam search, and `weight` times the expected CIDEr.
        """
        numbers = []
        for expected, of_image in zip(self.expected_cider(features, candidates), log_probs,
                                      strict=True):
            likely = np.array([length_normalized(sum(each), len(each)) for each in of_image])
            numbers.append(int(np.argmax(likely + weight * expected)))
        return numbers

    def _kernel(self, features):
        """Features (N, C) -> how near each centre is, from 0 to 1, (N, M)."""
        distances = squared_distances(self._standardized(features), self.centres)
        return torch.exp(-distances / self.width)

    def _standardized(self, features):
        return (roots(features) - self.mean) / self.deviation

    def _vector(self, words):
        """A caption as CIDEr sees it -> (columns, values) of its n-grams that are foretold.

        Values are divided by LONGEST_NGRAM, so that a product of two is the mean of four cosines.
        """
        columns, values = [], []
        for n in range(1, LONGEST_NGRAM + 1):
            counts = collections.Counter(ngrams(words, n))
            weights = {gram: count * self._rarity(gram) for gram, count in counts.items()}
            norm = math.sqrt(sum(weight ** 2 for weight in weights.values())) * LONGEST_NGRAM
            for gram, weight in weights.items():
                if gram in self.column and weight:
                    columns.append(self.column[gram])
                    values.append(weight / norm)
        return np.array(columns, dtype=int), np.array(values, dtype=np.float32)

    def _rarity(self, gram):
        """Inverse document frequency; of n-grams that are not foretold, a guess."""
        return math.log(self.images / self.images_with.get(gram, LEAST_IMAGES / 2))

    def _mean_vectors(self, captions):
        """The mean vector of the captions of each image, times LONGEST_NGRAM, (N, G)."""
        vectors = torch.zeros(len(captions), len(self.column))
        for row, of_image in zip(vectors.numpy(), captions, strict=True):
            for words in of_image:
                columns, values = self._vector(words)
                row[columns] += values * LONGEST_NGRAM / len(of_image)
        return vectors


def ngrams(words, n):
    return [tuple(words[start:start + n]) for start in range(len(words) - n + 1)]


def _images_with(captions):
    """{n-gram: how many images have it in their captions}, of those that LEAST_IMAGES have."""
    counts = collections.Counter()
    for of_image in captions:
        counts.update({gram for words in of_image for n in range(1, LONGEST_NGRAM + 1)
                       for gram in ngrams(words, n)})
    return {gram: count for gram, count in counts.items() if count >= LEAST_IMAGES}


def squared_distances(inputs, centres):
    """(N, C) and (M, C) -> (N, M)."""
    squares = inputs.square().sum(dim=1)[:, None] + centres.square().sum(dim=1)
    return (squares - 2 * inputs @ centres.T).clamp(min=0)


def k_means(inputs, count):
    """Centres of `count` groups of like rows (Lloyd 1982), always the same for the same inputs."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    centres = inputs[order[:count]]
    for _ in range(ROUNDS):
        group = squared_distances(inputs, centres).argmin(dim=1)
        sizes = torch.bincount(group, minlength=count)[:, None]
        sums = torch.zeros_like(centres).index_add(0, group, inputs)
        centres = torch.where(sizes > 0, sums / sizes.clamp(min=1), centres)
    return centres
