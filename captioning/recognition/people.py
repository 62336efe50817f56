"""Words for people, by WordNet, and whether captions have any.

    words = people_words(vocab.word2idx)
    share = share_with_people(captions, words)      # of the captions of an image
"""

from captioning.recognition.like_words import wordnet

MOSTLY = 0.5      # share of a word's uses that are of a person
NOT_PEOPLE = frozenset('bleachers bunny chased coaster kiddie pacifier stroller strollers tiger'
                       .split())
ALSO_PEOPLE = frozenset('adult adults climber climbers crowd crowds driver drivers families family '
                        'female females fireman individual individuals male males team teams teen '
                        'teens'.split())


def people_words(words):
    """Those of `words` that name people -> list of str in their order."""
    return [word for word in words
            if word in ALSO_PEOPLE or word not in NOT_PEOPLE and _share(word) >= MOSTLY]


def _share(word):
    """Of a word's uses that name a thing, the share that names a person."""
    nouns = wordnet()
    person = max(nouns.senses['person'], key=lambda sense: sense.share).synset
    return sum(sense.share for sense in nouns.meanings(word) if person in nouns.above(sense.synset))


def share_with_people(captions, words):
    """Of the captions of an image, each a list of tokens, the share that has one of the words."""
    words = set(words)
    return sum(not words.isdisjoint(tokens) for tokens in captions) / len(captions)
