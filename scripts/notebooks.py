"""Execute the four notebooks in order, and keep the executed copies with the run that they made.

    python -m scripts.notebooks                     # what `make run` does after installing
    python -m scripts.notebooks --set EPOCHS=3      # with another value in the settings cells
    python -m scripts.notebooks --refresh           # what `make notebooks` does
"""

import argparse
import re
import sys

from captioning import files
from captioning.files import read_json
from captioning.notebooks import refresh_notebooks, run_notebooks
from captioning.tables import percent
from scripts import run_main

RESULTS = {'notebooks': ('notebooks/*.html', 'notebooks/*.ipynb'),
           'learning curve': ('curves.png',),
           'captioned samples': ('samples.png',),
           'captions': ('captions_val.json', 'captions_test.json'),
           'model': ('best.pt',)}


def tell(run):
    """Print the scores, and where everything is."""
    scores = [f'{name} {percent(value)}'
              for name, value in read_json(run / 'scores.json').items()
              if isinstance(value, float)]
    print(f'scores on validation, x100: {", ".join(scores)}')
    folder = files.repository_path(run)
    for title, names in RESULTS.items():
        print(f'{title:18} ' + ', '.join(str(folder / name) for name in names))
    python = files.repository_path(sys.executable)
    print(f'caption a photo:   {python} -m scripts.sample --image photo.jpg')


def main():
    parser = argparse.ArgumentParser(description='Execute the four notebooks in order.')
    parser.add_argument('--set', nargs='+', default=[], metavar='NAME=VALUE',
                        help='values for the settings cells')
    parser.add_argument('--refresh', action='store_true',
                        help='write the outputs into the committed notebooks')
    args = parser.parse_args()
    for change in args.set:
        if not re.fullmatch(r'\w+=.+', change):
            raise ValueError(f'--set {change}: expected NAME=VALUE, such as EPOCHS=3.')
    if args.refresh:
        refresh_notebooks()
    else:
        tell(run_notebooks(dict(change.split('=', 1) for change in args.set)))


if __name__ == '__main__':
    run_main(main)
