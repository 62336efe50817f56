"""One zip of a run to hand in or to share: it captions photos wherever it is unpacked.

    python -m scripts.package runs/NAME/best.pt --output NAME.zip
"""

import argparse
import os
from pathlib import Path

from captioning.files import repository_path
from captioning.package import package
from captioning.runs import latest_checkpoint
from scripts import run_main


def main():
    parser = argparse.ArgumentParser(
        description='Write one zip of a run that captions photos wherever it is unpacked.')
    parser.add_argument('checkpoint', nargs='?',
                        help='such as runs/NAME/best.pt (default: of the run opened last)')
    parser.add_argument('--output', help='the zip to write (default: NAME.zip)')
    args = parser.parse_args()
    checkpoint = Path(args.checkpoint or latest_checkpoint())
    output = args.output or f'{checkpoint.parent.name}.zip'
    names = package(checkpoint, output)
    if not any(name.startswith('notebooks/') for name in names):
        print(f'without notebooks: {repository_path(checkpoint.parent)}/notebooks has none; '
              '`make run` executes them')
    print(f'{output}: {len(names) + 1} files, {os.path.getsize(output) / 1e6:.1f} MB')


if __name__ == '__main__':
    run_main(main)
