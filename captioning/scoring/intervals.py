"""95 % intervals of scores by the bootstrap over images: how far would other images change them?

    drawn = bootstrap([statistics], draws=1000)    # {'CIDEr': (1000,)}
    low, high = interval(drawn['CIDEr'])

Efron 1979, "Bootstrap methods: another look at the jackknife": sets of images are drawn with
replacement from those that were scored, and each set is scored again. The references are held
fixed, so CIDEr keeps its document frequencies.
"""

from typing import NamedTuple

import numpy as np


class Statistics(NamedTuple):
    """Numbers of each image whose sums over any set of images give the scores of that set.

    values: {score: float}, of all images. rows: float (N, S), S numbers of each of N images.
    scores_from_sums: function; sums (D, S) over D sets of N images, and N -> {score: (D,)}.
    """

    values: dict
    rows: np.ndarray
    scores_from_sums: object


def mean_statistics(name, per_image):
    """Statistics of a score that is the mean of one number an image, (N,)."""
    def mean(sums, n):
        return {name: sums[:, 0] / n}

    rows = np.asarray(per_image, float)[:, None]
    total = rows.sum(0, keepdims=True)
    return Statistics({name: mean(total, len(rows))[name].item()}, rows, mean)


def bootstrap(statistics, draws, seed=0):
    """Scores of `draws` sets of images drawn with replacement -> {score: (draws,)}.

    statistics: list of Statistics of the same N images.
    """
    random = np.random.default_rng(seed)
    rows = np.hstack([each.rows for each in statistics])
    n = len(rows)
    sums = []
    for _ in range(draws):
        times_drawn = np.bincount(random.integers(n, size=n), minlength=n)
        sums.append(times_drawn @ rows)
    widths = [each.rows.shape[1] for each in statistics]
    parts = np.split(np.stack(sums), np.cumsum(widths)[:-1], axis=1)
    scores = {}
    for each, part in zip(statistics, parts, strict=True):
        scores |= each.scores_from_sums(part, n)
    return scores


def interval(drawn):
    """The middle 95 % of drawn scores (D,) -> (low, high)."""
    return tuple(np.quantile(drawn, (0.025, 0.975)).tolist())
