"""With Java: scores are those of the reference pipeline from beginning to end."""

import json
import subprocess
import sys

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from captioning import files
from captioning.annotations import read_annotations
from captioning.scoring import (
    SCORES,
    References,
    as_results,
    format_scores,
    java_works,
    paired_test,
    score,
    tokenize_java,
    tokenize_python,
)
from tests.test_evaluate import ANNOTATIONS, CIDER_BY_HAND, RESULTS, SCORES_BY_HAND

pytestmark = pytest.mark.skipif(not java_works(), reason='no Java on this machine')


@pytest.fixture
def references():
    return References(ANNOTATIONS, java=True, cache_dir=None)


def test_scores_equal_the_reference_pipeline(references):
    results, written = json.loads(RESULTS.read_text()), {}
    for entry in read_annotations(ANNOTATIONS)['annotations']:
        written.setdefault(entry['image_id'], []).append(entry)
    gts = PTBTokenizer().tokenize(written)
    res = PTBTokenizer().tokenize({result['image_id']: [result] for result in results})
    cider, per_image = Cider().compute_score(gts, res)
    by_hand = dict(zip(SCORES, Bleu(4).compute_score(gts, res, verbose=0)[0], strict=False))
    by_hand['METEOR'] = Meteor().compute_score(gts, res)[0]
    by_hand['ROUGE-L'] = Rouge().compute_score(gts, res)[0]
    by_hand['CIDEr'] = cider

    scores = score(results, references, draws=100)
    assert references.tokens == gts and references.tokenizer == 'java'
    assert {name: scores[name] for name in by_hand} == pytest.approx(by_hand, abs=1e-6)
    assert per_image == pytest.approx(CIDER_BY_HAND)
    assert by_hand == pytest.approx(by_hand | SCORES_BY_HAND)


def test_meteor_is_a_number_without_interval(references):
    results = json.loads(RESULTS.read_text())
    scores = score(results, references, draws=20)
    assert 0 < scores['METEOR'] < 1 and 'METEOR' not in scores['intervals']
    line, = (line for line in format_scores({'': scores}).splitlines() if line.startswith('METEOR'))
    assert line.split() == ['METEOR', f'{100 * scores["METEOR"]:.1f}']
    assert 'METEOR' not in paired_test(results, results, references, draws=20)


def test_meteor_of_empty_captions(references):
    scores = score(as_results(dict.fromkeys(references.image_ids, '')), references)
    assert scores['METEOR'] == 0


def test_meteor_whose_program_ends_is_named():
    """Too little memory ends it; the scores are there all the same, and the process ends too."""
    code = f"""
import json, os
from captioning.scoring import References, score
references = References({str(ANNOTATIONS)!r}, java=True, cache_dir=None)
results = json.loads(open({str(RESULTS)!r}).read())
os.environ['_JAVA_OPTIONS'] = '-Xmx40m'    # stronger than the 2 GB of the command line
for _ in range(2):
    scores = score(results, references)
    print(scores['METEOR'], scores['unavailable']['METEOR'])
"""
    run = subprocess.run([sys.executable, '-c', code], cwd=files.ROOT, capture_output=True,
                         text=True, timeout=120)
    said = "None METEOR's Java process ended: it needs 2 GB of memory"
    assert run.stdout.splitlines() == [said] * 2, run.stderr


def test_both_tokenizers_agree_on_ordinary_captions():
    captions = [entry['caption'] for entry in read_annotations(ANNOTATIONS)['annotations']]
    assert tokenize_python(captions) == tokenize_java(captions)


def test_spice_is_named_and_not_downloaded(references):
    scores = score(json.loads(RESULTS.read_text()), references)
    computed = scores['SPICE'] is not None
    assert computed or 'get_stanford_models' in scores['unavailable']['SPICE']
