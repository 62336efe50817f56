"""Turn other data sets of captioned photos into the layout of COCO.

    convert('Flickr8k.token.txt', 'Flicker8k_Dataset', 'data/flickr8k')
    convert('captions.csv', 'photos', 'data/mine')

The content of the source tells its format: lines NAME#0<tab>CAPTION (Flickr8k, Hodosh et al. 2013,
"Framing Image Description as a Ranking Task"; Flickr30k, Young et al. 2014, "From Image
Descriptions to Visual Denotations"), lines NAME| 0| CAPTION (results.csv of Flickr30k), JSON
(Karpathy and Fei-Fei 2015, "Deep Visual-Semantic Alignments for Generating Image Descriptions"), or
CSV with a header. Flickr8k's splits are read from Flickr_8k.trainImages.txt and the like beside it.
On the command line: python -m scripts.convert.
"""

import csv
import io
import json
import os
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from captioning.files import link_or_copy

SPLITS = {'train': 'train', 'restval': 'train', 'val': 'val', 'dev': 'val', 'valid': 'val',
          'validation': 'val', 'test': 'test'}
NAME_COLUMNS = ('image', 'image_name', 'file_name', 'filename', 'file', 'image_path', 'filepath',
                'path', 'name')
CAPTION_COLUMNS = ('caption', 'captions', 'comment', 'sentence', 'text', 'description')
QUOTES = ('A caption with commas or quotes needs double quotes around it, and its own quotes '
          'doubled.')
# 1000268201_693b08cb0e.jpg#0<tab>A child in a pink dress .
TOKENS = r'(.+?)#\d+(?:\s+(.*))?'
# 10002456.jpg| 0| Several men; one line in results.csv lacks a |
BARS = r'([^|]+?)\s*\|\s*\d+\s*\|?\s*(.*)'
BARS_HEADER = r'\w+\|\s*\w+\|\s*\w+'


@dataclass
class Photo:
    """A photo that a source names. `name` is its path below `folder`, with / between folders."""

    name: str
    captions: list
    split: str | None = None    # 'train', 'val' or 'test'
    id: int | None = None
    folder: str = ''            # below the folder of photos; not part of the name


def convert(source, images, output, val_images=None, test_images=None, seed=0, copy=False):
    """Write <output>/cocoapi from a captions file and a folder of images -> `output`.

    What is returned is a `cocoapi_loc`. val_images, test_images: how many, where the source has no
    splits (default: a tenth each, at most 1,000). Photos become hard links, else symbolic links,
    else copies; `copy=True` copies. The same input gives the same bytes. Raises ValueError with
    file and line, FileNotFoundError, and FileExistsError if <output>/cocoapi is there already.
    """
    source, images, output = Path(source), Path(images), Path(output)
    if not source.is_file() or not images.is_dir():
        raise FileNotFoundError(
            f'{source} has to be a file with captions, and {images} a folder with photos')
    if (output / 'cocoapi').exists():
        raise FileExistsError(
            f'{output / "cocoapi"} is there already: remove it, or choose another --output')
    photos = read_photos(source)
    files = {photo.name: file for photo in photos if (file := _find_file(images, photo))}
    missing = [photo.name for photo in photos if photo.name not in files]
    _report(f'photos are not in {images}', missing)
    if not files:
        raise ValueError(f'{source} names {len(photos)} photos and none of them is in {images}: '
                         'is --images right?')
    photos = [photo for photo in photos if photo.name in files]
    photos = _with_splits(photos, source, val_images, test_images, seed)
    _write(photos, files, output, copy)
    return output


def _report(problem, names):
    if names:
        more = ', ...' if len(names) > 3 else ''
        print(f'{len(names)} {problem}, left out: {", ".join(names[:3])}{more}')


def _find_file(images, photo):
    candidates = (images / _inside(photo.folder) / photo.name, images / photo.name,
                  images / Path(photo.name).name)
    return next((path for path in candidates if os.path.isfile(path)), None)


# ---- Reading ----

def read_photos(source):
    """Read the captions file `source` -> list of Photo, in its order, each with its captions.

    Raises ValueError with file and line for what it cannot read.
    """
    photos, empty = {}, []
    for where, photo in _entries(source):
        _clean(photo, where)
        first = photos.setdefault(photo.name, photo)
        if (first.split, first.id) != (photo.split, photo.id):
            raise ValueError(f'{where}: {photo.name} has split {photo.split} and id {photo.id}, '
                             f'above it had {first.split} and {first.id}')
        if first is not photo:
            first.captions += photo.captions
        if not photo.captions:
            empty.append(where)
    _report('entries without a caption', empty)
    return list(photos.values())


def _clean(photo, where):
    photo.name = _inside(photo.name)
    split = photo.split and str(photo.split).strip().lower()
    captions = [' '.join(caption.split()) for caption in photo.captions]
    photo.captions = [caption for caption in captions if caption]
    if not photo.name or split not in (None, *SPLITS):
        raise ValueError(f'{where}: file name {photo.name!r}, split {split!r}; known: '
                         f'{", ".join(SPLITS)}')
    photo.split = SPLITS.get(split)


def _inside(name):
    """`name` with / between folders; its last part only where it points outside (.. or absolute).
    """
    name = name.strip()
    parts = [part for part in re.split(r'[/\\]', name) if part not in ('', '.')]
    if '..' in parts or re.match(r'[/\\]|[A-Za-z]:', name):
        parts = [part for part in parts[-1:] if part != '..']
    return '/'.join(parts)


def _entries(source):
    """Pairs (where, Photo), one for each entry of the file, whichever format it is in."""
    text = _read_text(source)
    first_line = text.lstrip().partition('\n')[0].strip()
    if first_line.startswith(('{', '[')):
        return _json_entries(text, source)
    if re.fullmatch(TOKENS, first_line):
        return _line_entries(text, source, TOKENS, 'NAME#0<tab>CAPTION')
    if re.fullmatch(BARS_HEADER, first_line):
        return _line_entries(text, source, BARS, 'NAME| 0| CAPTION')
    return _csv_entries(text, source)


def _read_text(source):
    content = source.read_bytes()
    try:
        return content.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = content.count(b'\n', 0, error.start) + 1
        raise ValueError(
            f'{source} line {line}: not UTF-8 ({error.reason}): save the file as UTF-8') from error


def _line_entries(text, source, pattern, expected):
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        where, line = f'{source} line {number}', line.strip()
        if match := re.fullmatch(pattern, line):
            yield where, Photo(match[1], [match[2] or ''])
        elif line and number > 1:    # the first may be a header
            raise ValueError(f'{where}: expected {expected}, found {line[:80]!r}')


def _json_entries(text, source):
    where = source
    try:
        for number, entry in enumerate(json.loads(text)['images']):
            where = f'{source}: images[{number}]'
            yield where, _json_photo(entry)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f'{where}: no Karpathy-split JSON, with filename, imgid and sentences '
                         f'({error!r})') from error


def _json_photo(entry):
    captions = [str(sentence.get('raw') or ' '.join(sentence['tokens']))
                for sentence in entry['sentences']]
    photo_id = int(entry['cocoid' if 'cocoid' in entry else 'imgid'])
    folder = str(entry.get('filepath', ''))
    return Photo(str(entry['filename']), captions, entry.get('split'), photo_id, folder)


def _csv_entries(text, source):
    header = text.partition('\n')[0].strip()
    delimiter = max(',;\t|', key=header.count)
    rows = csv.DictReader(io.StringIO(text, newline=''), delimiter=delimiter, strict=True)
    try:
        name, caption, split = _csv_columns(rows.fieldnames or [], header, source)
        for row in rows:
            where = f'{source} line {rows.line_num}'
            if None in row:
                raise ValueError(f'{where}: more fields than the header has. {QUOTES}')
            split_name = row[split] or '' if split else None
            yield where, Photo(row[name] or '', [row[caption] or ''], split_name)
    except csv.Error as error:    # in the row that begins after the last one read
        raise ValueError(f'{source} line {rows.line_num + 1}: {error}. {QUOTES}') from error


def _csv_columns(fieldnames, header, source):
    """The columns with file name, caption and split, as the header writes them; split may be None.
    """
    columns = {column.strip().lower(): column for column in fieldnames}
    name = next((columns[word] for word in NAME_COLUMNS if word in columns), None)
    caption = next((columns[word] for word in CAPTION_COLUMNS if word in columns), None)
    if not (name and caption):
        raise ValueError(f'{source} line 1: {header[:80]!r} begins no format that --help names; a '
                         f'CSV has a header with one of {NAME_COLUMNS} and one of '
                         f'{CAPTION_COLUMNS}')
    return name, caption, columns.get('split')


# ---- Splits ----

def _with_splits(photos, source, val_images, test_images, seed):
    """The photos that have a split, and captions unless it is 'test'.

    The splits are those of the source, else of Flickr8k's lists beside it, else drawn at random.
    """
    if not any(photo.split for photo in photos):
        listed = _lists_beside(source)
        for photo in photos:
            photo.split = listed.get(photo.name)
    if not any(photo.split for photo in photos):
        photos = [photo for photo in photos if photo.captions]
        _draw_splits(photos, val_images, test_images, seed)
    elif (val_images, test_images) != (None, None):
        raise ValueError(f'{source} has splits: leave out --val-images and --test-images')
    kept = [photo for photo in photos
            if photo.split == 'test' or (photo.split and photo.captions)]
    left_out = {photo.name for photo in photos} - {photo.name for photo in kept}
    _report('photos have no split or no caption', sorted(left_out))
    return kept


def _lists_beside(source):
    """{file name: split} of Flickr_8k.devImages.txt and the like: one file name a line."""
    listed = {}
    for file in sorted(source.parent.glob('*.*Images.txt')):
        split = SPLITS.get(file.name.split('.')[-2].removesuffix('Images'))
        names = file.read_text('utf-8-sig').split() if split else ()
        for name in names:
            if listed.setdefault(name, split) != split:
                raise ValueError(f'{file}: {name} is in another list, too')
    return listed


def _draw_splits(photos, val_images, test_images, seed):
    tenth = min(len(photos) // 10, 1000)
    val = tenth if val_images is None else val_images
    test = tenth if test_images is None else test_images
    if min(val, test) < 0 or val + test >= len(photos):
        raise ValueError(f'--val-images {val} and --test-images {test} of {len(photos)} photos '
                         'leave none for training')
    shuffled = sorted(photos, key=lambda photo: photo.name)
    random.Random(seed).shuffle(shuffled)
    splits = ['val'] * val + ['test'] * test + ['train'] * (len(photos) - val - test)
    for photo, split in zip(shuffled, splits, strict=True):
        photo.split = split


# ---- Writing ----

def _write(photos, files, output, copy):
    """Fill <output>/.cocoapi.partial, then rename it to <output>/cocoapi."""
    ids = _image_ids(photos)
    partial = output / '.cocoapi.partial'
    shutil.rmtree(partial, ignore_errors=True)
    (partial / 'annotations').mkdir(parents=True)
    for split in ('train', 'val', 'test'):
        chosen = [photo for photo in photos if photo.split == split]
        _place_photos(chosen, files, partial / 'images' / f'{split}2014', copy)
        images, captions = _coco_lists(chosen, ids)
        _write_annotations(partial / 'annotations' / f'captions_{split}2014.json',
                           images=images, annotations=captions)
        print(f'{split}: {len(images)} photos, {len(captions)} captions')
    info = partial / 'annotations' / 'image_info_test2014.json'
    _write_annotations(info, images=images)    # test is the last one
    partial.rename(output / 'cocoapi')


def _image_ids(photos):
    """{file name: id}: those of the source, else 1, 2, ..."""
    ids = {photo.name: number if photo.id is None else photo.id
           for number, photo in enumerate(photos, 1)}
    if len(set(ids.values())) < len(ids):
        raise ValueError('two photos have the same cocoid or imgid')
    return ids


def _place_photos(photos, files, folder, copy):
    place = shutil.copyfile if copy else link_or_copy
    folder.mkdir(parents=True)
    for photo in tqdm(photos, f'{folder.name.removesuffix("2014")} photos', unit='photo'):
        target = folder / photo.name
        target.parent.mkdir(parents=True, exist_ok=True)    # for names with a folder
        place(files[photo.name], target)


def _coco_lists(photos, ids):
    """The lists 'images' and 'annotations' of COCO's captions files."""
    images = [{'id': ids[photo.name], 'file_name': photo.name} for photo in photos]
    pairs = [(ids[photo.name], caption) for photo in photos for caption in photo.captions]
    captions = [{'id': number, 'image_id': image_id, 'caption': caption}
                for number, (image_id, caption) in enumerate(pairs, 1)]
    return images, captions


def _write_annotations(path, **lists):
    info = {'description': 'written by scripts/convert.py'}
    path.write_text(json.dumps({'info': info, 'licenses': [], **lists}), 'utf-8')
