"""CIDEr-D of captions given as ids, fast enough to reward every drawn caption.

    cider = CiderD(captions)                # the Captions of the training split
    values = cider(sampled, rows)           # DrawnCaptions, and the rows of their images -> (S,)

The end word counts as a word: a reward without it teaches captions that break off ("a dog with a").

Counting tuples of words in dictionaries would take longer than the network. Here an n-gram is one
number, its hash, so that tensors of them are compared, counted and looked up at once.
Axes: S sampled captions, Q pairs of one of them and a reference, N captions of any kind, T words.
"""

from typing import NamedTuple

import numpy as np
import torch

from captioning.devices import moved

LONGEST_NGRAM = 4           # words; this, SIGMA and SCALE are those of the reference code
SIGMA = 6.0                 # words; how much a caption may differ in length from a reference
SCALE = 10
HASH_BASE = 1_000_003       # a prime, larger than any vocabulary
NO_NGRAM = 2 ** 63 - 1      # in the place of a hash where there is no n-gram; above all hashes


def ngram_hashes(ids, lengths):
    """For n from 1 to LONGEST_NGRAM, the hash of the n-gram that ends at each word: yields (N, T).

    ids: (N, T) without the start words, int64. lengths: (N,). Positions before the n-th word and
    behind the end have NO_NGRAM.

    The hash of an n-gram is the number whose digits in base HASH_BASE are its ids plus 1 (Karp and
    Rabin 1987, Efficient Randomized Pattern-Matching Algorithms): different n-grams have different
    numbers. One of four digits is too large for int64, which keeps the remainder modulo 2 ** 64
    ("wraps around"). That two n-grams share a remainder has odds of about 1 to 2 ** 64.
    """
    position = torch.arange(ids.shape[1], device=ids.device)
    behind_end = position >= lengths[:, None]
    hashes = torch.zeros_like(ids)
    for n in range(1, LONGEST_NGRAM + 1):
        one_shorter = hashes.roll(1, dims=1)    # the (n - 1)-gram that ends at the word before
        hashes = one_shorter * HASH_BASE + ids + 1
        yield hashes.masked_fill(behind_end | (position < n - 1), NO_NGRAM)


class NGrams(NamedTuple):
    """The n-grams of N captions, for one n; entry t is that which ends at word t."""

    hashes: torch.Tensor     # (N, T)
    counts: torch.Tensor     # (N, T) how often the n-gram is in its caption, as floats
    weights: torch.Tensor    # (N, T) how much it counts; 0 where there is no n-gram
    norms: torch.Tensor      # (N,) length of the vector of all weighted counts of the caption


class CiderD:
    """CIDEr-D (Vedantam et al. 2015, CIDEr: Consensus-based Image Description Evaluation).

    A caption is compared with the training captions of its image, its references; an n-gram weighs
    the more, the fewer training images have it in their captions. Equal to the scorer of
    pycocoevalcap on the same words with the end word among them; 1 of it is 100 in papers.
    """

    def __init__(self, captions):
        self.captions = captions
        self.unknown_weight = float(np.log(len(captions.rows)))    # as if one image had the n-gram
        all_hashes = ngram_hashes(*self._words(captions.indices))
        self.known = [self._known_weights(hashes) for hashes in all_hashes]

    def __call__(self, sampled, rows):
        """The score of each caption -> (S,).

        sampled: DrawnCaptions. rows: array (S,), the rows of their images.
        """
        device = self.captions.table.device
        ids, lengths = sampled.ids[:, 1:], sampled.lengths - 1
        references, reference_lengths = self._words(self.captions.captions_of_images(rows))
        counts = self.captions.caption_counts(rows)
        pair_sample = moved(np.repeat(np.arange(len(rows)), counts), device)                # (Q,)
        counts = moved(counts, device)

        total = torch.zeros(len(references), device=device)                                 # (Q,)
        hashes = zip(ngram_hashes(ids, lengths), ngram_hashes(references, reference_lengths),
                     strict=True)
        for known, (sample_hashes, reference_hashes) in zip(self.known, hashes, strict=True):
            of_samples = self._ngrams(sample_hashes, known)
            of_samples = NGrams(*(part[pair_sample] for part in of_samples))
            total += cosine(of_samples, self._ngrams(reference_hashes, known))
        difference = (lengths[pair_sample] - reference_lengths).float()
        total *= torch.exp(-difference ** 2 / (2 * SIGMA ** 2)) / LONGEST_NGRAM
        sums = torch.zeros(len(rows), device=device).index_add(0, pair_sample, total)
        return SCALE * sums / counts

    def _words(self, indices):
        """Captions of the table without their start words -> ids (N, T), lengths (N,)."""
        table, lengths = self.captions.table, self.captions.lengths[indices] - 1
        ids = table[moved(indices, table.device), 1:int(lengths.max()) + 1].long()
        return ids, moved(lengths, table.device)

    def _known_weights(self, hashes):
        """Inverse document frequency of each n-gram of the training captions, for one n.

        hashes: (N, T), of all training captions. Returns those that there are, sorted, and their
        weights; NO_NGRAM comes last and weighs 0.
        """
        captions, device = self.captions, hashes.device
        hashes = hashes.cpu().numpy()
        is_ngram = hashes != NO_NGRAM
        caption_rows = captions.image_rows[captions.indices]
        rows = np.broadcast_to(caption_rows[:, None], hashes.shape)[is_ngram]
        known, which = np.unique(hashes[is_ngram], return_inverse=True)
        # An n-gram counts once an image, in however many of its captions it is.
        images = len(captions.features)
        once_an_image = np.unique(which * images + rows)
        images_with = np.bincount(once_an_image // images, minlength=len(known))
        weights = np.append(np.log(len(captions.rows) / images_with), 0)
        known = torch.from_numpy(np.append(known, NO_NGRAM))
        return known.to(device), torch.from_numpy(weights).float().to(device)

    def _ngrams(self, hashes, known):
        """Hashes (N, T), and what _known_weights gave for this n -> NGrams."""
        known_hashes, known_weights = known
        nearest = torch.searchsorted(known_hashes, hashes)
        is_known = known_hashes[nearest] == hashes
        weights = torch.where(is_known, known_weights[nearest], self.unknown_weight)
        counts = count_in(hashes, hashes)
        # Sums over n-grams run over positions: one that is there `counts` times is met that often.
        norms = (counts * weights ** 2).sum(1).sqrt()
        return NGrams(hashes, counts, weights, norms)


def count_in(hashes, other):
    """How often each n-gram of a caption is in another: hashes (N, T), other (N, T') -> (N, T)."""
    return (hashes[:, :, None] == other[:, None, :]).sum(2).float()


def cosine(samples, references):
    """Cosine of the n-grams of captions and of their references, both NGrams of Q -> (Q,).

    What a caption says more often than the reference counts only as often as that has it.
    """
    in_reference = count_in(samples.hashes, references.hashes)
    clipped = in_reference.minimum(samples.counts)
    products = clipped * in_reference / samples.counts * samples.weights ** 2    # (Q, T)
    cosines = products.sum(1) / (samples.norms * references.norms)
    return cosines.nan_to_num(0, 0, 0)    # captions of fewer than n words
