"""Does the CIDEr that is expected of a caption choose better than its log-probability?

    python -m experiments.consensus --cocoapi-loc path/to/flickr8k

Of each validation photo the captions of a beam are ranked by both (captioning/consensus.py, made
from the training photos and their captions); without names. Five minutes on two cores, besides the
features of the training photos.
"""

import argparse

import numpy as np
import torch

from captioning.caption_data import find_data
from captioning.captioner import SHIPPED, load_captioner
from captioning.consensus import WEIGHT, Consensus
from captioning.decoding import beams
from captioning.features import split_features
from captioning.recognition.untuned import untuned_encoder
from captioning.scoring import References, paired_test, score
from captioning.scoring.split_captions import seen_split
from captioning.tables import percent, text_table
from scripts import run_main
from vocabulary import tokenize

SCORES = ('BLEU-4', 'CIDEr')


def words_of_images(data, split):
    """The captions of each image of a split as lists of words, in file order."""
    captions = {image['id']: [] for image in data.images(split)}
    for entry in data.annotations(split)['annotations']:
        captions[entry['image_id']].append(tokenize(entry['caption']))
    return list(captions.values())


def fitted(captioner, data, **options):
    """A Consensus of the training photos, from features of the captioner's untuned encoder."""
    features, unreadable, _ = split_features(untuned_encoder(captioner), data, 'train')
    if unreadable:
        raise ValueError(f'{len(unreadable)} training photos cannot be read.')
    features = torch.tensor(np.array(features))
    return Consensus(features, words_of_images(data, 'train'), **options)


def comparison(captioner, consensus, data, beam_sizes, weights):
    """Rows of the table: for each beam the likeliest caption, and those chosen by each weight."""
    seen, rows, images = seen_split(captioner, data, 'val')
    features, _, _ = split_features(untuned_encoder(captioner), data, 'val')
    features = torch.tensor(np.array(features[rows]))
    references = References(data.annotation_file('val'), [images[row]['id'] for row in rows],
                            annotations=data.annotations('val'))
    table = [('beam', 'weight', *SCORES, 'difference in CIDEr, paired')]
    for size in beam_sizes:
        found = captioner.decode(seen.features, beams, rows, beam_size=size)
        texts = [[captioner.vocab.decode(caption.ids) for caption in each] for each in found]
        words = [[tokenize(text) for text in each] for each in texts]
        log_probs = [[caption.log_probs for caption in each] for each in found]
        likeliest = None
        for weight in (0, *weights):
            numbers = consensus.chosen(features, words, log_probs, weight)
            results = [{'image_id': images[row]['id'], 'caption': each[number]}
                       for row, each, number in zip(rows, texts, numbers, strict=True)]
            likeliest = likeliest or results
            scores = score(results, references, draws=1000)
            cells = [percent(scores[name], scores['intervals'][name]) for name in SCORES]
            table.append((size, f'{weight:g}', *cells, _gain(likeliest, results, references)))
    return table


def _gain(before, after, references):
    test = paired_test(before, after, references)['CIDEr']
    low, high = test['interval']
    return f'{100 * test["difference"]:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]'


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('checkpoint', nargs='?', default=SHIPPED)
    parser.add_argument('--cocoapi-loc', help='folder that holds cocoapi/')
    parser.add_argument('--beam-sizes', type=int, nargs='+', default=(5, 10, 20))
    parser.add_argument('--weights', type=float, nargs='+',
                        default=(WEIGHT, 2 * WEIGHT, 4 * WEIGHT), help='of the expected CIDEr')
    args = parser.parse_args()
    data = find_data(args.cocoapi_loc)
    captioner = load_captioner(args.checkpoint, names=False)
    table = comparison(captioner, fitted(captioner, data), data, args.beam_sizes, args.weights)
    print(text_table(table))


if __name__ == '__main__':
    run_main(main)
