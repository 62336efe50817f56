"""Read COCO caption files, and say what is wrong with those that are none.

    content = read_annotations('captions_val2014.json')     # dict of 'images' and 'annotations'
    tokens = caption_tokens('captions_val2014.json', tokenize, folder)
"""

import contextlib
import inspect
import json
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from captioning.files import file_hash, text_hash, write_aside

LISTS = {'images': ('id', 'file_name'), 'annotations': ('image_id', 'caption')}
PROBE = "A probe's answer: it isn't <kept>, so edits show ..."    # notices an edit of `tokenize`


class CaptionTokens(NamedTuple):
    """Every caption of a file as tokens.

    types: list of the distinct tokens, in order of first occurrence. ids: int32 (tokens,), an index
    into types for every token of every caption, in file order. ends: int64 (captions,), where each
    caption ends in ids.
    """

    types: list
    ids: np.ndarray
    ends: np.ndarray


def require_annotations(path):
    """Raise FileNotFoundError, saying how to get data, unless the annotation file exists."""
    if not os.path.exists(path):
        raise FileNotFoundError(
            f'{path} not found. Point cocoapi_loc (or $COCOAPI_LOC) at the folder that holds '
            'cocoapi/annotations, or draw the built-in data: python -m scripts.scenes')


def annotations_hash(path):
    """SHA-256 of an annotation file; FileNotFoundError says how to get data."""
    require_annotations(path)
    return file_hash(path)


def read_annotations(path, need_captions=True):
    """Read a COCO captions file -> dict with the lists 'images' and 'annotations'.

    An image has at least id and file_name, an annotation image_id and caption. Raises
    FileNotFoundError, or ValueError that says in which way the file is not what was expected.
    """
    require_annotations(path)
    try:
        with open(path, encoding='utf-8-sig') as file:
            content = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is not JSON ({error}). Cut short or damaged? '
                         'Get it again.') from None
    for key in ('images', 'annotations') if need_captions else ('images',):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise ValueError(f"{path} has no '{key}' list. Expected COCO captions, such as "
                             'captions_train2014.json.')
        for entry in content[key]:
            _check_entry(path, key, entry)
    return content


def _check_entry(path, key, entry):
    fields = LISTS[key]
    if not isinstance(entry, dict) or any(entry.get(field) is None for field in fields):
        raise ValueError(f"{path}: an entry of '{key}' lacks {' or '.join(fields)}: "
                         f'{str(entry)[:60]} Is it an instances file? Expected COCO captions.')
    image_id, file_name = entry[fields[0]], entry.get('file_name', '')
    if not isinstance(image_id, (int, str)) or not isinstance(file_name, str):
        raise ValueError(f"{path}: an entry of '{key}' has an id or a file name of another kind: "
                         f'{str(entry)[:60]}')


def caption_tokens(annotations_file, tokenize, folder, annotations=None):
    """Split every caption of a file into tokens -> CaptionTokens.

    They are kept in `folder` until the file, or that in which `tokenize` is, changes. annotations:
    what read_annotations gives, if it has been read already.
    """
    name = os.path.basename(annotations_file).removesuffix('.json')
    how = _source_of(tokenize) + repr(tokenize(PROBE))
    key = text_hash(annotations_hash(annotations_file) + how, digits=8)
    cached = os.path.join(folder, f'{name}.{key}.tokens.npz')
    if os.path.exists(cached):
        try:
            return _read_tokens(cached)
        except Exception as error:    # a damaged archive raises many kinds
            warnings.warn(f'{cached} is damaged ({error}): splitting the captions again.',
                          stacklevel=3)
    annotations = annotations or read_annotations(annotations_file)
    captions = [entry['caption'] for entry in annotations['annotations']]
    tokens = _split(captions, tokenize, name)
    try:
        _write_tokens(cached, tokens)
    except OSError as error:
        warnings.warn(f'{cached} cannot be written ({error}): the next start splits the captions '
                      'again.', stacklevel=3)
    return tokens


def _source_of(function):
    """The text of the file that a function is in; '' for one that was typed in."""
    with contextlib.suppress(OSError, TypeError):
        return Path(inspect.getsourcefile(function)).read_text('utf-8')
    return ''


def _split(captions, tokenize, name):
    index, ids, ends = {}, [], []
    quiet = len(captions) < 5000
    for caption in tqdm(captions, f'tokens of {name}', unit=' captions', disable=quiet):
        ids.extend(index.setdefault(token, len(index)) for token in tokenize(caption))
        ends.append(len(ids))
    return CaptionTokens(list(index), np.array(ids, np.int32), np.array(ends, np.int64))


def _read_tokens(path):
    with np.load(path) as arrays:
        types = bytes(arrays['types']).decode('utf-8', 'surrogatepass').split()
        return CaptionTokens(types, arrays['ids'], arrays['ends'])


def _write_tokens(path, tokens):
    joined = '\n'.join(tokens.types).encode('utf-8', 'surrogatepass')    # no token has white space
    types = np.frombuffer(joined, np.uint8)
    with write_aside(path) as aside, aside.open('wb') as file:
        np.savez(file, types=types, ids=tokens.ids, ends=tokens.ends)
