"""All that is asked of one set of captions, at once: scores, people's scores, variety, mistakes.

    evaluation = evaluate('captions_val2014.json', annotations, results, human=True)
    print(format_evaluation(evaluation))
"""

from pathlib import Path
from typing import NamedTuple

from captioning.annotations import read_annotations
from captioning.scoring.kinds_of_words import format_words, judge_words
from captioning.scoring.references import References
from captioning.scoring.reports import format_notes, format_scores, format_tests
from captioning.scoring.scene_truth import judge_scenes
from captioning.scoring.scores import first_captions, paired_test, score
from captioning.scoring.variety import diversity

DRAWS = 1000                            # of the bootstrap


class Evaluation(NamedTuple):
    """What `evaluate` gives; a dict is empty where nothing was asked.

    scores: {column: what `score` gives}. notes: 'diversity' and 'scenes' of the captions.
    words: {column: what judge_words gives}. tests: what paired_test gives.
    """

    scores: dict
    notes: dict
    words: dict
    tests: dict


def evaluate(annotations_file, annotations, results=None, human=False, others=None, **options):
    """Score captions, people or both against an annotation file -> Evaluation.

    annotations: the content of the file. results: captions in the results format. human: score the
    first caption of each image against its others too. others: other results, against which
    `results` are tested. options: of References, such as java=True.
    Raises ValueError where captions are missing.
    """
    options['annotations'] = annotations
    of_scenes = any('scene' in image for image in annotations['images'][:1])
    scores, notes, judged, tests = {}, {}, {}, {}
    if results is not None:
        references = References(annotations_file, **options)
        scores['captions'] = score(results, references, DRAWS)
        notes['diversity'] = diversity(results, _train_captions(annotations_file))
        notes['scenes'] = judge_scenes(results, annotations) if of_scenes else None
        judged['captions'] = results, references
    if human:
        fewer = References(annotations_file, leave_first_out=True, **options)
        people = first_captions(fewer)
        scores['people'] = score(people, fewer, DRAWS)
        judged['people'] = people, fewer
    if human and results is not None:
        scores['captions, same references'] = score(results, fewer, DRAWS)
        judged['captions'] = results, fewer
    if others:
        tests = paired_test(others, results, references, DRAWS)
    words = {} if of_scenes else {name: judge_words(*pair) for name, pair in judged.items()}
    return Evaluation(scores, notes, words, tests)


def format_evaluation(evaluation, others_name='the others'):
    """An Evaluation -> text. others_name: of the captions that were tested against."""
    parts = [format_scores(evaluation.scores)]
    if 'people' in evaluation.scores:
        parts.append('people: the first caption of each image against its others')
    if evaluation.notes:
        parts.append(format_notes(evaluation.notes['diversity'], evaluation.notes['scenes']))
    if evaluation.words:
        parts.append(format_words(evaluation.words))
    if evaluation.tests:
        parts.append(f'compared with {others_name}:\n{format_tests(evaluation.tests)}')
    return '\n'.join(parts)


def as_json(evaluation):
    """An Evaluation -> plain values: the scores of the first column, and all else under a name."""
    (_, first), *columns = evaluation.scores.items()
    content = {**first, **evaluation.notes}
    if evaluation.words:
        content['words'] = evaluation.words
    if evaluation.tests:
        content['against'] = evaluation.tests
    return content | dict(columns)


def _train_captions(annotations_file):
    """The training captions beside an annotation file, or None."""
    file = Path(annotations_file).with_name('captions_train2014.json')
    if not file.exists():
        return None
    return [str(entry['caption']) for entry in read_annotations(file)['annotations']]
