"""Scores and what else is known about captions, as text.

    print(format_scores({'greedy': scores, 'beam 5': more_scores}))
    print(format_tests(paired_test(results_a, results_b, references)))
    print(format_notes(diversity(results)))
"""

import numpy as np

from captioning.scoring import metrics
from captioning.tables import text_table

NOTE = ('{distinct:,} of {captions:,} captions are distinct; {words:,} different words; '
        '{length:.1f} words a caption')
TOKENIZERS = {'java': "the reference's PTB tokenizer (Java)", 'python': 'a PTB tokenizer in Python'}


def format_scores(columns):
    """Scores of one or more sets of captions, {name: what `score` gives} -> text table.

    They are shown x100, as in papers, with their intervals. A row is there for every metric; '-'
    stands where it was not computed.
    """
    rows = [['x100', *columns]]
    for metric in metrics.METRICS:
        label = metric.name if metric.fraction else f'{metric.name} (not x100)'
        cells = [_cell(scores, metric.name) for scores in columns.values()]
        rows.append([label, *cells])
    first, *_ = columns.values()
    note = f'{first["images"]:,} images; tokens by {TOKENIZERS[first["tokenizer"]]}'
    if 'intervals' in first:
        note += '; [95 % interval]'
    missing = [f'{name} {why}' for name, why in first['unavailable'].items()]
    return '\n'.join([text_table(rows), note, *missing])


def _cell(scores, name):
    interval = scores.get('intervals', {}).get(name)
    return metrics.shown(name, scores.get(name), interval, gap='  ')    # older scores lack new ones


def format_tests(tests):
    """What paired_test gives -> text table, x100 where scores are."""
    rows = []
    for name, test in tests.items():
        scale = 100 if metrics.is_fraction(name) else 1
        difference = scale * test['difference']
        low, high = np.multiply(scale, test['interval'])
        p = test['p']
        verdict = 'different' if p < 0.05 else 'not shown to differ'
        text = f'{difference:+.1f}  [{low:+.1f}, {high:+.1f}]  p = {p:.3f}  {verdict}'
        rows.append([name, text])
    return text_table(rows, gap=2)


def format_notes(diverse, scenes=None):
    """What `diversity` and judge_scenes give -> text."""
    note = NOTE.format(**diverse)
    if diverse['broken']:
        note += f'; {diverse["broken"]:.1%} break off ("with a")'
    if diverse['in_train'] is not None:
        note += f'; {diverse["in_train"]:.0%} stand word for word in training'
    lines = [note]
    for group, shares in (scenes or {}).items():
        known = {aspect: share for aspect, share in shares.items() if share is not None}
        text = ', '.join(f'{aspect} {share:.0%}' for aspect, share in known.items())
        lines.append(f'{group} scenes: {text}')
    return '\n'.join(lines)


def ranked_examples(scores, n=4):
    """Image ids by CIDEr -> {'best': n, 'median': n, 'worst': n}, each from high to low."""
    per_image = scores['cider_per_image']
    ranked = sorted(per_image, key=per_image.get, reverse=True)
    middle = max((len(ranked) - n) // 2, 0)
    return {'best': ranked[:n], 'median': ranked[middle:middle + n], 'worst': ranked[-n:]}
