"""Scale photos down once, where disk or decoding them is what training waits for; the features do not need it.

    python -m scripts.resize --image_dir photos --output_dir small --image_size 256
"""

import argparse
import functools
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from data_loader import PHOTO_SUFFIXES, load_image
from scripts import run_main, write_aside


def resize(path, source, target, size):
    """Write a photo to `target` with its shorter side at most `size` -> what is wrong with it, or None."""
    output = target / path.relative_to(source)
    if not output.exists():
        try:
            image = load_image(path)    # upright
            scale = min(1, size / min(image.size))
            image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)
            with write_aside(output) as aside:
                image.save(aside, Image.registered_extensions()[path.suffix.lower()], quality=95)
        except OSError as error:
            return str(error)


def main():
    parser = argparse.ArgumentParser(description='Scale photos down, aspect kept; those already done are skipped.')
    parser.add_argument('--image_dir', '--image-dir', type=Path, required=True, help='folder of photos')
    parser.add_argument('--output_dir', '--output-dir', type=Path, required=True, help='folder for the smaller ones')
    parser.add_argument('--image_size', '--image-size', type=int, default=256, help='shorter side (default: 256)')
    args = parser.parse_args()
    paths = sorted(path for path in args.image_dir.rglob('*')
                   if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file())
    if not paths:
        raise FileNotFoundError(f'no photos in {args.image_dir}.')
    work = functools.partial(resize, source=args.image_dir, target=args.output_dir, size=args.image_size)
    with ProcessPoolExecutor() as pool:
        errors = [error for error in tqdm(pool.map(work, paths, chunksize=8), total=len(paths), unit=' photos', delay=2,
                                          disable=None) if error]
    print(f'{len(paths) - len(errors):,} photos are in {args.output_dir}')
    if errors:
        sys.exit('\n'.join([*errors, f'{len(errors)} of {len(paths):,} photos could not be read']))


if __name__ == '__main__':
    run_main(main)
