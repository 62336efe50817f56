"""Known words that are like a new one, by WordNet: horse for zebra, chair for bookcase.

    nouns = KnownNouns(vocab.word2idx)
    nouns.like('bookcase')                  # [('chair', 0.34), ('bed', 0.34), ('furniture', 0.32)]
    nouns.like('bookcases')                 # plurals for a plural
    nouns.like('mouse', kind='device')      # not the animal

Two nouns are as alike as the closest thing that both are kinds of is particular (Lin 1998, An
Information-Theoretic Definition of Similarity), and that is the more particular, the fewer nouns
are kinds of it (Seco, Veale and Hayes 2004, An Intrinsic Information Content Metric for Semantic
Similarity in WordNet). By depth alone (Wu and Palmer 1994, Verb Semantics and Lexical Selection) a
keyboard is most like a stair.

The nouns are an extract of WordNet 3.1 (Fellbaum 1998, WordNet: An Electronic Lexical Database),
made by experiments/wordnet_extract.py; its licence lies beside it.
"""

import functools
import gzip
import math
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

NOUNS = Path(__file__).with_name('wordnet_nouns.tsv.gz')
LICENCE = Path(__file__).with_name('wordnet_LICENSE.txt')
FIRST_LINE = 2           # of the synsets in that file: physical_entity

# ---- Judged by eye, on words of Flickr8k's vocabulary ----
LEAST_USE = 0.15         # share of a known word's uses that name a thing: `blue` is a dye in 1 %
LEAST_PARTICULAR = 0.7   # counts for known words that are less so: who says `equipment`?
COMMON = 0.2             # what the most common word gains, where likeness is 0 to 1
CLOSE = 0.85             # others count that are at least so like it as the one most like it
SHARPNESS = 3            # weights are likeness to this power

IRREGULAR = {'children': 'child', 'people': 'person', 'feet': 'foot', 'teeth': 'tooth',
             'geese': 'goose', 'mice': 'mouse', 'oxen': 'ox', 'dice': 'die', 'taxis': 'taxi'}
PLURAL_ENDINGS = (('men', 'man'), ('ies', 'y'), ('ves', 'f'), ('ves', 'fe'), ('ches', 'ch'),
                  ('shes', 'sh'), ('ses', 's'), ('xes', 'x'), ('zes', 'z'), ('oes', 'o'),
                  ('s', ''))
NOT_PLURAL = ('ss', 'us', 'is')
ONLY_PLURAL = frozenset('binoculars glasses goggles jeans pajamas pants scissors shorts sunglasses '
                        'tights tongs trousers underpants'.split())


# ---- WordNet ----

class Sense(NamedTuple):
    """A meaning of a noun, and the share of the word's uses that have it."""

    synset: int
    share: float


class WordNet:
    """Nouns and what they are kinds of; a synset is the number of its line in the file.

    senses: dict from a noun to its Senses. hypernyms: list, the synsets that each is a kind of.
    particular: list, how particular each is, from 0 for a physical entity to 1 for one of which
    nothing is a kind.
    """

    def __init__(self, file=NOUNS):
        self.senses, self.hypernyms, below = defaultdict(list), [()] * FIRST_LINE, [1] * FIRST_LINE
        _, *lines = gzip.decompress(Path(file).read_bytes()).decode().splitlines()
        for synset, line in enumerate(lines, start=FIRST_LINE):
            parents, number, nouns = line.split('\t')
            self.hypernyms.append([int(parent) for parent in parents.split(',') if parent])
            below.append(int(number))
            for noun in nouns.split():
                name, _, percent = noun.partition('=')
                self.senses[name].append(Sense(synset, int(percent) / 100))
        most = math.log(below[FIRST_LINE])
        self.particular = [1 - math.log(number) / most for number in below]
        self.above = functools.cache(self._above)

    def _above(self, synset):
        """Set of a synset and all that it is a kind of."""
        parents = [self.above(parent) for parent in self.hypernyms[synset]]
        return frozenset({synset}).union(*parents)

    def likeness(self, synset, other, shared=None):
        """How alike two synsets are, from 0 to 1. shared: a synset that both are a kind of, by
        default the most particular.
        """
        if shared is None:
            all_shared = self.above(synset) & self.above(other)
            shared = max(all_shared, key=self.particular.__getitem__)
        of_other = max(LEAST_PARTICULAR, self.particular[other])
        return 2 * self.particular[shared] / (self.particular[synset] + of_other)

    def singular(self, word):
        """The noun of which a word is the plural, or None."""
        if word in IRREGULAR:
            return IRREGULAR[word]
        if word.endswith(NOT_PLURAL) and word in self.senses:
            return None
        for ending, replaced in PLURAL_ENDINGS:
            noun = word.removesuffix(ending) + replaced
            if word.endswith(ending) and len(noun) > 2 and noun in self.senses:
                return noun
        return None

    def is_plural(self, word):
        return word in ONLY_PLURAL or self.singular(word) is not None

    def meanings(self, word):
        """The Senses of a noun, or of that of which it is the plural."""
        if word in ONLY_PLURAL and word in self.senses:
            return self.senses[word]
        return self.senses.get(self.singular(word) or word, [])


@functools.cache
def wordnet():
    """The WordNet that ships, read once."""
    return WordNet()


# ---- Words of captions ----

class KnownNouns:
    """The words that a model has learned, of which nouns that name things are looked through.

    known: dict from each word to how common it is, such as the number of its occurrences, or words
    from the most common down.
    """

    def __init__(self, known):
        self.wordnet = wordnet()
        if isinstance(known, dict):
            known = sorted(known, key=known.get, reverse=True)
        known = list(known)
        size = math.log(max(2, len(known)))
        self.common = {word: 1 - math.log(rank) / size for rank, word in enumerate(known, start=1)}
        # By `is_plural`: {synset: {known word: share of its uses that are kinds of it, and which}}
        self.below = {True: defaultdict(dict), False: defaultdict(dict)}
        for word in known:
            self._sort_in(word)

    def _sort_in(self, word):
        below = self.below[self.wordnet.is_plural(word)]
        senses = sorted(self.wordnet.meanings(word), key=lambda sense: sense.share)
        if sum(sense.share for sense in senses) < LEAST_USE:
            return
        for synset, share in senses:
            for ancestor in self.wordnet.above(synset):
                share_of_others, _ = below[ancestor].get(word, (0, None))
                below[ancestor][word] = share + share_of_others, synset

    def like(self, word, count=3, kind=''):
        """Up to `count` known words that are like a word -> pairs (known word, weight).

        The best comes first, and weights add up to 1. For a plural they are plurals, if any is
        known. kind: a noun that tells which meaning of the word is meant, such as 'device' for the
        mouse of a computer, and that takes the place of a word which WordNet lacks; by default it
        is the most frequent one. The list is empty if no known word is like it.
        """
        synset, kinds = self._meant(word, kind)
        if synset is None:
            return []
        plural = self.wordnet.is_plural(word)
        scores = self._scores(word, synset, kinds, self.below[plural])
        scores = scores or self._scores(word, synset, kinds, self.below[not plural])
        best = sorted(scores, key=scores.get, reverse=True)[:count]
        best = [known for known in best if scores[known] >= CLOSE * scores[best[0]]]
        weights = [scores[known] ** SHARPNESS for known in best]
        return [(known, weight / sum(weights)) for known, weight in zip(best, weights, strict=True)]

    def _meant(self, word, kind):
        """The synset that is meant by a word or None, and those of the kind that it is of."""
        senses, kinds = self.wordnet.meanings(word), self.wordnet.meanings(kind)
        if not senses:    # a word that WordNet lacks
            senses, kinds = kinds, []

        def fits(sense):
            likeness = [self.wordnet.likeness(sense.synset, other.synset) for other in kinds]
            return max(likeness, default=0), sense.share

        synset = max(senses, key=fits).synset if senses else None
        above = self.wordnet.above(synset) if senses else ()
        return synset, {sense.synset for sense in kinds if sense.synset in above}

    def _scores(self, word, synset, kinds, below):
        """{known word: how like the synset it is, and how common}

        kinds: only words of one of these kinds, if any is known. below: of self.below.
        """
        same = {word, self.wordnet.singular(word)}
        scores, wordnet = {}, self.wordnet
        ancestors = sorted(wordnet.above(synset), key=wordnet.particular.__getitem__, reverse=True)
        within = [ancestor for ancestor in ancestors if kinds & wordnet.above(ancestor)]
        for ancestor in within or ancestors:
            # Of words below it, none can be more like the synset than this.
            highest = wordnet.likeness(synset, FIRST_LINE, ancestor) + COMMON
            if highest < CLOSE * max(scores.values(), default=0):
                break
            for known, (share, other) in below.get(ancestor, {}).items():
                likeness = wordnet.likeness(synset, other, ancestor) * share ** 0.5
                score = likeness + COMMON * self.common[known]
                if known not in same and score > scores.get(known, 0):
                    scores[known] = score
        if within and not scores:
            return self._scores(word, synset, frozenset(), below)
        return scores
