"""Score captions with all metrics, and test whether one set of captions is better than another.

    references = References(annotations_file)
    scores = score(results, references, draws=1000)     # {'BLEU-1': 0.65, ..., 'intervals': ...}
    tests = paired_test(results_a, results_b, references)

All scores are those of captioning/scoring/metrics.py, in its order.
"""

from typing import NamedTuple

import numpy as np

from captioning.scoring import metrics
from captioning.scoring.intervals import Statistics, bootstrap, interval, mean_statistics
from captioning.scoring.java_metrics import Unavailable
from captioning.scoring.results import as_results


class Measured(NamedTuple):
    """What the metrics give.

    values: {score: number}. statistics: list of Statistics, of scores that can have an interval.
    per_image: {score: (N,)}, of scores that are means. unavailable: {score: why}.
    """

    values: dict
    statistics: list
    per_image: dict
    unavailable: dict


def score(results, references, draws=0, seed=0):
    """Score captions -> dict.

    The names in SCORES: float, None where not computed. 'tokenizer': 'python' or 'java'.
    'images': how many. 'unavailable': {score: why, and how to enable it}. 'cider_per_image':
    {image id: float}. 'intervals', if draws (1,000 is usual): {score: (low, high)}, 95 %
    bootstrap intervals over images.

    results: [{'image_id': ..., 'caption': str}], one for every image of `references`; others are
    ignored. Raises ValueError for an image without a caption. 1,000 images take 1 s without draws.
    """
    measured = _measure(results, references)
    per_image = measured.per_image['CIDEr'].tolist()
    scores = {metric.name: measured.values.get(metric.name) for metric in metrics.METRICS}
    scores['tokenizer'] = references.tokenizer
    scores['images'] = len(references.image_ids)
    scores['unavailable'] = measured.unavailable
    scores['cider_per_image'] = dict(zip(references.image_ids, per_image, strict=True))
    if draws:
        drawn = bootstrap(measured.statistics, draws, seed)
        scores['intervals'] = {name: interval(values) for name, values in drawn.items()}
    return scores


def paired_test(results_a, results_b, references, draws=1000, seed=0):
    """Is b better than a? -> {score: {'difference': b - a, 'interval': (low, high), 'p': float}}.

    Paired bootstrap (Koehn 2004, "Statistical significance tests for machine translation
    evaluation"): both are scored on the same drawn sets of images. p is two-sided, at least
    2 / (draws + 1); the interval holds 95 % of the differences.
    """
    a, b = _measure(results_a, references), _measure(results_b, references)
    drawn_a = bootstrap(a.statistics, draws, seed)
    drawn_b = bootstrap(b.statistics, draws, seed)
    tests = {}
    for name in drawn_a:
        # Rounded, so that a draw of images on which both agree counts for neither.
        differences = (drawn_b[name] - drawn_a[name]).round(12)
        tests[name] = {'difference': b.values[name] - a.values[name],
                       'interval': interval(differences),
                       'p': _two_sided(differences)}
    return tests


def first_captions(references):
    """The first caption of each image, in the results format."""
    return as_results({image_id: references.first[image_id] for image_id in references.image_ids})


def _two_sided(differences):
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return min(1.0, 2 * float(tail + 1) / (len(differences) + 1))


def _measure(results, references):
    """Compute every metric of `results` -> Measured."""
    captions = _tokens_by_image(results, references)
    measured = Measured({}, [], {}, {})
    for function in dict.fromkeys(metric.function for metric in metrics.METRICS):
        names = [metric.name for metric in metrics.METRICS if metric.function == function]
        try:
            result = function(captions, references)
        except Unavailable as error:
            measured.unavailable.update(dict.fromkeys(names, str(error)))
            continue
        _add(measured, names[0], result)
    return measured


def _add(measured, name, result):
    """Take up what the function of a metric gave: a number, an array (N,) or Statistics."""
    if isinstance(result, Statistics):
        statistics = result
    elif np.ndim(result) == 0:
        measured.values[name] = np.asarray(result).item()
        return
    else:
        measured.per_image[name] = np.asarray(result)
        statistics = mean_statistics(name, result)
    measured.values.update(statistics.values)
    measured.statistics.append(statistics)


def _tokens_by_image(results, references):
    captions = {result['image_id']: result['caption'] for result in results}
    missing = [image_id for image_id in references.image_ids if image_id not in captions]
    if missing:
        raise ValueError(
            f'{len(missing):,} of {len(references.image_ids):,} images have no caption, such as '
            f'{missing[0]!r}. Caption them, or leave them out: References(file, image_ids=...).')
    return references.tokenize([captions[image_id] for image_id in references.image_ids])
