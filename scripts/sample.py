"""Caption photos from the command line.

    python -m scripts.sample --image photo.jpg other.png
"""

import argparse
import sys

from scripts import run_main
from scripts.checkpoint import latest_checkpoint, load_captioner


def main():
    parser = argparse.ArgumentParser(description='Caption photos: one line each, path and caption.')
    parser.add_argument('--image', nargs='+', required=True, metavar='PATH', help='photos in any format Pillow reads')
    parser.add_argument('--checkpoint', help='a checkpoint of a run (default: the newest runs/NAME/best.pt)')
    parser.add_argument('--model-file', help='the model.py of the run, where the one here was edited; it is run')
    parser.add_argument('--max-len', type=int, default=20, help='most words, start and end included (default: 20)')
    parser.add_argument('--beam-size', type=int, default=3, help='captions kept in mind; 1 is greedy (default: 3)')
    args = parser.parse_args()
    captioner = load_captioner(args.checkpoint or latest_checkpoint(), model_file=args.model_file)
    failed = 0
    for path in args.image:
        try:
            print(f'{path}: {captioner.caption([path], args.max_len, args.beam_size)[0]}', flush=True)
        except OSError as error:
            print(f'error: {error}', file=sys.stderr)
            failed += 1
    if failed:
        sys.exit(f'{failed} of {len(args.image)} photos could not be read')


if __name__ == '__main__':
    run_main(main)
