"""Read COCO caption files, say what is wrong with those that are none, and split their captions into tokens once.

    from scripts.annotations import caption_tokens, read_annotations
"""

import hashlib
import json
import os
import warnings

import numpy as np
from tqdm import tqdm

from scripts import file_hash, write_aside


def require_annotations(path):
    """Raise FileNotFoundError, saying how to get data, unless the annotation file `path` exists."""
    if not os.path.exists(path):
        raise FileNotFoundError(f'{path} not found. Point cocoapi_loc (or $COCOAPI_LOC) at the folder that holds '
                                'cocoapi/annotations, or draw the built-in data: python -m scripts.scenes')


def annotations_hash(path):
    """SHA-256 of an annotation file; FileNotFoundError that says how to get data where it is not there."""
    require_annotations(path)
    return file_hash(path)


def read_annotations(path, need_captions=True):
    """Read a COCO captions file -> dict with lists 'images' (id, file_name) and 'annotations' (image_id, caption).

    Raises FileNotFoundError, or ValueError that says in which way the file is not what was expected.
    """
    require_annotations(path)
    try:
        with open(path, encoding='utf-8-sig') as file:
            found = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is not JSON ({error}). Cut short or damaged? Get it again.') from None
    lists = {'images': ('id', 'file_name'), 'annotations': ('image_id', 'caption')}
    for key in list(lists)[:1 + need_captions]:
        if not isinstance(found, dict) or not isinstance(found.get(key), list):
            raise ValueError(f"{path} has no '{key}' list. Expected COCO captions, such as captions_train2014.json.")
        for entry in found[key]:
            if not isinstance(entry, dict) or any(entry.get(field) is None for field in lists[key]):
                raise ValueError(f"{path}: an entry of '{key}' lacks {' or '.join(lists[key])}: {str(entry)[:60]} "
                                 'Is it an instances file? Expected COCO captions.')
            own, text = entry[lists[key][0]], entry.get('file_name', '')
            if not isinstance(own, (int, str)) or not isinstance(text, str):
                raise ValueError(f"{path}: an entry of '{key}' has an id or a file name of another kind: "
                                 f'{str(entry)[:60]}')
    return found


def caption_tokens(annotations_file, tokenize, folder):
    """Split every caption of a file into tokens -> (types, ids, ends), kept in `folder` until file or tokenize change.

    types: list of the distinct tokens in order of first occurrence. ids: int32 (tokens,), an index into types for
    every token of every caption in file order. ends: int64 (captions,), where each caption ends in ids.
    """
    name = os.path.basename(annotations_file).removesuffix('.json')
    key = annotations_hash(annotations_file) + repr(tokenize("A probe's answer: it isn't <kept>, so edits show ..."))
    kept = os.path.join(folder, f'{name}.{hashlib.sha256(key.encode()).hexdigest()[:8]}.tokens.npz')
    if os.path.exists(kept):
        try:
            with np.load(kept) as arrays:
                return bytes(arrays['types']).decode('utf-8', 'surrogatepass').split(), arrays['ids'], arrays['ends']
        except Exception as error:    # a damaged archive raises many kinds; splitting again mends them all
            warnings.warn(f'{kept} is damaged ({error}): splitting the captions again.', stacklevel=3)
    captions = [entry['caption'] for entry in read_annotations(annotations_file)['annotations']]
    index, ids, ends = {}, [], []
    for caption in tqdm(captions, f'tokens of {name}', unit=' captions', disable=len(captions) < 5000):
        ids.extend(index.setdefault(token, len(index)) for token in tokenize(caption))
        ends.append(len(ids))
    types, ids, ends = list(index), np.array(ids, np.int32), np.array(ends, np.int64)
    joined = '\n'.join(types).encode('utf-8', 'surrogatepass')    # tokens hold no white space
    try:
        with write_aside(kept) as aside, aside.open('wb') as file:
            np.savez(file, types=np.frombuffer(joined, np.uint8), ids=ids, ends=ends)
    except OSError as error:
        warnings.warn(f'{kept} cannot be written ({error}): the next start splits the captions again.', stacklevel=3)
    return types, ids, ends
