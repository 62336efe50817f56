"""Turn Flickr8k, Flickr30k, Karpathy-split JSON or a CSV of file names and captions into the layout of COCO.

    python -m scripts.convert Flickr8k.token.txt --images Flicker8k_Dataset --output data/flickr8k
    python -m scripts.convert dataset_coco.json --images coco/images --output data/karpathy

In a notebook: `convert('captions.csv', 'photos', 'data/mine')`. The content of the source tells what it is: lines
`NAME#0<tab>CAPTION` (Hodosh et al. 2013, Young et al. 2014), lines `NAME| 0| CAPTION` (results.csv of Flickr30k), JSON
(Karpathy and Fei-Fei 2015), or CSV with a header. Flickr8k's splits are read from Flickr_8k.trainImages.txt beside it.
"""

import argparse
import contextlib
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

from scripts import run_main

SPLITS = {'train': 'train', 'restval': 'train', 'val': 'val', 'dev': 'val', 'valid': 'val', 'validation': 'val',
          'test': 'test'}
NAME_COLUMNS = ('image', 'image_name', 'file_name', 'filename', 'file', 'image_path', 'filepath', 'path', 'name')
CAPTION_COLUMNS = ('caption', 'captions', 'comment', 'sentence', 'text', 'description')
QUOTES = 'A caption with commas or quotes needs double quotes around it, and its own quotes doubled.'
TOKENS = r'(.+?)#\d+(?:\s+(.*))?'                      # 1000268201_693b08cb0e.jpg#0<tab>A child in a pink dress .
BARS = r'([^|]+?)\s*\|\s*\d+\s*\|?\s*(.*)'             # 10002456.jpg| 0| Several men; one line in results.csv lacks a |


@dataclass
class Photo:
    name: str                # path below its folder, with /
    captions: list
    split: str | None = None
    id: int | None = None
    folder: str = ''         # below the folder of photos; not part of the name


def convert(source, images, output, val_images=None, test_images=None, seed=0, copy=False):
    """Write <output>/cocoapi from the captions file `source` and the folder `images`; return `output`, a `cocoapi_loc`.

    `val_images`, `test_images`: how many, where the source has no splits (default: a tenth each, at most 1,000).
    Photos become hard links, else symbolic links, else copies; `copy=True` copies. The same input gives the same bytes.
    Raises ValueError with file and line, FileNotFoundError, and FileExistsError if <output>/cocoapi is there already.
    """
    source, images, output = Path(source), Path(images), Path(output)
    if not source.is_file() or not images.is_dir():
        raise FileNotFoundError(f'{source} has to be a file with captions, and {images} a folder with photos')
    if (output / 'cocoapi').exists():
        raise FileExistsError(f'{output / "cocoapi"} is there already: remove it, or choose another --output')
    photos = read_photos(source)
    files = {photo.name: file for photo in photos if (file := _find(images, photo))}
    _report(f'photos are not in {images}', [photo.name for photo in photos if photo.name not in files])
    if not files:
        raise ValueError(f'{source} names {len(photos)} photos and none of them is in {images}: is --images right?')
    photos = _split([photo for photo in photos if photo.name in files], source, val_images, test_images, seed)
    _write(photos, files, output, copy)
    return output


def _report(what, where):
    if where:
        print(f'{len(where)} {what}, left out: {", ".join(where[:3])}{", ..." if len(where) > 3 else ""}')


def _find(images, photo):
    places = (images / _inside(photo.folder) / photo.name, images / photo.name, images / Path(photo.name).name)
    return next((place for place in places if os.path.isfile(place)), None)


def read_photos(source):
    """The photos that the file `source` names, in its order, each with its captions: a list of `Photo`."""
    photos, empty = {}, []
    for where, photo in _entries(source):
        photo.name = _inside(photo.name)
        photo.split = photo.split and str(photo.split).strip().lower()
        photo.captions = [' '.join(caption.split()) for caption in photo.captions if caption.strip()]
        if not photo.name or photo.split not in (None, *SPLITS):
            raise ValueError(f'{where}: file name {photo.name!r}, split {photo.split!r}; known: {", ".join(SPLITS)}')
        photo.split = SPLITS.get(photo.split)
        first = photos.setdefault(photo.name, photo)
        if (first.split, first.id) != (photo.split, photo.id):
            raise ValueError(f'{where}: {photo.name} has split {photo.split} and id {photo.id}, above it had '
                             f'{first.split} and {first.id}')
        if first is not photo:
            first.captions += photo.captions
        if not photo.captions:
            empty.append(where)
    _report('entries without a caption', empty)
    return list(photos.values())


def _inside(name):
    """`name` with / between folders; its last part only where it points outside (.. or absolute)."""
    parts = [part for part in re.split(r'[/\\]', name.strip()) if part not in ('', '.')]
    if '..' in parts or re.match(r'[/\\]|[A-Za-z]:', name.strip()):
        parts = [part for part in parts[-1:] if part != '..']
    return '/'.join(parts)


def _entries(source):
    """Pairs (where, Photo), one for each entry of the file, whichever format it is in."""
    data = source.read_bytes()
    try:
        text = data.decode('utf-8-sig')
    except UnicodeDecodeError as error:
        line = data.count(b'\n', 0, error.start) + 1
        raise ValueError(f'{source} line {line}: not UTF-8 ({error.reason}): save the file as UTF-8') from error
    first = text.lstrip().partition('\n')[0].strip()
    if first.startswith(('{', '[')):
        return _json_entries(text, source)
    if re.fullmatch(TOKENS, first):
        return _line_entries(text, source, TOKENS, 'NAME#0<tab>CAPTION')
    if re.fullmatch(r'\w+\|\s*\w+\|\s*\w+', first):
        return _line_entries(text, source, BARS, 'NAME| 0| CAPTION')
    return _csv_entries(text, source)


def _line_entries(text, source, pattern, expected):
    for number, line in enumerate(io.StringIO(text, newline=None), 1):
        if match := re.fullmatch(pattern, line.strip()):
            yield f'{source} line {number}', Photo(match[1], [match[2] or ''])
        elif line.strip() and number > 1:      # the first may be a header
            raise ValueError(f'{source} line {number}: expected {expected}, found {line.strip()[:80]!r}')


def _json_entries(text, source):
    where = source
    try:
        for number, entry in enumerate(json.loads(text)['images']):
            where = f'{source}: images[{number}]'
            captions = [str(sentence.get('raw') or ' '.join(sentence['tokens'])) for sentence in entry['sentences']]
            photo_id, folder = int(entry['cocoid' if 'cocoid' in entry else 'imgid']), str(entry.get('filepath', ''))
            yield where, Photo(str(entry['filename']), captions, entry.get('split'), photo_id, folder)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f'{where}: no Karpathy-split JSON, with filename, imgid and sentences ({error!r})') from error


def _csv_entries(text, source):
    header = text.partition('\n')[0].strip()
    rows = csv.DictReader(io.StringIO(text, newline=''), delimiter=max(',;\t|', key=header.count), strict=True)
    try:
        columns = {column.strip().lower(): column for column in rows.fieldnames or []}
        name, caption = (next((columns[word] for word in words if word in columns), None)
                         for words in (NAME_COLUMNS, CAPTION_COLUMNS))
        if not (name and caption):
            raise ValueError(f'{source} line 1: {header[:80]!r} begins no format that --help names; a CSV has a header '
                             f'with one of {NAME_COLUMNS} and one of {CAPTION_COLUMNS}')
        for row in rows:
            where = f'{source} line {rows.line_num}'
            if None in row:
                raise ValueError(f'{where}: more fields than the header has. {QUOTES}')
            split = row[columns['split']] or '' if 'split' in columns else None
            yield where, Photo(row[name] or '', [row[caption] or ''], split)
    except csv.Error as error:                 # in the row that begins after the last one read
        raise ValueError(f'{source} line {rows.line_num + 1}: {error}. {QUOTES}') from error


def _split(photos, source, val_images, test_images, seed):
    """The photos with a split: that of the source, of Flickr8k's lists beside it, or by chance, photo by photo."""
    if not any(photo.split for photo in photos):
        listed = _lists_beside(source)
        for photo in photos:
            photo.split = listed.get(photo.name)
    if not any(photo.split for photo in photos):
        photos = [photo for photo in photos if photo.captions]
        _deal(photos, val_images, test_images, seed)
    elif (val_images, test_images) != (None, None):
        raise ValueError(f'{source} has splits: leave out --val-images and --test-images')
    kept = [photo for photo in photos if photo.split == 'test' or (photo.split and photo.captions)]
    left_out = {photo.name for photo in photos} - {photo.name for photo in kept}
    _report('photos have no split or no caption', sorted(left_out))
    return kept


def _lists_beside(source):
    listed = {}
    for file in sorted(source.parent.glob('*.*Images.txt')):       # Flickr_8k.devImages.txt: one file name a line
        split = SPLITS.get(file.name.split('.')[-2].removesuffix('Images'))
        for name in file.read_text('utf-8-sig').split() if split else ():
            if listed.setdefault(name, split) != split:
                raise ValueError(f'{file}: {name} is in another list, too')
    return listed


def _deal(photos, val_images, test_images, seed):
    tenth = min(len(photos) // 10, 1000)
    val, test = (tenth if asked is None else asked for asked in (val_images, test_images))
    if min(val, test) < 0 or val + test >= len(photos):
        raise ValueError(f'--val-images {val} and --test-images {test} of {len(photos)} photos leave none for training')
    order = sorted(photos, key=lambda photo: photo.name)
    random.Random(seed).shuffle(order)
    for position, photo in enumerate(order):
        photo.split = 'val' if position < val else 'test' if position < val + test else 'train'


def _write(photos, files, output, copy):
    """Fill <output>/.cocoapi.partial, then rename it to <output>/cocoapi."""
    ids = {photo.name: number if photo.id is None else photo.id for number, photo in enumerate(photos, 1)}
    if len(set(ids.values())) < len(ids):
        raise ValueError('two photos have the same cocoid or imgid')
    partial = output / '.cocoapi.partial'
    shutil.rmtree(partial, ignore_errors=True)
    (partial / 'annotations').mkdir(parents=True)
    for split in ('train', 'val', 'test'):
        folder = partial / 'images' / f'{split}2014'
        folder.mkdir(parents=True)
        chosen = [photo for photo in photos if photo.split == split]
        for photo in tqdm(chosen, f'{split} photos', unit='photo'):
            _put(files[photo.name], folder / photo.name, copy)
        images = [{'id': ids[photo.name], 'file_name': photo.name} for photo in chosen]
        captions = [{'image_id': ids[photo.name], 'caption': text} for photo in chosen for text in photo.captions]
        captions = [{'id': number, **caption} for number, caption in enumerate(captions, 1)]
        _dump(partial / 'annotations' / f'captions_{split}2014.json', images=images, annotations=captions)
        print(f'{split}: {len(images)} photos, {len(captions)} captions')
    _dump(partial / 'annotations' / 'image_info_test2014.json', images=images)     # test is the last one
    partial.rename(output / 'cocoapi')


def _put(file, target, copy):
    target.parent.mkdir(parents=True, exist_ok=True)       # for names with a folder
    for link in () if copy else (os.link, os.symlink):
        with contextlib.suppress(OSError):
            return link(file.resolve(), target)
    shutil.copyfile(file, target)


def _dump(path, **content):
    path.write_text(json.dumps({'info': {'description': 'written by scripts/convert.py'}, 'licenses': [], **content}))


def main():
    parser = argparse.ArgumentParser(prog='python -m scripts.convert', description=__doc__.splitlines()[0])
    parser.add_argument('source', help='Flickr8k.token.txt, results_20130124.token, results.csv, dataset_*.json, or a '
                                       'CSV with a header such as image,caption or image,caption,split')
    parser.add_argument('--images', required=True, help='folder of the photos')
    parser.add_argument('--output', required=True, help='folder that gets cocoapi/, such as data/flickr8k')
    parser.add_argument('--val-images', type=int, help='if SOURCE has no splits; default: a tenth, at most 1000')
    parser.add_argument('--test-images', type=int, help='the same for the test split')
    parser.add_argument('--seed', type=int, default=0, help='of the random split (default: %(default)s)')
    parser.add_argument('--copy', action='store_true', help='copy the photos instead of linking to them')
    convert(**vars(parser.parse_args()))


if __name__ == '__main__':
    run_main(main)
