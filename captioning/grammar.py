"""Which words never follow which, where a decoder must say words that it may not have learned.

    rule = grammar_of(vocab, recognizer.words, new_ids)
    beams(decoder, features, not_after=rule)    # no "a elephant", "a vases", "is bus", "big big"

A decoder knows how its own words are used, and is wrong about them where it is made to say them. Of
a new word it knows only what it is like. The rules are about pairs of neighbours, so "a red vases"
is avoided by another: plurals of new words only follow words that ask for them.
"""

from collections import defaultdict

from captioning.recognition.like_words import wordnet

# A vowel is heard, not read: an hour, a unicycle.
READ_WITHOUT_VOWEL = ('euro', 'one', 'once', 'ukulele', 'uni', 'use', 'usu', 'uten')
READ_WITH_VOWEL = ('heir', 'honest', 'honor', 'hour', 'suv', 'unid', 'unim', 'unin', 'x-ray')

ARTICLES = ('a', 'an')
ONE = (*ARTICLES, 'one', 'another', 'this', 'each')
MANY = ('two', 'three', 'four', 'five', 'six', 'several', 'many', 'some', 'multiple', 'few',
        'these', 'various', 'both')
BEFORE_NEW_PLURALS = (*MANY, 'of', 'and', 'other', 'with')
OF_ONE = ('is', 'was', 'be', 'being')
OF_MANY = ('are', 'were')
BESIDE_NOUNS = ('baseball', 'mountain', 'orange', 'rock')    # two orange dogs; is rock climbing
PREPOSITIONS = ('at', 'behind', 'beside', 'by', 'down', 'from', 'in', 'inside', 'into', 'near',
                'of', 'off', 'on', 'onto', 'outside', 'over', 'through', 'to', 'under', 'with')


def article_of(word):
    """The indefinite article, 'a' or 'an', that goes before a word."""
    if word.startswith(READ_WITH_VOWEL):
        return 'an'
    return 'an' if word[0] in 'aeiou' and not word.startswith(READ_WITHOUT_VOWEL) else 'a'


def grammar_of(vocab, words=(), new_ids=()):
    """{id: ids that never follow it}, see `not_after` in captioning.decoding.

    words: of a recognizer, whose forms are nouns. new_ids: of those that the decoder has not
    learned.
    """
    things = [word for word in words if word.kind != 'people']    # which every decoder learned
    singular, plural, mass = _by_number(vocab, things)
    singular -= {vocab(word) for word in BESIDE_NOUNS}
    alike = {vocab(word.word) for word in words if word.word == word.plural}    # two sheep
    new = set(new_ids)
    never = defaultdict(set)
    articles = {word.word: word.article for word in things if word.article}
    for word, word_id in vocab.word2idx.items():
        if word[0].isalpha():
            wrong, = {*ARTICLES} - {articles.get(word) or article_of(word)}
            never[wrong].add(word_id)
    for before in ONE:
        never[before] |= plural
    for before in ARTICLES:
        never[before] |= mass & new
    for before in OF_ONE:
        never[before] |= singular
    for before in (vocab.start_word, *OF_MANY, *MANY):
        never[before] |= singular - alike
    for before in PREPOSITIONS:
        never[before] |= singular & new
    for before in {*never, *BEFORE_NEW_PLURALS}:
        never[before] |= set() if before in BEFORE_NEW_PLURALS else plural & new
    rule = {vocab(before): sorted(ids) for before, ids in never.items()
            if before in vocab.word2idx}
    return {**rule, None: sorted(plural & new)}


def _by_number(vocab, words):
    """Sets of the ids of singular forms of count nouns, of plurals and of mass nouns."""
    singular, plural, mass = set(), set(), set()
    for word in words:
        for form in word.forms:
            if form not in vocab.word2idx:
                continue
            if _is_plural(form, word):
                plural.add(vocab(form))
            elif word.use == 'count' and not _is_gerund(form, word):
                singular.add(vocab(form))
            else:
                mass.add(vocab(form))
    return singular, plural - singular, mass - singular - plural


def _is_plural(form, word):
    if form == word.word:
        return word.use == 'plural'
    if form == word.plural or wordnet().is_plural(form.split()[-1]):
        return True
    # WordNet does not have each: teams, t-shirts. Of stairs there is one staircase.
    return form.endswith('s') and (word.use == 'plural' or form[:-1] in word.forms)


def _is_gerund(form, word):
    """Someone is skiing: such a form of a ski follows what no ski does."""
    return form != word.word and form.endswith('ing')
