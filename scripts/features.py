"""Compute the features of a data set's images, which training otherwise does by itself.

    python -m scripts.features --split train val test
"""

import argparse

from captioning.caption_data import find_data
from captioning.devices import default_device
from captioning.features import split_features
from model import EncoderCNN
from scripts import run_main

SPLITS = ('train', 'val', 'test')


def main():
    parser = argparse.ArgumentParser(description="Compute the encoder's output for every image.")
    parser.add_argument('--cocoapi-loc',
                        help='folder that holds cocoapi/ (default: as the notebooks)')
    parser.add_argument('--split', nargs='+', default=SPLITS, choices=SPLITS)
    args = parser.parse_args()
    data = find_data(args.cocoapi_loc)
    encoder = EncoderCNN(1).to(default_device())
    for split in args.split:
        features, _, _ = split_features(encoder, data, split)
        print(f'{split}: {features.shape} {features.dtype}')


if __name__ == '__main__':
    run_main(main)
