"""Photos of 12 megapixels: what decoding them near the encoder's size saves, and what it changes.

    python -m experiments.phone_photos                                  # seconds a photo, by turns
    python -m experiments.phone_photos --enlarged path/to/flickr8k      # scores of enlarged photos

The photos are the free ones of images/photos, enlarged, each at another cut and with noise, so that
a file has 3 to 4 MB as from a phone.
"""

import argparse
import contextlib
import itertools
import shutil
import time
from pathlib import Path

import numpy as np
from PIL import Image

from captioning import encoding, files
from captioning.caption_data import CaptionData
from captioning.captioner import load_captioner
from captioning.encoding import photo_batches
from captioning.figures import GRACE_HOPPER
from captioning.photo_captions import caption_photos
from captioning.photos import load_image, photos_in
from captioning.scoring import References, score
from captioning.tables import percent, text_table
from scripts import run_main

PHOTOS, SIZE, NOISE = 200, (4032, 3024), 8
TURNS = 3
ENLARGED = 1344    # pixels; six times those of Flickr8k as 224 x 224, decoded at a half


@contextlib.contextmanager
def all_pixels():
    """Within the block, photos are decoded in full."""
    least_decoded = encoding.least_decoded
    encoding.least_decoded = lambda size: None
    try:
        yield
    finally:
        encoding.least_decoded = least_decoded


def make_photos(folder):
    """Write PHOTOS files -> paths. Those that are there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = [load_image(path)
               for path in (*photos_in(files.ROOT / 'images' / 'photos'), GRACE_HOPPER)]
    paths = [folder / f'{number}.jpg' for number in range(PHOTOS)]
    noise = np.random.default_rng(0).normal(0, NOISE, (SIZE[1], SIZE[0], 1))
    for number, path in enumerate(paths):
        if path.exists():
            continue
        source = sources[number % len(sources)]
        x, y = np.random.default_rng(number).uniform(0, 0.2, 2) * source.size
        box = (x, y, x + 0.8 * source.width, y + 0.8 * source.height)
        large = source.resize(SIZE, Image.Resampling.BICUBIC, box)
        pixels = np.clip(np.asarray(large) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path, quality=90)
    return paths


def compare_speed(paths):
    """Print photos a second of `sample`'s work, of both ways, and of the encoder alone."""
    captioner = load_captioner()
    transform = captioner.encoder.transform
    batches = [images for _, images, _ in photo_batches(
        paths[:64], range(64), transform, captioner.device)]

    def sample():
        return [told['captions'][0]['caption'] for _, told, _ in caption_photos(captioner, paths)]

    def encode():
        return [captioner.encode(images) for images in batches]

    encode()
    rows, captions = [('turn', 'all pixels', 'near the size', 'encoder alone')], {}
    for turn in range(1, TURNS + 1):
        with all_pixels():
            full, captions['full'] = timed(sample)
        near, captions['near'] = timed(sample)
        bare, _ = timed(encode)
        rates = len(paths) / full, len(paths) / near, 64 / bare
        rows.append((turn, *(f'{rate:.1f}' for rate in rates)))
    changed = sum(map(str.__ne__, captions['full'], captions['near']))
    megabytes = np.mean([path.stat().st_size for path in paths]) / 1e6
    print(f'{len(paths)} photos of {megabytes:.1f} MB, photos/s:')
    print(text_table(rows))
    print(f'{changed} captions differ')


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def compare_scores(data):
    """Print the scores of validation photos, enlarged, decoded in full and near the size."""
    folder = files.ROOT / 'data' / f'{data.name}-enlarged'
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    entries = {}
    for entry, path in zip(data.images('val'), data.image_paths('val'), strict=True):
        large = load_image(path).resize((ENLARGED, ENLARGED), Image.Resampling.BICUBIC)
        large.save(folder / f'{entry["id"]}.jpg', quality=90)
        entries[str(folder / f'{entry["id"]}.jpg')] = entry['id']
    references = References(data.annotation_file('val'), annotations=data.annotations('val'))
    rows, written = [('beam', 'pixels', 'BLEU-4', 'CIDEr', 'captions changed')], {}
    captioner = load_captioner(names=False, consensus=False)
    for beam_size, ways in itertools.product((1, 5), (all_pixels, contextlib.nullcontext)):
        with ways():
            captioned = caption_photos(captioner, list(entries), beam_size)
            results = [{'image_id': entries[path], 'caption': told['captions'][0]['caption']}
                       for path, told, _ in captioned]
        scores = score(results, references)
        before = written.setdefault(beam_size, results)
        changed = sum(one != other for one, other in zip(before, results, strict=True))
        name = 'all' if ways is all_pixels else 'near the size'
        rows.append((beam_size, name, percent(scores['BLEU-4']), percent(scores['CIDEr']),
                     f'{changed} of {len(results)}'))
    print(text_table(rows))


def main():
    parser = argparse.ArgumentParser(description='Decode large photos near the size needed?')
    parser.add_argument('--enlarged', type=Path, help='data set whose photos are enlarged')
    args = parser.parse_args()
    if args.enlarged:
        compare_scores(CaptionData(args.enlarged))
    else:
        compare_speed(make_photos(files.ROOT / 'data' / 'phone-photos'))


if __name__ == '__main__':
    run_main(main)
