"""Caption photos from the command line.

    python -m scripts.sample --image photo.jpg other.png
    python -m scripts.sample --image album 'more/*.jpg' --output captions.json
    torchrun --nproc-per-node 4 -m scripts.sample --image album --output captions.json
"""

import argparse
import json
import sys

import torch
from tqdm import tqdm

from captioning import distributed
from captioning.captioner import SHIPPED, load_captioner
from captioning.photo_captions import (
    CaptionFile,
    caption_photos,
    image_ids,
    make_entry,
)
from captioning.photos import find_photos
from scripts import add_choice_options, run_main


def read_arguments():
    parser = argparse.ArgumentParser(description='Caption photos: one line each, path and caption.')
    parser.add_argument('--image', nargs='+', required=True, metavar='PATH',
                        help='photos in any format that Pillow reads, folders of them, or patterns')
    parser.add_argument('--checkpoint', default=SHIPPED,
                        help='such as runs/NAME/best.pt (default: the best that ships)')
    parser.add_argument('--model-file', help='the model.py of the run, where the one here was '
                        'edited; it is run')
    parser.add_argument('--device', help='cuda, mps or cpu (default: the first that works)')
    parser.add_argument('--max-len', type=int, default=20,
                        help='most words, start and end included (default: 20)')
    parser.add_argument('--beam-size', type=int, default=3,
                        help='captions kept in mind; 1 is greedy (default: 3)')
    parser.add_argument('--num-captions', type=int, default=1,
                        help='captions of each photo, best first (default: 1)')
    add_choice_options(parser)
    parser.add_argument('--format', choices=('text', 'json', 'coco'),
                        help='text; JSON with log-probabilities and what was recognized; COCO '
                        'results (default: text, for a file JSON)')
    parser.add_argument('--output', help='file for JSON or COCO results; photos that it has '
                        'already are skipped')
    args = parser.parse_args()
    args.format = args.format or ('json' if args.output else 'text')
    if args.output and args.format == 'text':
        parser.error('--output is for --format json and coco; text goes to the screen, or to a '
                     'file with > FILE')
    if min(args.beam_size, args.num_captions) < 1:
        parser.error('--beam-size and --num-captions: expected a number from 1')
    return parser, args


def main():
    parser, args = read_arguments()
    device = distributed.connect(args.device)
    if distributed.ranks() > 1 and not args.output:
        parser.error('several processes need an --output')
    paths = find_photos(args.image)
    photos = image_ids(paths) if args.format == 'coco' else paths
    output = CaptionFile(args.output, photos)
    missing = set(output.missing)
    if len(missing) < len(paths) and distributed.rank() == 0:
        print(f'{len(paths) - len(missing):,} of {len(paths):,} photos are in {args.output} '
              'already and are left as they are', file=sys.stderr)
    todo = [path for path, photo in zip(paths, photos, strict=True) if photo in missing]
    captioner = load_captioner(args.checkpoint, device, args.model_file, args.names,
                               args.consensus)
    share = todo[distributed.rank()::distributed.ranks()]
    try:
        failed = caption_into(output, captioner, share, args)
    finally:    # also where it is interrupted
        output.save()
    failed = int(distributed.total(torch.tensor(failed)))    # waits for all parts
    if args.output:
        distributed.on_first_rank(output.merge)
    elif args.format != 'text':
        print(json.dumps(list(output.entries.values()), indent=1))
    distributed.disconnect()
    if failed:
        sys.exit(f'{failed} of {len(todo)} photos could not be read')


def caption_into(output, captioner, paths, args):
    """Print or keep the caption of each photo -> how many could not be read."""
    failed = 0
    captioned = caption_photos(captioner, paths, args.beam_size, args.num_captions, args.max_len)
    quiet = distributed.rank() > 0 or None
    with tqdm(total=len(paths), unit=' photos', delay=2, disable=quiet) as progress:
        for path, told, error in captioned:
            progress.update()
            if error:
                failed += 1
                progress.write(f'error: {error}', file=sys.stderr)
            elif args.format == 'text':
                lines = [f'{path}: {one["caption"]}' for one in told['captions']]
                progress.write('\n'.join(lines))
            else:
                output.add(make_entry(path, told, args.format))
    return failed


if __name__ == '__main__':
    run_main(main)
