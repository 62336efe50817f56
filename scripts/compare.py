"""All runs side by side, and their learning curves in one picture.

    python -m scripts.compare                           # table; picture: runs/compare.png
    python -m scripts.compare scenes scenes-2 --diff    # also what was edited, line by line
"""

import argparse

from captioning import files
from captioning.comparison import format_runs, read_runs, source_diff
from scripts import run_main


def main():
    parser = argparse.ArgumentParser(description='Print runs side by side, and draw their curves.')
    parser.add_argument('runs', nargs='*', help='folders under runs/ (default: all)')
    parser.add_argument('--diff', action='store_true',
                        help='show how model.py and what else was edited differ from the first')
    parser.add_argument('--markdown', action='store_true', help='print the table as Markdown')
    args = parser.parse_args()
    runs = read_runs(names=args.runs)
    if not runs:
        raise ValueError('no runs under runs/. Train one: `make run`, '
                         'or python -m scripts.train.')
    print(format_runs(runs, args.markdown))
    if args.diff:
        for run in runs[1:]:
            print(*source_diff(runs[0], run), sep='\n')
    from captioning.figures import plot_runs, save_figure  # here: matplotlib takes a second
    logs = {run['name']: run['log'] for run in runs}
    save_figure(plot_runs(logs), files.RUNS / 'compare.png')
    print('curves: runs/compare.png')


if __name__ == '__main__':
    run_main(main)
