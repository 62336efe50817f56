"""Kinds of things that no training caption names: are they named all the same?

    python -m experiments.unseen_things                                     # four minutes
    python -m experiments.unseen_things --kinds cat tent --epochs 4
    python -m experiments.unseen_things --checkpoint runs/scenes/best.pt    # of all captions

A model is trained on the built-in scenes without the captions that name these kinds, and describes
the validation scenes without names and with those of a recognizer that knows all kinds.
captioning/scenes/unseen.py tells what is printed.
"""

import argparse

from captioning.prepare import prepare_data
from captioning.scenes.unseen import (
    describe_scenes,
    naming_captioner,
    train_without,
    unseen_table,
)
from captioning.tables import text_table
from scripts import run_main


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--data', help='folder of scenes; default: as in scripts.train')
    parser.add_argument('--kinds', nargs='+', default=('horse', 'bus', 'balloon'))
    parser.add_argument('--epochs', type=int, default=6)
    parser.add_argument('--beam-size', type=int, default=5)
    parser.add_argument('--checkpoint', help='take this model instead of training one')
    args = parser.parse_args()
    data, checkpoint = prepare_data(args.data), args.checkpoint
    if checkpoint is None:
        run = train_without(data, args.kinds, args.epochs)
        data, checkpoint = run.data, run.folder / 'best.pt'
    described = describe_scenes(naming_captioner(checkpoint, data), data, args.beam_size)
    print(text_table(unseen_table(described, data, args.kinds)))


if __name__ == '__main__':
    run_main(main)
