"""Words that no training caption has: are they said all the same?

    python -m experiments.held_out_words path/to/flickr8k
    python -m experiments.held_out_words path/to/flickr8k --text captions.tsv.gz
    python -m experiments.held_out_words path/to/flickr8k --checkpoint models/flickr8k_best.pt

Of the words that the encoder's classifier knows, the twenty that occur in most validation captions
(after dog) are taken out of training with all captions that have them, and a model with attention
is trained on the rest. Printed is F1 of saying each on the validation images, without names and
with, where a word is true of an image if any reference has it; beside it the best that a threshold
on the recognizer's probability could do, one for each word, chosen on the very same images. With
--text, captions without photos tell where a word is to be expected
(captioning/recognition/from_text.py). With --checkpoint no model is trained: one that has learned
the words from captions shows what to expect.
"""

import argparse
import collections
import itertools
import math

import numpy as np
import torch

from captioning import files
from captioning.associations import read_captions
from captioning.caption_data import CaptionData
from captioning.captioner import load_captioner
from captioning.features import split_features
from captioning.held_out import f1, without_words
from captioning.naming import Naming, Seen, Trust
from captioning.recognition import SecondOpinion, load_recognizer, recognizer_from_text
from captioning.scoring import References, as_results, score
from captioning.scoring.hallucination import says
from captioning.scoring.split_captions import seen_split
from captioning.tables import text_table
from captioning.training import (
    finish_epoch,
    make_settings,
    open_run,
    train_one_epoch,
    validate,
)
from model import EncoderCNN
from scripts import run_main
from vocabulary import tokenize

# Of words that further captions tell.
TRUST = Trust(least=0.1, most=4, weight=8.0, bonus=1.0, highest=math.inf)
HEADER = ('word', 'images', 'without', 'with', 'best threshold')


def most_used(references, count, leave_out=('dog',)):
    """The recognizer's words that are in most captions -> list of Word."""
    captions = list(itertools.chain.from_iterable(references.tokens.values()))
    uses = {}
    for word in load_recognizer().words:
        if word.word not in leave_out:
            uses[word] = sum(says(caption, word.forms) for caption in captions)
    return sorted(uses, key=uses.get, reverse=True)[:count]


def train(data, epochs):
    """Train a model with attention, or continue it -> Run."""
    settings = make_settings(name='held-out-words', cocoapi_loc=str(data.folder), epochs=epochs,
                             image='attention')
    run = open_run(settings, data)
    while not run.finished:
        finish_epoch(run, train_one_epoch(run), validate(run))
    return run


def naming_from_text(captioner, data, words, groups):
    """A Naming whose recognizer knows the words from captions without photos as well.

    data: of whose training captions none has the words. groups: as read_captions gives them.
    """
    features, unreadable, images = split_features(EncoderCNN(1), data, 'train')
    captions = collections.defaultdict(list)
    for entry in data.annotations('train')['annotations']:
        captions[entry['image_id']].append(tokenize(entry['caption']))
    rows = np.setdiff1d(np.arange(len(images)), unreadable)
    features = torch.tensor(np.array(features[rows]))
    first = captioner.naming.recognizer
    second = recognizer_from_text(groups, features, [captions[images[row]['id']] for row in rows],
                                  words, first.backbone_hash)
    return Naming(captioner, SecondOpinion(first, second, features), TRUST)


def best_threshold(probabilities, true):
    order = np.argsort(-probabilities)
    hits, count = np.cumsum(true[order]), np.arange(1, len(order) + 1)
    return (2 * hits / (count + true.sum())).max()


def judge(captioner, data, words, beam_size):
    """-> rows of the table, and the scores without and with names."""
    seen, rows, images = seen_split(captioner, data, 'val')
    ids = [images[row]['id'] for row in rows]
    references = References(data.annotation_file('val'), ids)
    true = np.array([true_of_images(word, references, ids) for word in words])
    measured, scores = [], []
    for each in (Seen(seen.features), seen):
        lists = captioner.describe(each, beam_size, rows=rows)
        texts = [best.text.rstrip(' .') for best, *_ in lists]
        said = np.array([[says(text, word.forms) for text in texts] for word in words])
        measured.append(f1(said, true))
        results = as_results(dict(zip(ids, texts, strict=True)))
        scores.append(score(results, references))
    measured.append(ceiling(captioner.naming.recognizer, seen.probabilities[rows], words, true))
    images_of = true.sum(axis=1)
    table = [HEADER]
    for word, number, *values in zip(words, images_of, *measured, strict=True):
        table.append((word.word, f'{number}', *(f'{value:.2f}' for value in values)))
    means = [f'{np.mean(values):.3f}' for values in measured]
    return [*table, ('mean', '', *means)], scores


def true_of_images(word, references, ids):
    """For each image, whether any reference has the word."""
    truth = []
    for image_id in ids:
        captions = references.tokens[image_id]
        truth.append(any(says(caption, word.forms) for caption in captions))
    return truth


def ceiling(recognizer, probabilities, words, true):
    """F1 of each word by the threshold that is best for it."""
    columns = {word.word: column for column, word in enumerate(recognizer.words)}
    values = []
    for word, of_word in zip(words, true, strict=True):
        of_images = probabilities[:, columns[word.word]].numpy()
        values.append(best_threshold(of_images, of_word))
    return values


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('folder', help='the data set, the folder that holds cocoapi/')
    parser.add_argument('--epochs', type=int, default=6)
    parser.add_argument('--words', type=int, default=20, help='how many (default: 20)')
    parser.add_argument('--beam-size', type=int, default=5)
    parser.add_argument('--text', help='captions without photos, which have the words: lines of '
                        'the name of an image, a tab and a caption')
    parser.add_argument('--checkpoint', help='judge this model instead of training one')
    args = parser.parse_args()
    data, checkpoint = CaptionData(args.folder), args.checkpoint
    words = most_used(References(data.annotation_file('val')), args.words)
    if checkpoint is None:
        copy, kept = without_words(data, words, files.ROOT / 'data' / f'{data.name}-held-out')
        print(f'{kept:,} of {len(data.annotations("train")["annotations"]):,} captions are left')
        data, checkpoint = copy, train(copy, args.epochs).folder / 'best.pt'
    captioner = load_captioner(checkpoint, names=True)
    if args.text:
        captioner.naming = naming_from_text(captioner, data, words, read_captions(args.text))
    table, (without, named) = judge(captioner, data, words, args.beam_size)
    print(text_table(table))
    print(f'CIDEr {100 * without["CIDEr"]:.1f} without names, {100 * named["CIDEr"]:.1f} with')


if __name__ == '__main__':
    run_main(main)
