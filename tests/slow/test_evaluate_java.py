"""With Java: scores are those of the whole reference pipeline, and resampled METEOR is that of METEOR's own program."""

import json

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from scripts import evaluate
from scripts.annotations import read_annotations
from tests.test_evaluate import ANNOTATIONS, CIDER_BY_HAND, RESULTS, SCORES_BY_HAND

pytestmark = pytest.mark.skipif(not evaluate.java_works(), reason='no Java on this machine')


def test_scores_equal_the_whole_reference_pipeline():
    results, written = json.loads(RESULTS.read_text()), {}
    for entry in read_annotations(ANNOTATIONS)['annotations']:
        written.setdefault(entry['image_id'], []).append(entry)
    gts = PTBTokenizer().tokenize(written)
    res = PTBTokenizer().tokenize({result['image_id']: [result] for result in results})
    cider, per_image = Cider().compute_score(gts, res)
    by_hand = dict(zip(evaluate.SCORES, Bleu(4).compute_score(gts, res, verbose=0)[0], strict=False))
    by_hand |= {'METEOR': Meteor().compute_score(gts, res)[0], 'ROUGE-L': Rouge().compute_score(gts, res)[0]}
    by_hand['CIDEr'] = cider

    references = evaluate.References(ANNOTATIONS, java=True, cache_dir=None)
    scores = evaluate.score(results, references, draws=100)
    assert references.tokens == gts and references.tokenizer == 'java'
    assert {name: scores[name] for name in by_hand} == pytest.approx(by_hand, abs=1e-6)
    assert per_image == pytest.approx(CIDER_BY_HAND) and by_hand == pytest.approx(by_hand | SCORES_BY_HAND)
    low, high = scores['intervals']['METEOR']
    assert low < scores['METEOR'] < high


def test_meteor_of_summed_statistics_is_meteor_of_the_images():
    references = evaluate.References(ANNOTATIONS, java=True, cache_dir=None)
    tokens = list(references.tokens.values())
    candidates = [own[0] if row % 2 else 'a dog on a table' for row, own in enumerate(tokens)]    # own[0]: perfect
    rows, pick = evaluate._meteor(candidates, tokens), [0, 0, 1, 1, 5, 3, 2, 2]
    direct = Meteor().compute_score({n: tokens[row] for n, row in enumerate(pick)},
                                    {n: [candidates[row]] for n, row in enumerate(pick)})[0]
    assert evaluate._meteor_scores(rows[pick].sum(0, keepdims=True)) == pytest.approx([direct])
    assert len(evaluate._meteor_scores(np.stack([rows.sum(0)] * 3))) == 3


def test_spice_is_named_and_not_downloaded():
    references = evaluate.References(ANNOTATIONS, java=True, cache_dir=None)
    scores = evaluate.score(json.loads(RESULTS.read_text()), references)
    assert scores['SPICE'] is not None or 'get_stanford_models' in scores['unavailable']['SPICE']
