"""Are people named rightly: men, women, boys and girls, each judged by what references agree on?

    python -m experiments.people_named path/to/flickr8k

A validation photo belongs to a group where most of its references name that group and at most one
names another. Of each group the table says how often the captions name it, another group, people by
another word (person, child, player), or none. Groups are those of words in captions: whom a photo
shows nobody was asked.
"""

import argparse
from collections import Counter

from captioning.caption_data import CaptionData
from captioning.captioner import SHIPPED, load_captioner
from captioning.recognition.people import people_words
from captioning.scoring import References
from captioning.scoring.split_captions import caption_split
from captioning.tables import markdown_table
from scripts import run_main

GROUPS = {
    'man': 'man men guy guys gentleman gentlemen',
    'woman': 'woman women lady ladies',
    'boy': 'boy boys',
    'girl': 'girl girls',
}
GROUP_OF = {word: group for group, words in GROUPS.items() for word in words.split()}
COLUMNS = (*GROUPS, 'other people', 'nobody')


def groups_of(caption):
    """The groups that a caption, a str of tokens, names -> set."""
    return {GROUP_OF[word] for word in caption.split() if word in GROUP_OF}


def group_of_photo(references):
    """The group that most references name while at most one names another; None if there is none.
    """
    counts = Counter(group for caption in references for group in groups_of(caption))
    if not counts:
        return None
    (group, most), *others = counts.most_common()
    return group if most > len(references) / 2 and all(count <= 1 for _, count in others) else None


def named(caption, group, others):
    """How a caption names people of a group -> one of COLUMNS; any right word counts as right.

    others: further words for people.
    """
    said = groups_of(caption)
    if said:
        return group if group in said else min(said)
    return 'other people' if others & set(caption.split()) else 'nobody'


def table(captions, references, others):
    """Rows: for each group how its photos are captioned. Both lists have an entry for each photo.
    """
    counts = {group: Counter() for group in GROUPS}
    for caption, of_photo in zip(captions, references, strict=True):
        if group := group_of_photo(of_photo):
            counts[group][named(caption, group, others)] += 1
    rows = [('References say', 'photos', *(f'said: {column}' for column in COLUMNS), 'right')]
    for group, of_group in counts.items():
        photos = sum(of_group.values())
        right = f'{of_group[group] / photos:.0%}' if photos else ''
        rows.append((group, photos, *(of_group[column] for column in COLUMNS), right))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folder', help='data set, the folder that holds cocoapi/')
    parser.add_argument('--checkpoint', default=SHIPPED)
    parser.add_argument('--beam-size', type=int, default=5)
    args = parser.parse_args()
    data = CaptionData(args.folder)
    results = caption_split(args.checkpoint, data, beam_size=args.beam_size)
    references = References(data.annotation_file('val'), [each['image_id'] for each in results],
                            annotations=data.annotations('val'))
    captions = references.tokenize([each['caption'] for each in results])
    words = load_captioner(args.checkpoint, 'cpu', names=False).vocab.word2idx
    rows = table(captions, [references.tokens[each['image_id']] for each in results],
                 set(people_words(words)))
    print(markdown_table(rows))


if __name__ == '__main__':
    run_main(main)
