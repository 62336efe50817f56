"""Things that captions say and that are not there."""

import pytest

from captioning.scoring.hallucination import chair, says, things_said

DOG, PERSON, LIGHT = {'dog', 'dogs'}, {'person', 'man', 'people'}, {'traffic light'}
THINGS = [DOG, PERSON, LIGHT]


def test_words_are_whole_words_and_may_be_several():
    assert says('two dogs run', DOG) and not says('a hotdog on a bun', DOG)
    assert says('a red traffic light', LIGHT) and not says('traffic at a light', LIGHT)
    assert not says('', DOG)


def test_what_no_reference_says_is_absent():
    captions = ['a man walks a dog', 'dogs at a traffic light', 'a tree']
    references = [['a dog', 'a puppy in the snow'], ['people wait', 'a traffic light'], ['a man']]
    said, absent = things_said(captions, references, THINGS)
    assert said == [[0, 1], [0, 2], []]
    assert absent == [[1], [0], []]
    assert chair(said, absent) == {'of things': pytest.approx(2 / 4),
                                   'of captions': pytest.approx(2 / 3)}


def test_where_nothing_is_said_nothing_is_absent():
    assert chair([[]], [[]]) == {'of things': 0, 'of captions': 0} == chair([], [])
