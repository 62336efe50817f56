"""Download MS COCO 2014: captions, instances, photos; see captioning/coco_download.py.

    python -m scripts.download --output data/coco    # all: 28 GB, 42 GB free to begin
    python -m scripts.download --output data/coco --only annotations val    # 8 GB, 15 GB to begin

Whatever stops it, the same command continues.
"""

import argparse

from captioning.coco_download import GROUPS, OFFICIAL, download_coco
from scripts import run_main

DESCRIPTION = ('Download MS COCO 2014 (Lin et al. 2014, "Microsoft COCO: Common Objects in '
               'Context"): captions, instances, photos.')


def main():
    parser = argparse.ArgumentParser(prog='python -m scripts.download', description=DESCRIPTION)
    parser.add_argument('--output', default='data/coco',
                        help='folder that gets cocoapi/ (default: %(default)s)')
    parser.add_argument('--only', nargs='+', choices=GROUPS, help='default: everything')
    parser.add_argument('--base-url', default=OFFICIAL, help='a mirror (default: %(default)s)')
    parser.add_argument('--keep-archives', action='store_true',
                        help='keep the zip files after unpacking')
    args = parser.parse_args()
    download_coco(args.output, args.only, args.base_url, args.keep_archives)


if __name__ == '__main__':
    run_main(main)
