"""Scores of captions against what people wrote: BLEU, METEOR, ROUGE-L, CIDEr, SPICE, intervals.

    from captioning.scoring import References, format_scores, score

    references = References('captions_val2014.json')    # tokenised once
    scores = score(results, references, draws=1000)     # results: the COCO results format
    print(format_scores({'captions': scores}))

The numbers are those of the field's reference code (pycocoevalcap), whose scorers are called. A new
metric is one function and one entry in `metrics`. METEOR, SPICE and the reference's tokenizer are
Java programs: `python -m scripts.evaluate` runs them where it finds Java; training scores every
epoch, and does without (METEOR alone takes 10 s).

pycocoevalcap and nltk are imported by the functions that need them.
"""

from captioning.scoring.kinds_of_words import format_words, judge_words
from captioning.scoring.metrics import COMPARED, CURVES, LOGGED, SCORES, shown
from captioning.scoring.ptb_tokens import java_works, tokenize_java, tokenize_python
from captioning.scoring.references import References
from captioning.scoring.reports import format_notes, format_scores, format_tests, ranked_examples
from captioning.scoring.results import as_results, read_results
from captioning.scoring.scene_truth import judge_scenes, scene_mistakes
from captioning.scoring.scores import first_captions, paired_test, score
from captioning.scoring.variety import diversity

__all__ = [
    'COMPARED', 'CURVES', 'LOGGED', 'SCORES', 'References', 'as_results', 'diversity',
    'first_captions', 'format_notes', 'format_scores', 'format_tests', 'format_words',
    'java_works', 'judge_scenes', 'judge_words', 'paired_test', 'ranked_examples',
    'read_results', 'scene_mistakes', 'score', 'shown', 'tokenize_java', 'tokenize_python']
