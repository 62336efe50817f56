"""Count the words of a COCO captions file and write the vocabulary; training does it by itself.

    python -m scripts.build_vocab --caption_path captions_train2014.json --vocab_path vocab.pkl
"""

import argparse
from pathlib import Path

from captioning.caption_data import find_data
from scripts import run_main
from vocabulary import Vocabulary


def main():
    parser = argparse.ArgumentParser(
        description='Write a vocabulary, the vocab_file of `get_loader` and `Vocabulary`.')
    parser.add_argument('--caption_path', '--caption-path',
                        help='COCO captions file (default: of the training split)')
    parser.add_argument('--vocab_path', '--vocab-path', default='vocab.pkl',
                        help='file to write (default: vocab.pkl)')
    parser.add_argument('--threshold', type=int, default=5,
                        help='fewest occurrences of a word (default: 5)')
    args = parser.parse_args()
    captions = args.caption_path or find_data().annotation_file('train')
    Path(args.vocab_path).parent.mkdir(parents=True, exist_ok=True)
    vocab = Vocabulary(args.threshold, args.vocab_path, annotations_file=str(captions))
    print(f'{len(vocab):,} words are in {args.vocab_path}')


if __name__ == '__main__':
    run_main(main)
