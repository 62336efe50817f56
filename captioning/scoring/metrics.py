"""The metrics: how each is computed, and where its score is shown.

To add one, write a function and an entry in METRICS. The score then stands in the log of each
epoch, in the tables of scores and of runs, and among the learning curves:

    def distinct_words(captions, references):
        return len({word for caption in captions for word in caption.split()})

    Metric('distinct words', distinct_words, fraction=False)

A function takes the captions, N strings of tokens with spaces between, and the References, whose
images are those of the captions, in that order. It returns

    a number                the score of all captions together; it has no interval
    an array (N,)           one number an image: the score is the mean, and has an interval
    intervals.Statistics    for what is no mean over images, but follows from sums over them

and raises Unavailable, saying why, where the score cannot be computed. The numbers of the metrics
here are those of the field's reference code (pycocoevalcap), whose scorers are called.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from captioning.scoring.intervals import Statistics
from captioning.scoring.java_metrics import meteor, spice
from captioning.tables import percent

# pycocoevalcap is imported inside functions: tables and figures need the names of metrics alone.


def bleu(captions, references):
    """BLEU-1 to BLEU-4 (Papineni et al. 2002), the closest reference length counting."""
    scorer = references.bleu.retest(captions)
    scores, _ = scorer.compute_score(option='closest')
    values = {f'BLEU-{n}': score for n, score in enumerate(scores, start=1)}
    rows = [_bleu_counts(counts) for counts in scorer.ctest]
    return Statistics(values, np.array(rows, float), _bleu_from_sums)


def _bleu_counts(counts):
    """Words of the caption and of the closest reference; n-grams that match, and all n-grams."""
    length = counts['testlen']
    _, closest = min((abs(target - length), target) for target in counts['reflen'])
    return length, closest, *counts['correct'], *counts['guess']


def _bleu_from_sums(sums, n):
    tiny, small = 1e-15, 1e-9    # the reference code's, against division by zero
    length, closest = sums[:, 0] + tiny, sums[:, 1] + small
    precisions = (sums[:, 2:6] + tiny) / (sums[:, 6:] + small)
    products = np.cumprod(precisions, axis=1)
    brevity = np.exp(np.minimum(0, 1 - closest / length))
    return {f'BLEU-{n}': products[:, n - 1] ** (1 / n) * brevity for n in (1, 2, 3, 4)}


def rouge_l(captions, references):
    """ROUGE-L (Lin 2004) of each image."""
    from pycocoevalcap.rouge.rouge import Rouge
    rouge = Rouge()
    pairs = zip(captions, references.tokens.values(), strict=True)
    return np.array([rouge.calc_score([caption], targets) for caption, targets in pairs])


def cider(captions, references):
    """CIDEr (Vedantam et al. 2015; the variant that they call CIDEr-D) of each image."""
    from pycocoevalcap.cider.cider_scorer import cook_test
    scorer = references.cider
    scorer.ctest = [cook_test(caption) for caption in captions]
    return np.array(scorer.compute_cider())


class Metric(NamedTuple):
    """A score and where it is shown.

    log: in the log of each epoch of training. compare: in the table of runs. curve: if logged, as a
    learning curve too. fraction: it is shown x100, as papers do, else as it is.
    Functions that give several scores, such as `bleu`, stand in several entries.
    """

    name: str
    function: Callable
    log: bool = True
    compare: bool = True
    curve: bool = True
    fraction: bool = True


METRICS = (
    Metric('BLEU-1', bleu, compare=False, curve=False),
    Metric('BLEU-2', bleu, compare=False, curve=False),
    Metric('BLEU-3', bleu, compare=False, curve=False),
    Metric('BLEU-4', bleu),
    Metric('METEOR', meteor, log=False, compare=False),     # training does without Java
    Metric('ROUGE-L', rouge_l, compare=False),
    Metric('CIDEr', cider),
    Metric('SPICE', spice, log=False, compare=False),
)
SELECTION = 'CIDEr'                     # picks the best epoch of a run, so its curve comes first

SCORES = tuple(metric.name for metric in METRICS)
LOGGED = tuple(metric.name for metric in METRICS if metric.log)
COMPARED = tuple(metric.name for metric in METRICS if metric.compare)
CURVES = tuple(metric.name for metric in METRICS if metric.log and metric.curve)
CURVES = (SELECTION, *(name for name in CURVES if name != SELECTION))


def is_fraction(name):
    """Is the score of that name a fraction, shown x100? Others are shown as they are."""
    return {metric.name: metric.fraction for metric in METRICS}[name]


def shown(name, value, interval=None, gap=' '):
    """A score as text, with its interval (low, high) after `gap`; '-' where there is none.

    shown('CIDEr', 0.5691, (0.532, 0.605)) is '56.9 [53.2, 60.5]'.
    """
    if value is None:
        return '-'
    number = percent if is_fraction(name) else _plain
    if interval is None:
        return number(value)
    low, high = interval
    return f'{number(value)}{gap}[{number(low)}, {number(high)}]'


def _plain(value):
    return f'{value:,}' if isinstance(value, int) else f'{value:,.1f}'
