"""Open a photo as a person would see it, or say what is wrong with the file.

    image = load_image('photo.jpg')         # PIL image, RGB, upright
    image = load_image('photo.jpg', 448)    # as far as 448 pixels need it: quicker for large JPEGs
    paths = find_photos(['album', 'more/*.jpg'])
"""

import contextlib
import glob
import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

Image.init()
with contextlib.suppress(ImportError):    # HEIC, which few people need, is a package of its own
    from pillow_heif import register_heif_opener
    register_heif_opener()
# No PostScript, which Pillow has Ghostscript run.
READABLE = {'AVIF', 'BMP', 'DIB', 'GIF', 'HEIF', 'ICO', 'JPEG', 'JPEG2000', 'MPO', 'PNG', 'PPM',
            'TGA', 'TIFF', 'WEBP'}
PHOTO_FORMATS = sorted(READABLE & Image.OPEN.keys())
HEIC_SUFFIXES = ('.heic', '.heif')      # looked at without the package too, which is then asked for
SUFFIXES = {suffix for suffix, kind in Image.registered_extensions().items()
            if kind in PHOTO_FORMATS}
PHOTO_SUFFIXES = tuple(sorted(SUFFIXES.union(HEIC_SUFFIXES)))
HEIC_BRANDS = {b'heic', b'heix', b'heim', b'heis', b'mif1', b'msf1'}    # ISO 23008-12
MEGAPIXELS = 100                        # of a photo, at most: it takes 2 GB of memory or less
GREY_16_BIT = ('I', 'I;16', 'I;16B', 'I;16L')


def as_seen(image):
    """A PIL image as a person would see it: RGB, turned as its EXIF says, on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode in GREY_16_BIT:    # convert() would clip it, not scale it
        grey = (np.asarray(image, np.float32) / 257).clip(0, 255).astype(np.uint8)
        image = Image.fromarray(grey)
    if image.has_transparency_data:
        white = Image.new('RGBA', image.size, 'white')
        image = Image.alpha_composite(white, image.convert('RGBA'))
    return image.convert('RGB')


def load_image(path, least=None):
    """Open a photo `as_seen`.

    least: pixels. A JPEG whose shorter side has twice as many or more may be decoded at a half, a
    quarter or an eighth of its size, its shorter side no less than that; by default it has all of
    its pixels. FileNotFoundError or OSError name the file when it is none, too large or cut short.
    """
    if not os.path.exists(path):
        raise FileNotFoundError(f'image {path} not found. Is the folder of images complete?')
    try:
        with Image.open(path, formats=PHOTO_FORMATS) as image:
            megapixels = image.width * image.height / 1e6
            if megapixels > MEGAPIXELS:
                raise ValueError(f'{megapixels:.0f} megapixels, {MEGAPIXELS} are the limit')
            if least:
                image.draft(image.mode, (least, least))    # does nothing to other formats
            return as_seen(image)
    except Exception as error:    # decoders raise many kinds for damaged files
        if is_heic(path) and 'HEIF' not in Image.OPEN:
            raise OSError(f'image {path} is in the format HEIC, which `pip install pillow-heif` '
                          'makes readable.') from None
        raise OSError(f'image {path} cannot be read ({error}). Damaged, or cut short? '
                      'Replace or remove it.') from None


def is_reduced(path, least):
    """Does `load_image` decode this photo at less than its size?"""
    with contextlib.suppress(Exception), Image.open(path, formats=PHOTO_FORMATS) as image:
        size = image.size
        image.draft(image.mode, (least, least))
        return image.size != size
    return False    # it cannot be read


def is_heic(path):
    """Is a file a photo as iPhones write it, whatever its name?"""
    with contextlib.suppress(OSError), open(path, 'rb') as file:
        start = file.read(12)
        return start[4:8] == b'ftyp' and start[8:] in HEIC_BRANDS
    return False    # it cannot be opened


def photos_in(folder):
    """All photos in a folder and those below it, by name -> list of Path."""
    return sorted(path for path in Path(folder).rglob('*')
                  if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file())


def find_photos(arguments):
    """Files, folders (all photos in them) and patterns -> list of paths as text, each once.

    Raises FileNotFoundError for a folder or pattern without photos; a file that is missing is
    told when it is read.
    """
    photos = {}
    for argument in arguments:
        paths = _matching(argument)
        if not paths:
            raise FileNotFoundError(f'no photos in {argument}.')
        photos.update(dict.fromkeys(paths))
    return list(photos)


def _matching(argument):
    if Path(argument).is_dir():
        return [str(path) for path in photos_in(argument)]
    is_pattern = glob.has_magic(argument) and not Path(argument).exists()    # a file may be [1].jpg
    return sorted(glob.glob(argument, recursive=True)) if is_pattern else [argument]
