"""Turn Flickr8k, Flickr30k, Karpathy-split JSON or a CSV into the layout of COCO.

    python -m scripts.convert Flickr8k.token.txt --images Flicker8k_Dataset --output data/flickr8k
    python -m scripts.convert dataset_coco.json --images coco/images --output data/karpathy

How the formats are told apart is in captioning/convert.py.
"""

import argparse

from captioning.convert import convert
from scripts import run_main

DESCRIPTION = ('Turn Flickr8k, Flickr30k, Karpathy-split JSON or a CSV of file names and captions '
               'into the layout of COCO.')


def main():
    parser = argparse.ArgumentParser(prog='python -m scripts.convert', description=DESCRIPTION)
    parser.add_argument('source',
                        help='Flickr8k.token.txt, results_20130124.token, results.csv, '
                             'dataset_*.json, or a CSV with a header such as image,caption or '
                             'image,caption,split')
    parser.add_argument('--images', required=True, help='folder of the photos')
    parser.add_argument('--output', required=True,
                        help='folder that gets cocoapi/, such as data/flickr8k')
    parser.add_argument('--val-images', type=int,
                        help='if SOURCE has no splits; default: a tenth, at most 1000')
    parser.add_argument('--test-images', type=int, help='the same for the test split')
    parser.add_argument('--seed', type=int, default=0,
                        help='of the random split (default: %(default)s)')
    parser.add_argument('--copy', action='store_true',
                        help='copy the photos instead of linking to them')
    convert(**vars(parser.parse_args()))


if __name__ == '__main__':
    run_main(main)
