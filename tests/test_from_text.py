"""Words that no photo's captions have, learned from captions without photos."""

import pytest
import torch

from captioning.recognition import Word
from captioning.recognition.from_text import (
    SecondOpinion,
    recognizer_from_text,
    shares_of,
    without,
)

BALL = Word('ball', 'balls', 'count', 'a', (), 'thing')
SEA = Word('sea', '', 'mass', '', (), 'place')
CAT = Word('cat', 'cats', 'count', 'a', (), 'animal')
WITH_BALL = [['a', 'boy', 'kicks', 'a', 'ball'], ['a', 'boy', 'kicks']]
WITH_SEA = [['a', 'boat', 'on', 'the', 'sea'], ['a', 'boat', 'sails']]


def features_of(kicks, count=1):
    """Photos whose first channel shows that somebody kicks, whose second a boat."""
    strength = torch.full((count, 1), 1.0)
    return torch.cat([strength * kicks, strength * (1 - kicks)], dim=1)


@pytest.fixture(scope='module')
def recognizer():
    groups = [WITH_BALL] * 40 + [WITH_SEA] * 40
    captions = [[['he', 'kicks']], [['a', 'boat']], [['ball']]] * 20    # the last tells nothing
    features = torch.cat([features_of(1), features_of(0), features_of(0)]).repeat(20, 1)
    return recognizer_from_text(groups, features, captions, [BALL, SEA], 'hash')


def test_what_is_written_beside_a_word_tells_of_photos_without_it(recognizer):
    (ball, no_sea), (no_ball, sea) = recognizer.probabilities(
        torch.cat([features_of(1), features_of(0)])).tolist()
    assert ball > 0.7 > 0.3 > no_ball and sea > 0.7 > 0.3 > no_sea
    assert recognizer.backbone_hash == 'hash' and recognizer.words == [BALL, SEA]


def test_captions_with_a_word_are_left_out_and_the_others_counted():
    assert without(WITH_BALL, [BALL, SEA]) == [['a', 'boy', 'kicks']]
    assert without([['two', 'balls']], [BALL]) == []
    shares = shares_of([[['a', 'a', 'boy'], ['a', 'cat']], [['cat']]], ['boy', 'a'])
    assert shares.tolist() == [[0.5, 1], [0, 0]]


class Names:
    """A recognizer by given probabilities."""

    backbone_hash = 'hash'

    def __init__(self, words, probabilities):
        self.words, self.given = words, torch.tensor(probabilities)

    def probabilities(self, features):
        return self.given[:len(features)].clone()


def test_a_second_opinion_counts_beside_the_first():
    first = Names([SEA, CAT, BALL], [[0.1, 0.9, 0.4], [0.1, 0.9, 0.1], [0.1, 0.2, 0.1]])
    second = Names([BALL], [[0.2], [0.6], [0.1]])
    both = SecondOpinion(first, second, torch.zeros(3, 1), share=0.5)
    sea, cat, ball = both.probabilities(torch.zeros(3, 1)).T
    assert both.words == first.words
    assert sea.tolist() == pytest.approx([0.1] * 3) and cat.tolist() == pytest.approx([.9, .9, .2])
    logits = second.given[:, 0].logit() + 0.5 * first.given[:, 2].logit()
    assert torch.allclose(ball.logit() - ball[0].logit(), logits - logits[0], atol=1e-5)


def test_a_word_is_likely_for_as_many_photos_as_either_expects():
    shares = torch.linspace(0.001, 0.399, 100)[:, None]
    first = Names([BALL], (shares / 2).tolist())
    both = SecondOpinion(first, Names([BALL], shares.tolist()), torch.zeros(100, 1))
    assert (both.probabilities(torch.zeros(100, 1)) > 0.5).sum() == 20    # 0.2 of them
