"""Caption photos from the command line.

    python -m scripts.sample --image photo.jpg other.png
    python -m scripts.sample --image album 'more/*.jpg' --output captions.json
    torchrun --nproc-per-node 4 -m scripts.sample --image album --output captions.json
"""

import argparse
import contextlib
import glob
import json
import re
import sys
import time
from pathlib import Path

import torch
from tqdm import tqdm

from data_loader import PHOTO_SUFFIXES
from scripts import distributed, run_main, write_aside
from scripts.checkpoint import SHIPPED, load_captioner
from scripts.decoding import beams
from scripts.features import encode, image_batches

SAVE_SECONDS = 10


def find_photos(arguments):
    """Files, folders (all photos in them, by name) and patterns -> list of paths, each once.

    Raises FileNotFoundError for a folder or pattern without photos; a file that is missing is told when it is read.
    """
    found = {}
    for argument in arguments:
        if Path(argument).is_dir():
            own = sorted(str(path) for path in Path(argument).rglob('*')
                         if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file())
        else:
            own = sorted(glob.glob(argument, recursive=True)) if glob.has_magic(argument) else [argument]
            own = [argument] if Path(argument).exists() else own    # a file may be called [1].jpg
        if not own:
            raise FileNotFoundError(f'no photos in {argument}.')
        found.update(dict.fromkeys(own))
    return list(found)


def caption_photos(captioner, paths, beam_size=3, num_captions=1, max_len=20):
    """Caption photos batch by batch, however many -> yields (path, captions, error), in order but for the failed.

    captions: num_captions of {'caption': str, 'log_prob': nats}, best first. Of a photo that cannot be read captions is
    None, and error says why.
    """
    for rows, images, errors in image_batches(paths, range(len(paths)), captioner.encoder.transform, captioner.device):
        yield from ((paths[row], None, message) for row, message in errors)
        if rows:
            features = encode(captioner.encoder.backbone, images, captioner.dtype)
            found = captioner.decode(features, beams, beam_size=max(beam_size, num_captions), max_len=max_len)
            for row, best in zip(rows, found, strict=True):
                yield paths[row], [{'caption': captioner.vocab.decode(one.ids),
                                    'log_prob': round(sum(one.log_probs), 4)} for one in best[:num_captions]], None


def image_id(path):
    """The number at the end of a file's name, as in COCO_val2014_000000000042.jpg; ValueError if there is none."""
    number = re.search(r'(\d+)$', Path(path).stem)
    if not number:
        raise ValueError(f'--format coco takes the image id from the end of the file name, and {path} has no number '
                         'there.')
    return int(number[1])


def entry(path, captions, form):
    """One photo's part of the output file."""
    return ({'image_id': image_id(path), 'caption': captions[0]['caption']} if form == 'coco' else
            {'image': path, 'captions': captions})


def identity(one):
    """What tells whose entry it is."""
    return one.get('image', one.get('image_id'))


def read_entries(output):
    """{identity: entry} of an output file and of the parts that several processes have left of one."""
    entries = {}
    for file in (output, *sorted(Path(output).parent.glob(glob.escape(Path(output).name) + '.rank*'))):
        with contextlib.suppress(FileNotFoundError):
            try:
                entries.update((identity(one), one) for one in json.loads(Path(file).read_text()))
            except (ValueError, TypeError, AttributeError):
                raise ValueError(f'{file} is there and is not the output of this command: give another --output, or '
                                 'remove it.') from None
    return entries


def write_entries(file, entries):
    with write_aside(file) as aside:
        aside.write_text(json.dumps(list(entries), indent=1, ensure_ascii=False))


def main():
    parser = argparse.ArgumentParser(description='Caption photos: one line each, path and caption.')
    parser.add_argument('--image', nargs='+', required=True, metavar='PATH',
                        help='photos in any format that Pillow reads, folders of them, or patterns')
    parser.add_argument('--checkpoint', default=SHIPPED,
                        help='such as runs/NAME/best.pt (default: the best that ships)')
    parser.add_argument('--model-file', help='the model.py of the run, where the one here was edited; it is run')
    parser.add_argument('--max-len', type=int, default=20, help='most words, start and end included (default: 20)')
    parser.add_argument('--beam-size', type=int, default=3, help='captions kept in mind; 1 is greedy (default: 3)')
    parser.add_argument('--num-captions', type=int, default=1, help='captions of each photo, best first (default: 1)')
    parser.add_argument('--format', choices=('text', 'json', 'coco'),
                        help='text; JSON with log-probabilities; COCO results (default: text, for a file JSON)')
    parser.add_argument('--output', help='file for JSON or COCO results; photos that it has already are skipped')
    args = parser.parse_args()
    form = args.format or ('json' if args.output else 'text')
    if args.output and form == 'text':
        parser.error('--output is for --format json and coco; text goes to the screen, or to a file with > FILE')
    if min(args.beam_size, args.num_captions) < 1:
        parser.error('--beam-size and --num-captions: expected a number from 1')
    device = distributed.connect()
    if distributed.ranks() > 1 and not args.output:
        parser.error('several processes need an --output')
    photos = find_photos(args.image)
    wanted = [image_id(path) for path in photos] if form == 'coco' else photos
    before = distributed.from_first(lambda: read_entries(args.output) if args.output else {})
    todo = [path for path, own in zip(photos, wanted, strict=True) if own not in before]
    mine = todo[distributed.rank()::distributed.ranks()]
    captioner = load_captioner(args.checkpoint, device, args.model_file)

    part = f'{args.output}.rank{distributed.rank()}' if distributed.ranks() > 1 else args.output
    entries = dict(before) if distributed.ranks() == 1 else {}
    failed, saved_at = 0, time.monotonic()
    progress = tqdm(total=len(mine), unit=' photos', delay=2, disable=distributed.rank() > 0 or None)
    try:
        for path, captions, error in caption_photos(captioner, mine, args.beam_size, args.num_captions, args.max_len):
            progress.update()
            if error:
                failed += 1
                progress.write(f'error: {error}', file=sys.stderr)
            elif form == 'text':
                progress.write('\n'.join(f'{path}: {one["caption"]}' for one in captions))
            else:
                one = entry(path, captions, form)
                entries[identity(one)] = one
            if args.output and time.monotonic() - saved_at > SAVE_SECONDS:
                write_entries(part, entries.values())
                saved_at = time.monotonic()
    finally:    # also where it is interrupted
        progress.close()
        if args.output:
            write_entries(part, entries.values())
    failed = int(distributed.total(torch.tensor(failed)))    # waits for all parts
    if args.output:
        distributed.from_first(lambda: merge(args.output, wanted))
    elif form != 'text':
        print(json.dumps(list(entries.values()), indent=1, ensure_ascii=False))
    distributed.disconnect()
    if failed:
        sys.exit(f'{failed} of {len(todo)} photos could not be read')


def merge(output, wanted):
    """Write all parts into the output file, in the order of the photos, after what it had of others."""
    found = read_entries(output)
    order = {own: at for at, own in enumerate(wanted)}
    write_entries(output, sorted(found.values(), key=lambda one: order.get(identity(one), -1)))
    for part in Path(output).parent.glob(glob.escape(Path(output).name) + '.rank*'):
        part.unlink()
    print(f'{len(found):,} photos are captioned in {output}', file=sys.stderr)


if __name__ == '__main__':
    run_main(main)
