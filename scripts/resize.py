"""Scale photos down once, where disk or decoding them is what training waits for.

    python -m scripts.resize --image_dir photos --output_dir small --image_size 256

The features do not need it.
"""

import argparse
import functools
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from captioning.files import remove_leftovers, write_aside
from captioning.photos import load_image, photos_in
from scripts import run_main


def resize(path, source, target, size):
    """Write a photo to `target`, its shorter side at most `size` -> an error's message, or None."""
    output = target / path.relative_to(source)
    if output.exists():
        return None
    try:
        image = load_image(path)    # upright
        scale = min(1, size / min(image.size))
        sides = [max(1, round(side * scale)) for side in image.size]
        smaller = image.resize(sides, Image.Resampling.LANCZOS)
        with write_aside(output, tidy=False) as aside:
            kind = Image.registered_extensions()[path.suffix.lower()]
            smaller.save(aside, kind, quality=95)
    except OSError as error:
        return str(error)
    return None


def main():
    parser = argparse.ArgumentParser(
        description='Scale photos down, aspect kept; those already done are skipped.')
    parser.add_argument('--image_dir', '--image-dir', type=Path, required=True,
                        help='folder of photos')
    parser.add_argument('--output_dir', '--output-dir', type=Path, required=True,
                        help='folder for the smaller ones')
    parser.add_argument('--image_size', '--image-size', type=int, default=256,
                        help='shorter side (default: 256)')
    args = parser.parse_args()
    paths = photos_in(args.image_dir)
    if not paths:
        raise FileNotFoundError(f'no photos in {args.image_dir}.')
    for folder in {args.output_dir / path.relative_to(args.image_dir).parent for path in paths}:
        remove_leftovers(folder)
    work = functools.partial(resize, source=args.image_dir, target=args.output_dir,
                             size=args.image_size)
    with ProcessPoolExecutor() as pool:
        results = pool.map(work, paths, chunksize=8)
        progress = tqdm(results, total=len(paths), unit=' photos', delay=2, disable=None)
        errors = [error for error in progress if error]
    print(f'{len(paths) - len(errors):,} photos are in {args.output_dir}')
    if errors:
        summary = f'{len(errors)} of {len(paths):,} photos could not be read'
        sys.exit('\n'.join([*errors, summary]))


if __name__ == '__main__':
    run_main(main)
