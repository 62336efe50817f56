"""The experiment with recognized words as places: what there is to learn, and its features."""

import numpy as np
import pytest
import torch

from captioning.recognition import load_recognizer
from experiments.recognized_words import (
    LEAST,
    STRENGTH,
    WORDS,
    Examples,
    GridsWithWords,
    Nouns,
    WordPlaces,
    captions_of,
    examples_of_text,
    exchanged,
    swapped_examples,
)
from vocabulary import Vocabulary

CAPTIONS = [['a', 'dog', 'and', 'two', 'dogs'], ['an', 'elephant', 'runs'], ['a', 'dog', 'sleeps']]


@pytest.fixture(scope='module')
def recognizer():
    return load_recognizer()


@pytest.fixture(scope='module')
def nouns(recognizer):
    return Nouns(recognizer.words, [CAPTIONS])


@pytest.fixture
def word(recognizer):
    """word('dog') -> index of the Word."""
    return [each.word for each in recognizer.words].index


def test_a_noun_is_exchanged_in_its_number_with_its_article(recognizer, word):
    dog, elephant, bus = (recognizer.words[word(name)] for name in ('dog', 'elephant', 'bus'))
    assert exchanged(CAPTIONS[0], dog, elephant) == ['an', 'elephant', 'and', 'two', 'elephants']
    assert exchanged(CAPTIONS[1], elephant, dog) == ['a', 'dog', 'runs']
    assert exchanged(['a', 'bus'], bus, dog) == ['a', 'dog']    # it ends with s all the same
    assert exchanged(CAPTIONS[1], dog, bus) == CAPTIONS[1]


def test_a_place_is_that_of_its_word(recognizer, word):
    probabilities = torch.zeros(3, len(recognizer.words))
    probabilities[0, word('zebra')], probabilities[0, word('cat')] = 0.98, LEAST
    probabilities[1, word('cat')] = LEAST / 2
    places = WordPlaces(recognizer, length=2.0)(probabilities)
    assert places.shape == (3, WORDS, 2048) and not places[1:].any() and not places[0, 2:].any()
    lengths = places[0].float().norm(dim=1)
    assert STRENGTH * 2 < lengths[0] < 2 * STRENGTH * 2 and 0 < lengths[1] < STRENGTH * 2
    told = recognizer.probabilities(places[0, :1].float())
    assert told.argmax() == word('zebra')


def test_text_has_its_nouns_and_no_photo(nouns, word):
    random = np.random.default_rng(0)
    groups = [[['a', 'zebra']] * 5, [['a', 'boy']] * 5]
    of_text = [examples_of_text(groups, nouns, [0.9], 2, random) for _ in range(30)]
    recognized = [row[word('zebra')] for each in of_text
                  for row, captions in zip(each.probabilities, each.captions, strict=True)
                  if captions == groups[0]]
    assert np.mean(np.array(recognized) > 0) > 0.9 and set(recognized) <= {0, np.float32(0.9)}
    assert (of_text[0].grid_rows == -1).all()


def test_a_photo_with_another_noun_has_the_place_of_that(recognizer, nouns, word):
    probabilities = np.zeros((2, len(recognizer.words)))
    probabilities[:, word('dog')] = 0.7
    photos = Examples([5, 7], probabilities, [CAPTIONS, [['a', 'boy']]])
    swapped = swapped_examples(photos, nouns, [0.9], 2, np.random.default_rng(0))
    assert swapped.grid_rows.tolist() == [5]    # the other has no noun
    new = int(swapped.probabilities[0].argmax())
    assert swapped.probabilities[0].nonzero()[0].tolist() == [new] and new != word('dog')
    assert recognizer.words[new].kind == recognizer.words[word('dog')].kind
    assert swapped.captions[0] == [exchanged(tokens, recognizer.words[word('dog')],
                                             recognizer.words[new]) for tokens in CAPTIONS]


def test_features_are_grids_then_words():
    grids, words = np.ones((3, 4, 2), np.float16), torch.full((2, WORDS, 2), 5.0).half()
    features = GridsWithWords(grids, np.array([2, -1]), words)
    vocab = Vocabulary.from_words(['<start>', '<end>', '<unk>', 'a', 'dog'])
    examples = Examples([2, -1], np.zeros((2, 3)), [[['a', 'dog'], ['dog']], [['a', 'cat']]])
    captions = captions_of(examples, vocab, [features])
    assert captions.image_rows.tolist() == [0, 0, 1]
    assert captions.table.tolist() == [[0, 3, 4, 1], [0, 4, 1, 1], [0, 3, 2, 1]]
    of_images = captions.features_of(np.array([1, 0]))
    assert of_images[:, 4:].unique().tolist() == [5]
    assert not of_images[0, :4].any() and (of_images[1, :4] == 1).all()
