"""Scenes of which no training caption tells a kind of thing: is it named all the same?

    run = train_without(data, ['horse'], epochs=4)
    captioner = naming_captioner(run.folder / 'best.pt', run.data)
    described = describe_scenes(captioner, run.data)
    print(text_table(unseen_table(described, run.data, ['horse'])))

The captions that name the thing are left out of training. A recognizer, which has seen the same
pictures and what is drawn there, knows all kinds of things. A scene tells what it shows, so it is
known exactly which of the things that captions name are not there.

Axes: N images, W kinds of things, in the order of KINDS.
"""

from typing import NamedTuple

import numpy as np
import torch

from captioning.captioner import load_captioner
from captioning.features import split_features
from captioning.grammar import article_of
from captioning.held_out import f1, without_words
from captioning.naming import Naming
from captioning.recognition.linear import trained_recognizer
from captioning.recognition.untuned import pooled
from captioning.recognition.words import Word
from captioning.scenes.catalogue import KINDS
from captioning.scoring.hallucination import chair, says, things_said
from captioning.scoring.references import References
from captioning.scoring.results import as_results
from captioning.scoring.scores import score
from captioning.scoring.split_captions import seen_split
from captioning.tables import percent
from captioning.training import (
    finish_epoch,
    make_settings,
    open_run,
    train_one_epoch,
    validate,
)

DECAY = 0.01    # of the recognizer: the pictures to be recognized are like those that it has seen
HEADER = ('', 'without names', 'with names')


# ---- What is drawn ----

def word_of(kind):
    """The Word that names a kind of thing. ValueError for one that is not of KINDS."""
    if kind not in KINDS:
        raise ValueError(f'{kind!r} is no kind of thing: expected one of {", ".join(KINDS)}.')
    singular, plural, *others = KINDS[kind].nouns
    elsewhere = {noun for other in KINDS if other != kind for noun in KINDS[other].nouns}
    also = tuple(noun for noun in others if noun not in elsewhere)    # a child may be a boy or girl
    return Word(singular, plural, 'count', article_of(singular), also)


def drawn_kinds(entries):
    """Entries of an annotation file -> which kinds of things are drawn there, (N, W) bool."""
    of_images = [{thing['kind'] for thing in entry['scene']['objects']} for entry in entries]
    return np.array([[kind in kinds for kind in KINDS] for kinds in of_images])


def drawn_nouns(entry):
    """All nouns for what a scene shows, also those of acts: the kite that a girl is flying."""
    nouns = []
    for thing in entry['scene']['objects']:
        nouns += thing['nouns']
        for act in KINDS[thing['kind']].acts:
            _, _, noun = act.partition(' ')
            nouns += [noun, f'{noun}s'] if noun else []
    return nouns


# ---- A captioner that lacks words, and a recognizer that has them ----

def train_without(data, kinds, epochs, **values):
    """Train a model without the captions that name kinds of things, or continue it -> Run.

    data: a CaptionData of scenes. The copy without these captions lies in its cache folder, and is
    `.data` of the run. values: further settings.
    """
    name = f'without-{"-".join(kinds)}'
    copy, kept = without_words(data, list(map(word_of, kinds)), data.cache_folder / name)
    captions = len(data.annotations('train')['annotations'])
    print(f'{kept:,} of {captions:,} training captions do not name {" or ".join(kinds)}')
    settings = make_settings(name=name, cocoapi_loc=str(copy.folder), epochs=epochs, **values)
    run = open_run(settings, copy)
    while not run.finished:
        finish_epoch(run, train_one_epoch(run), validate(run))
    return run


def naming_captioner(checkpoint, data):
    """A captioner that names what a recognizer of all kinds of things sees, trained on `data`."""
    captioner = load_captioner(checkpoint, names=False)
    captioner.naming = Naming(captioner, train_recognizer(captioner, data))
    return captioner


def train_recognizer(captioner, data):
    """A recognizer of all kinds of things by a captioner's features of the training pictures.

    Its CNN must not have been tuned: ValueError.
    """
    if captioner.untuned:
        raise ValueError('The CNN of this captioner is tuned: give one that was trained on '
                         'features of the frozen CNN.')
    features, unreadable, entries = split_features(captioner.encoder, data, 'train')
    rows = np.setdiff1d(np.arange(len(entries)), unreadable)
    labels = torch.from_numpy(drawn_kinds([entries[row] for row in rows]))
    features = pooled(torch.from_numpy(np.array(features[rows])).float())
    words = [word_of(kind) for kind in KINDS]
    return trained_recognizer(features, labels, words, captioner.backbone_hash, DECAY)


# ---- Captions, and whether they are true ----

class Described(NamedTuple):
    """Validation scenes with captions.

    entries: N, of the annotation file. plain, named: N Descriptions without and with names.
    """

    entries: list
    plain: list
    named: list

    def with_kind(self, kind):
        """Rows of the scenes that show a kind of thing, then those of the others."""
        shows = drawn_kinds(self.entries)[:, list(KINDS).index(kind)]
        return np.argsort(~shows, kind='stable').tolist()


def describe_scenes(captioner, data, beam_size=5):
    """Caption the validation scenes without and with names -> Described."""
    seen, rows, images = seen_split(captioner, data, 'val')
    plain, named = ([best for best, *_ in captioner.describe(each, beam_size, rows=rows)]
                    for each in (seen._replace(probabilities=None), seen))
    return Described([images[row] for row in rows], plain, named)


def unseen_table(described, data, kinds):
    """How good captions are without and with names -> rows of a table.

    F1 of naming each of `kinds`, where it is true of the scenes that show it. CIDEr. Of the words
    that were recognized and said, how many are drawn. Of all things that captions name, how many
    are not drawn (CHAIR, see captioning/scoring/hallucination.py).
    """
    texts = [[one.text.rstrip(' .') for one in captions]
             for captions in (described.plain, described.named)]
    drawn = drawn_kinds(described.entries)
    rows = [HEADER]
    for kind in kinds:
        true = drawn[:, list(KINDS).index(kind)]
        forms = word_of(kind).forms
        scores = [f1(np.array([says(text, forms) for text in each]), true) for each in texts]
        rows.append((f'F1 of {kind}, in {true.sum()} scenes', *(f'{one:.2f}' for one in scores)))
    rows.append(('CIDEr x100', *_ciders(described, data, texts)))
    rows.append(('recognized, said and drawn', '', _names_drawn(described, drawn)))
    absent = [percent(share_absent(described.entries, each)) for each in texts]
    return [*rows, ('named and not drawn, %', *absent)]


def _ciders(described, data, texts):
    ids = [entry['id'] for entry in described.entries]
    references = References(data.annotation_file('val'), ids, annotations=data.annotations('val'))
    results = [as_results(dict(zip(ids, each, strict=True))) for each in texts]
    return [percent(score(each, references)['CIDEr']) for each in results]


def _names_drawn(described, drawn):
    columns = {word_of(kind).word: column for column, kind in enumerate(KINDS)}
    right = [drawn[row, columns[name.word]]
             for row, one in enumerate(described.named) for name in one.names]
    return f'{sum(right)} of {len(right)}'


def share_absent(entries, texts):
    """Of the things that captions of scenes name, the share that is not drawn there."""
    nouns = [KINDS[kind].nouns for kind in KINDS]
    pairs = {frozenset(each[first:first + 2]) for each in nouns
             for first in range(0, len(each), 2)}    # singular and plural
    truth = [[' '.join(drawn_nouns(entry))] for entry in entries]
    said, absent = things_said(texts, truth, sorted(pairs, key=sorted))
    return chair(said, absent)['of things']
