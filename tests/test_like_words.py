"""Like words by WordNet, and the extract of it that ships."""

import gzip

import pytest

from captioning.recognition import like_words as module
from captioning.recognition.like_words import LICENCE, NOUNS, KnownNouns, wordnet
from experiments import wordnet_extract

# From the most common down, as captions have them: verbs and colours are nouns of WordNet too.
KNOWN = """a dog is running white man brown ball black boy girl car run horse play water dogs bird
    boat chair orange cat animal truck horses bed bus light cars beer cow stove bread chairs potato
    food men device apple glass deer bottle equipment hair cup coffee""".split()


@pytest.fixture(scope='module')
def nouns():
    return KnownNouns(KNOWN)


def words_like(nouns, word, **options):
    return [known for known, _ in nouns.like(word, **options)]


# ---- Like words ----

@pytest.mark.parametrize(('word', 'kind', 'like'), [
    ('zebra', 'animal', 'horse'), ('lion', 'animal', 'cat'), ('wolf', 'animal', 'dog'),
    ('owl', 'bird', 'bird'), ('sofa', 'furniture', 'chair'), ('ambulance', 'vehicle', 'car'),
    ('trolleybus', '', 'bus'), ('espresso', 'drink', 'coffee'), ('canoe', 'boat', 'boat'),
    ('microwave', 'device', 'stove'), ('toaster', 'device', 'stove'), ('bagel', 'food', 'bread'),
    ('banana', 'food', 'apple'), ('jug', 'container', 'bottle'), ('woman', '', 'girl')])
def test_the_first_is_what_one_would_say(nouns, word, kind, like):
    assert words_like(nouns, word, kind=kind)[0] == like


@pytest.mark.parametrize(('word', 'like'), [
    ('zebras', 'horses'), ('sofas', 'chairs'), ('wolves', 'dogs'), ('buses', 'cars'),
    ('women', 'men')])
def test_plurals_are_like_plurals(nouns, word, like):
    assert words_like(nouns, word)[0] == like
    assert all(wordnet().is_plural(known) for known in words_like(nouns, word))


def test_a_plural_is_like_singulars_where_no_plural_is_known():
    assert KnownNouns(['horse', 'chair']).like('zebras', kind='animal') == [('horse', 1.0)]


def test_kind_tells_which_meaning_is_meant(nouns):
    assert {'cat', 'dog'} & set(words_like(nouns, 'mouse'))
    assert not {'cat', 'dog', 'animal'} & set(words_like(nouns, 'mouse', kind='device'))
    assert words_like(nouns, 'zyzzyx') == [] and words_like(nouns, 'zyzzyx', kind='zyzzyx') == []
    assert words_like(nouns, 'zyzzyx', kind='dog')[0] == 'dog'


def test_verbs_colours_and_the_word_itself_are_not_like_it(nouns):
    for word in ('elephant', 'horse', 'horses', 'fridge', 'marathon', 'lamp', 'dye', 'sky'):
        like = words_like(nouns, word, count=9)
        assert not {'running', 'white', 'run', 'play', 'is', 'a', word} & set(like)
    assert 'horse' not in words_like(nouns, 'horses')


@pytest.mark.parametrize('word', ['elephant', 'zebras', 'lamp', 'mouse', 'teapot', 'gorilla'])
@pytest.mark.parametrize('count', [1, 2, 5])
def test_weights_fall_and_add_up_to_1(nouns, word, count):
    pairs = nouns.like(word, count)
    weights = [weight for _, weight in pairs]
    assert 1 <= len(pairs) <= count and sum(weights) == pytest.approx(1)
    assert weights == sorted(weights, reverse=True) and weights[-1] > 0
    assert pairs == nouns.like(word, count), 'the same each time'


def test_of_words_that_are_equally_like_it_the_more_common_comes_first():
    for known in (['collie', 'beagle', 'x', 'y'], ['beagle', 'collie', 'x', 'y']):
        assert KnownNouns(known).like('poodle')[0][0] == known[0]
        counts = {word: 9 - place for place, word in enumerate(known)}
        shuffled = dict(sorted(counts.items()))
        assert KnownNouns(shuffled).like('poodle') == KnownNouns(known).like('poodle')


@pytest.mark.parametrize(('word', 'one', 'other'), [
    ('fox', 'dog', 'cat'), ('zebra', 'horse', 'pony'), ('trailer', 'car', 'wagon'),
    ('owl', 'bird', 'pelican'), ('bookcase', 'chair', 'desk')])
def test_the_more_common_comes_first_also_where_it_is_a_little_less_like_it(word, one, other):
    rare = [f'filling{number}' for number in range(60)]
    assert KnownNouns([one, *rare, other]).like(word)[0][0] == one
    assert KnownNouns([other, *rare, one]).like(word)[0][0] == other


def test_only_words_of_the_kind_count_where_any_is_known():
    assert KnownNouns(['hair', 'potato']).like('banana', kind='food') == [('potato', 1.0)]
    assert KnownNouns(['hair']).like('banana', kind='food') == [('hair', 1.0)]
    many = ['hair', 'leaf', *(f'filling{number}' for number in range(60)), 'bread']
    assert KnownNouns(many).like('banana')[0][0] != 'bread'
    assert KnownNouns(many).like('banana', kind='food') == [('bread', 1.0)]


def test_words_that_seldom_name_a_thing_do_not_count():
    assert KnownNouns(['blue']).like('dye') == [] and 'blue' in wordnet().senses


def test_the_uses_of_a_word_add_up():
    nouns, senses = KnownNouns(['stove']), wordnet().meanings('stove')
    share, _ = nouns.below[False][module.FIRST_LINE]['stove']
    assert len(senses) == 2 and share == sum(sense.share for sense in senses)


def test_looking_no_further_than_needed_changes_nothing(nouns, monkeypatch):
    words = ['elephant', 'pillow', 'zebras', 'volcano', 'tray', 'mouse']
    quick = [nouns.like(word, 4) for word in words]
    likeness = nouns.wordnet.likeness

    def never_below(synset, other, shared=None):
        return 9 if other == module.FIRST_LINE else likeness(synset, other, shared)

    monkeypatch.setattr(nouns.wordnet, 'likeness', never_below)
    assert [nouns.like(word, 4) for word in words] == quick


@pytest.mark.parametrize(('plural', 'singular'), [
    ('dogs', 'dog'), ('men', 'man'), ('women', 'woman'), ('buses', 'bus'), ('ladies', 'lady'),
    ('houses', 'house'), ('knives', 'knife'), ('wolves', 'wolf'), ('benches', 'bench'),
    ('boxes', 'box'), ('potatoes', 'potato'), ('children', 'child'), ('glasses', 'glass'),
    ('skis', 'ski'), ('bus', None), ('grass', None), ('dog', None), ('is', None),
    ('taxis', 'taxi')])
def test_singular(plural, singular):
    assert wordnet().singular(plural) == singular


# ---- The extract ----

def test_the_extract_is_small_and_comes_with_its_licence():
    assert NOUNS.stat().st_size < 1_000_000
    assert 'WordNet 3.1 Copyright 2011 by Princeton University' in LICENCE.read_text()
    assert len(wordnet().senses) > 20_000


DATA = """  1 You may use it.
  2 Copyright.
00001740 03 n 01 entity 0 001 ~ 00001930 n 0000 | all
00001930 03 n 01 physical_entity 0 001 @ 00001740 n 0000 | things
00002137 03 n 01 abstraction 0 001 @ 00001740 n 0000 | ideas
00003000 03 n 02 animal 0 living_thing 0 001 @ 00001930 n 0000 | it lives
00004000 03 n 02 dog 0 Dog 0 002 @ 00003000 n 0000 #m 00002137 n 0000 | it barks
00004500 03 n 01 Rex 0 001 @i 00004000 n 0000 | a dog
00005000 03 n 01 hot_dog 0 001 @ 00001930 n 0000 | to eat
00006000 03 n 01 dog 3 001 @ 00002137 n 0000 | an idea
"""
SENSES = """animal%1:05:00:: 00003000 1 4
dog%1:05:00:: 00004000 1 5
dog%1:09:00:: 00006000 2 0
dog%2:38:00:: 02005890 1 2
"""


def test_the_extract_has_common_nouns_of_things_and_what_they_are_kinds_of(tmp_path, monkeypatch):
    (tmp_path / 'data.noun').write_text(DATA)
    (tmp_path / 'index.sense').write_text(SENSES)
    monkeypatch.setattr(wordnet_extract, 'NOUNS', tmp_path / 'nouns.tsv.gz')
    monkeypatch.setattr(wordnet_extract, 'LICENCE', tmp_path / 'LICENSE.txt')
    monkeypatch.setattr('sys.argv', ['wordnet_extract', str(tmp_path)])
    wordnet_extract.main()
    _, *lines = gzip.decompress((tmp_path / 'nouns.tsv.gz').read_bytes()).decode().splitlines()
    # 6 of the dog's 9.5 uses, where the second sense counts as half a use and the verb as 3.
    assert lines == ['\t3\t', '2\t2\tanimal=100', '3\t1\tdog=63']
    assert (tmp_path / 'LICENSE.txt').read_text() == 'You may use it.\nCopyright.\n'
    read = module.WordNet(tmp_path / 'nouns.tsv.gz')
    assert read.senses['dog'] == [(4, 0.63)] and read.above(4) == {2, 3, 4}
