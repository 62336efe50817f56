"""Which words never follow which."""

import pytest

from captioning.grammar import article_of, grammar_of
from captioning.recognition import Word
from vocabulary import Vocabulary

LEARNED = ['<start>', '<end>', '<unk>', 'a', 'an', 'is', 'in', 'two', 'of', 'red', 'the', 'dog',
           'dogs', 'elephant', 'orange', 'hour', 'unicycle', 'coffee', '.', 'sheep', 'person',
           'team', 'teams', 'ski', 'skiing', 'stairs', 'staircase', 'with', 'were']
WORDS = [Word('dog', 'dogs', 'count', 'a'), Word('vase', 'vases', 'count', 'a'),
         Word('elephant', 'elephants', 'count', 'an'), Word('corn', '', 'mass'),
         Word('coffee', '', 'mass'), Word('jeans', '', 'plural'),
         Word('sheep', 'sheep', 'count', 'a'), Word('ski', 'skis', 'count', 'a', ('skiing',)),
         Word('person', 'people', 'count', 'a', ('team', 'teams')),
         Word('stairs', '', 'plural', '', ('staircase',))]
NEW = ['vase', 'vases', 'elephants', 'corn', 'jeans']


@pytest.fixture(scope='module')
def vocab():
    return Vocabulary.from_words([*LEARNED, *NEW])


@pytest.fixture(scope='module')
def may_follow(vocab):
    """A function: may the second word follow the first?"""
    never = grammar_of(vocab, WORDS, [vocab(word) for word in NEW])
    return lambda first, second: vocab(second) not in never.get(vocab(first), never[None])


@pytest.mark.parametrize(('word', 'article'), [
    ('elephant', 'an'), ('hour', 'an'), ('honest', 'an'), ('unicycle', 'a'), ('uniform', 'a'),
    ('euro', 'a'), ('umbrella', 'an'), ('unidentified', 'an'), ('suv', 'an'), ('dog', 'a'),
    ('one', 'a'), ('used', 'a'), ('oven', 'an')])
def test_articles_go_by_sound(word, article):
    assert article_of(word) == article


@pytest.mark.parametrize(('right', 'wrong'), [
    ('a dog', 'an dog'), ('an elephant', 'a elephant'), ('an orange', 'a orange'),
    ('an hour', 'a hour'), ('a unicycle', 'an unicycle'),    # the article
    ('two dogs', 'a dogs'), ('two vases', 'a vases'), ('two elephants', 'an elephants'),
    ('red dogs', 'two dog'), ('red vase', 'red vases'), ('of vases', 'the vases'),    # number
    ('the vase', 'is vase'), ('the dog', 'is dog'), ('in dog', 'in vase'),    # nothing before it
    ('a coffee', 'a corn'), ('in corn', 'a jeans'), ('a dog', '<start> dog'),
    ('red dogs', 'red elephants'), ('with vases', '<start> vases'),    # of new plurals
    ('two sheep', 'is sheep'), ('were sheep', 'were dog'), ('a sheep', 'two ski'),
    ('two teams', 'a teams'), ('a team', 'two team'),    # WordNet knows no teams
    ('a staircase', 'a stairs'), ('is skiing', 'is ski')])
def test_pairs(may_follow, right, wrong):
    assert may_follow(*right.split()) and not may_follow(*wrong.split())


def test_without_a_recognizer_only_articles_are_watched(vocab):
    assert set(grammar_of(vocab)) - {None} >= {vocab('a'), vocab('an')}
    never = grammar_of(vocab)
    assert sorted(vocab.idx2word[word_id] for word_id in never[vocab('a')]) == [
        'a', 'an', 'elephant', 'elephants', 'hour', 'in', 'is', 'of', 'orange']
    assert not never[None] and not never[vocab('two')]


def test_a_vocabulary_need_not_have_the_words():
    small = Vocabulary.from_words(['<start>', '<end>', '<unk>', 'chien', 'un'])
    never = grammar_of(small, WORDS)
    assert all(0 <= word_id < 5 for ids in never.values() for word_id in ids)
