"""Train models/flickr8k_people.pt, which tells whether there are people in a photo.

    COCOAPI_LOC=path/to/flickr8k python -m experiments.people

Of each training photo it learns the share of captions that have a word for people. Printed is how
well it tells photos of which no caption has one from those of which most have (area under the ROC
curve), on the validation photos of this and of other data.
"""

import argparse

import numpy as np
import torch

from captioning import files
from captioning.caption_data import CaptionData, find_data
from captioning.captioner import SHIPPED, load_captioner
from captioning.features import split_features
from captioning.recognition.linear import trained_recognizer
from captioning.recognition.people import people_words, share_with_people
from captioning.recognition.recognizer import BACKBONE_HASH, PEOPLE
from captioning.recognition.words import Word
from model import EncoderCNN
from scripts import run_main
from vocabulary import tokenize


def photos_and_shares(data, split, words):
    """Pooled features (N, C) of a split, and the share of captions with people (N,)."""
    features, _, images = split_features(EncoderCNN(1), data, split)
    captions = {image['id']: [] for image in images}
    for entry in data.annotations(split)['annotations']:
        captions[entry['image_id']].append(tokenize(entry['caption']))
    shares = [share_with_people(captions[image['id']], words) for image in images]
    return torch.tensor(np.array(features)), torch.tensor(shares)


def area_under_curve(probabilities, shares):
    """How often a photo with people has the higher probability of a pair."""
    without, most = probabilities[shares == 0], probabilities[shares >= 0.6]
    higher = (most[:, None] > without).float() + 0.5 * (most[:, None] == without)
    return higher.mean().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--others', nargs='*', default=(), help='folders of other data')
    parser.add_argument('--output', default=PEOPLE)
    args = parser.parse_args()
    words = people_words(load_captioner(SHIPPED, 'cpu', names=False).vocab.word2idx)
    print(len(words), 'words:', ', '.join(words))
    data = find_data()
    features, shares = photos_and_shares(data, 'train', words)
    person = Word('person', 'people', 'count', 'a', tuple(sorted({*words} - {'person', 'people'})),
                  'people')
    recognizer = trained_recognizer(features, shares[:, None], [person], BACKBONE_HASH)
    for each in (data, *map(CaptionData, args.others)):
        features, shares = photos_and_shares(each, 'val', words)
        area = area_under_curve(recognizer.probabilities(features)[:, 0], shares)
        print(f'{each.name}: {len(shares)} photos, {area:.3f}')
    recognizer.save(args.output)
    print(f'The recognizer is in {files.repository_path(args.output)}.')


if __name__ == '__main__':
    run_main(main)
