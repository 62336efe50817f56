"""The COCO results format: one caption an image, [{'image_id': 1, 'caption': 'a dog'}, ...].

    results = read_results('captions.json', annotations)    # checked, one for each image
    results = as_results({1: 'a dog', 2: 'a cat'})
"""

import json
from pathlib import Path

EXPECTED = 'Expected [{"image_id": 1, "caption": "a dog"}], the COCO results format.'
HINT = 'with --missing-as-empty.'


def as_results(captions):
    """{image id: caption} -> the results format."""
    return [{'image_id': image_id, 'caption': caption} for image_id, caption in captions.items()]


def read_results(file, annotations, missing_as_empty=False):
    """Read a COCO results file -> [{'image_id': ..., 'caption': str}], one for each image.

    annotations: what read_annotations gives; the images are those that it has captions of.
    missing_as_empty: an image without a caption, or with an empty one, counts as the empty caption.
    Raises FileNotFoundError, or ValueError that names the file, the entry and what to do.
    """
    entries = _read_list(file)
    listed = {image['id'] for image in annotations['images']}
    captions = {}
    for number, entry in enumerate(entries, start=1):
        problem = _problem(entry, listed, captions, missing_as_empty)
        if problem:
            raise ValueError(f'{file}: entry {number} of {len(entries)} {problem}')
        captions[entry['image_id']] = entry['caption']

    described = {entry['image_id'] for entry in annotations.get('annotations', ())}
    needed = described & listed or listed    # nobody described the others: no caption is needed
    missing = [image_id for image_id in needed if image_id not in captions]
    if missing and not missing_as_empty:
        raise ValueError(
            f'{file} has no caption of {len(missing):,} among {len(needed):,} images, such as '
            f'{missing[0]!r}. Caption them, or score them as misses {HINT}')
    return as_results(captions | dict.fromkeys(missing, ''))


def _read_list(file):
    try:
        entries = json.loads(Path(file).read_text(encoding='utf-8-sig'))
    except FileNotFoundError:
        raise FileNotFoundError(f'results file {file} not found.') from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{file} is not JSON ({error}). {EXPECTED}') from None
    if not isinstance(entries, list):
        kind = type(entries).__name__
        raise ValueError(f'{file} holds a {kind}, not a list: an annotation file? {EXPECTED}')
    return entries


def _problem(entry, listed, captions, empty_allowed):
    """What is wrong with an entry, given the captions before it -> str or None."""
    fields = entry if isinstance(entry, dict) else {}
    image_id, caption = fields.get('image_id'), fields.get('caption')
    if not isinstance(image_id, (int, str)) or not isinstance(caption, str):
        return f'lacks an image_id or a caption that is text: {str(entry)[:60]}. {EXPECTED}'
    if image_id not in listed:
        return (f'is of image {image_id!r}, which the annotations do not list. '
                'Is it of another split?')
    if image_id in captions:
        return f'is a second caption of image {image_id!r}. Keep one for each image.'
    if not caption.strip() and not empty_allowed:
        return f'(image {image_id!r}) has an empty caption. Score it as a miss {HINT}'
    return None
