"""Draw the built-in data set: captioned picture-book scenes, with the truth of what was drawn.

    python -m scripts.scenes --output data/scenes --train 2000 --val 400 --test 400 --seed 0

It has the layout of COCO 2014. Each image entry has a key `scene`: `place`, `held_out` and
`objects`, the main thing first, each with `kind`, `nouns` (any of them names it), `colour` or null,
`size`, `count` and `relation`: of the main thing to the second, else null. A kind's last colour is
held out: only pictures of test with `held_out` show it. `info['words']` in each file lists the
words that name a place, a relation, a count or a colour.
"""

import argparse

from captioning.scenes import draw_scenes
from scripts import run_main


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS)    # the defaults are those of draw_scenes
    parser.add_argument('--output', help='folder that will hold cocoapi/')
    parser.add_argument('--train', type=int, help='training images')
    parser.add_argument('--val', type=int, help='validation images')
    parser.add_argument('--test', type=int, help='test images')
    parser.add_argument('--seed', type=int, help='another one gives other scenes')
    parser.add_argument('--size', type=int, help='side of an image in pixels (default: 256)')
    parser.add_argument('--workers', type=int, help='processes that draw (default: one a core)')
    args = parser.parse_args()
    print(f'scenes are in {draw_scenes(**vars(args))}/cocoapi')


if __name__ == '__main__':
    run_main(main)
