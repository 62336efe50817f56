"""A metric is one function and one entry, and it is then shown where the entry says."""

import json
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from captioning import files
from captioning.scoring import (
    References,
    format_scores,
    format_tests,
    metrics,
    paired_test,
    score,
    tokenize_python,
)

DATA = Path(__file__).parent / 'data'
ANNOTATIONS, RESULTS = DATA / 'captions_eight.json', DATA / 'results_eight.json'


def load_with_metric(function, entry):
    """The module `metrics` after an edit: a function before METRICS, and an entry in it."""
    source = Path(metrics.__file__).read_text()
    place = 'METRICS = (\n'
    assert source.count(place) == 1
    edited = types.ModuleType('edited_metrics')
    exec(source.replace(place, f'{function}\n\n{place}    {entry},\n'), edited.__dict__)
    return edited


COUNT = """
def distinct_words(captions, references):
    return len({word for caption in captions for word in caption.split()})
"""
LENGTH = """
def length(captions, references):
    return [len(caption.split()) for caption in captions]
"""


@pytest.fixture
def references():
    return References(ANNOTATIONS, cache_dir=None)


@pytest.fixture
def results():
    return json.loads(RESULTS.read_text())


@pytest.fixture
def edit_metrics(monkeypatch):
    def edit(function, entry):
        edited = load_with_metric(function, entry)
        monkeypatch.setattr(metrics, 'METRICS', edited.METRICS)
        return edited
    return edit


def test_a_metric_of_all_captions_is_one_entry(references, results, edit_metrics):
    before = score(results, references, draws=20)
    edited = edit_metrics(COUNT, "Metric('distinct words', distinct_words, fraction=False)")
    for names in (edited.SCORES, edited.LOGGED, edited.COMPARED, edited.CURVES):
        assert 'distinct words' in names
    assert edited.CURVES[0] == 'CIDEr'    # of the score that picks the best epoch

    after = score(results, references, draws=20)
    words = {word for line in tokenize_python([result['caption'] for result in results])
             for word in line.split()}
    assert after.pop('distinct words') == len(words)
    assert after == before and 'distinct words' not in after['intervals']
    assert 'distinct words' not in paired_test(results, results, references, draws=20)
    table = format_scores({'new': {**after, 'distinct words': 1234}, 'kept before': before})
    assert re.search(r'^distinct words \(not x100\) +1,234 +-$', table, re.MULTILINE)


def test_a_metric_of_each_image_has_an_interval(references, results, edit_metrics):
    edit_metrics(LENGTH, "Metric('length', length, log=False, fraction=False)")
    scored = score(results, references, draws=50)
    low, high = scored['intervals']['length']
    assert low < scored['length'] < high
    assert metrics.shown('length', 6.25, (5.5, 7.0)) == '6.2 [5.5, 7.0]'
    worse = [{**result, 'caption': 'a dog'} for result in results]
    test = paired_test(worse, results, references, draws=50)['length']
    assert test['difference'] == pytest.approx(scored['length'] - 2)
    assert f'{test["difference"]:+.1f}' in format_tests({'length': test})


def test_where_scores_are_shown():
    assert metrics.LOGGED == ('BLEU-1', 'BLEU-2', 'BLEU-3', 'BLEU-4', 'ROUGE-L', 'CIDEr')
    assert metrics.COMPARED == ('BLEU-4', 'CIDEr')
    assert metrics.CURVES == ('CIDEr', 'BLEU-4', 'ROUGE-L')
    assert metrics.shown('CIDEr', 0.5691, (0.532, 0.605)) == '56.9 [53.2, 60.5]'
    assert metrics.shown('METEOR', None) == '-'


def test_names_of_metrics_need_no_scorer():
    code = """
import sys
import captioning.scoring.metrics, captioning.scoring.evaluation
loaded = {'nltk', 'pycocoevalcap', 'torch', 'matplotlib'} & sys.modules.keys()
sys.exit(f'loaded: {loaded}' if loaded else 0)
"""
    run = subprocess.run([sys.executable, '-c', code], cwd=files.ROOT, capture_output=True,
                         text=True)
    assert run.returncode == 0, run.stderr
