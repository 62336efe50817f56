"""Write a checkpoint in half the size, to keep or to give away.

    python -m scripts.checkpoint runs/NAME/best.pt --output mine/NAME.pt

Loading is in captioning/captioner.py; `load_captioner` can be imported from here too, as notebooks
of before do.
"""

import argparse
from pathlib import Path

from captioning.captioner import export, load_captioner
from scripts import run_main

__all__ = ['load_captioner', 'main']


def main():
    parser = argparse.ArgumentParser(
        description='Write a checkpoint in half the size, and the model.py of its run.')
    parser.add_argument('checkpoint', help='such as runs/NAME/best.pt')
    parser.add_argument('--output', required=True,
                        help='file to write; model.py is written beside it')
    args = parser.parse_args()
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    export(args.checkpoint, args.output)
    print(f'{args.output}: {Path(args.output).stat().st_size / 1e6:.1f} MB')


if __name__ == '__main__':
    run_main(main)
