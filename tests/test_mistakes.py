"""What is said about captions beside their scores: how varied they are, and where they go wrong."""

import json
import re
from random import Random

import pytest

from captioning import scenes
from captioning.scoring import (
    References,
    as_results,
    diversity,
    first_captions,
    format_notes,
    format_words,
    judge_scenes,
    judge_words,
    ranked_examples,
    scene_mistakes,
)
from tests.test_evaluate import write_annotations


def test_diversity():
    results = as_results({1: 'A dog runs.', 2: 'a dog runs', 3: "a man's hat", 4: ''})
    assert diversity(results, train_captions=['A dog, runs!', 'a man']) == {
        'captions': 4, 'distinct': 3, 'words': 5, 'length': 2.25, 'broken': 0, 'in_train': 0.5}
    broken = diversity(as_results({1: 'a dog with a', 2: 'A man and his.', 3: 'a man looks on',
                                   4: 'two dogs'}))
    assert broken['broken'] == 0.5 and '50.0% break off' in format_notes(broken)
    assert diversity(as_results({1: 'a dog'}))['in_train'] is None


def test_words_are_judged_by_kind(tmp_path):
    file = write_annotations(tmp_path, {
        1: ['Two brown dogs running on grass.', 'a dog runs on the grass', 'a dog chases a ball'],
        2: ['a man in a red shirt', 'a guy wearing a red jacket'],
        3: ['nothing here', 'a king on a swing']})
    references = References(file, cache_dir=None)
    said = as_results({1: 'a white dog running on sand', 2: 'a man in a red shirt', 3: 'a king',
                       4: 'a cat'})
    judged = judge_words(said, references)    # of the fourth image nothing is known
    keys = ('said', 'right', 'expected', 'found')
    counts = {kind: tuple(values[key] for key in keys) for kind, values in judged.items()}
    assert counts['who'] == (2, 1.0, 1, 1.0)        # dogs are dogs
    assert counts['doing'] == (1, 1.0, 0, 0.0)      # a king does nothing
    assert counts['colour'] == (2, 0.5, 1, 1.0)
    assert counts['place'] == (1, 0.0, 1, 0.0)
    assert counts['count'] == (0, 0, 0, 0) and judged['clothing']['right'] == 1.0
    people = judge_words(first_captions(references), references)
    table = format_words({'captions': judged, 'people': people})
    assert 'captions' in table and 'people' in table
    assert re.search(r'colour +2 +50.0% +100.0% +2 +100.0%', table)


def test_ranked_examples():
    scored = {'cider_per_image': {i: (i * 7 % 10) / 10 for i in range(10)}}
    ranked = ranked_examples(scored, n=3)
    assert ranked == {'best': [7, 4, 1], 'median': [8, 5, 2], 'worst': [6, 3, 0]}


SCENE = {'place': 'beach', 'held_out': False, 'objects': [
    {'kind': 'dog', 'nouns': ['dog', 'dogs', 'puppy', 'puppies'], 'colour': 'brown', 'count': 2,
     'relation': 'next to'},
    {'kind': 'tree', 'nouns': ['tree', 'trees'], 'colour': None, 'count': 1, 'relation': None}]}
WORDS = {'place': {'beach': ['beach', 'sand']}, 'relation': {'next to': ['next to', 'near']},
         'count': {'1': ['a', 'an', 'one'], '2': ['two', 'couple']}}


def annotations_of(scene):
    return {'images': [{'id': 1, 'scene': scene}], 'info': {'words': WORDS}}


def judge(caption, **main):
    scene = {**SCENE, 'objects': [SCENE['objects'][0] | main, SCENE['objects'][1]]}
    shares = judge_scenes(as_results({1: caption}), annotations_of(scene))['seen']
    return {aspect for aspect, share in shares.items() if share}


@pytest.mark.parametrize(('caption', 'right'), {
    'Two brown dogs near a big tree on the beach.': 'thing count several colour place relation',
    'a couple of small brown puppies on the sand': 'thing count several colour place',
    'brown dogs next to trees': 'thing colour relation',
    'a brown dog': 'thing colour',
    'a picture of two cats near a tree': 'relation',
    'dogs by a tree near two cats': 'thing',
    'under a sun two dogs': 'thing count several',
    'two cats that sit near dogs': 'thing',
}.items())
def test_judging_scenes(caption, right):
    assert judge(caption) == set(right.split())


def test_judging_one_thing():
    assert 'count' in judge('a dog', count=1)
    assert 'count' in judge('there is one brown puppy', count=1)
    assert 'count' not in judge('a picture of dogs', count=1)
    assert 'several' not in judge('a dog', count=1)


def test_mistakes_of_one_caption_are_named():
    result, = as_results({1: 'two dogs near a tree'})
    assert scene_mistakes(result, annotations_of(SCENE)) == ['colour', 'place']


def test_drawn_captions_name_their_main_thing():
    drawn = [scenes.make_scene(0, 'test', index) for index in range(200)]
    words = json.loads(json.dumps(scenes.WORDS))    # JSON's keys are strings
    annotations = {'images': [{'id': i, 'scene': scene} for i, scene in enumerate(drawn)],
                   'info': {'words': words}}
    said = [{'image_id': i, 'caption': caption} for i, scene in enumerate(drawn)
            for caption in scenes.make_captions(scene, Random(i))]
    judged = judge_scenes(said, annotations)
    assert set(judged) == {'seen', 'held-out'}
    for shares in judged.values():
        assert shares['thing'] == shares['count'] == shares['several'] == 1
        named = min(shares['colour'], shares['place'], shares['relation'])
        assert named > 0.6    # some captions leave one out
    mixed_up = [{**result, 'image_id': (result['image_id'] + 1) % 200} for result in said]
    assert judge_scenes(mixed_up, annotations)['seen']['thing'] < 0.2
