"""Caption photos, however many, into a file that a killed run can be continued from.

    for path, told, error in caption_photos(captioner, paths, beam_size=3): ...
    output = CaptionFile('captions.json', paths)
"""

import glob
import json
import re
import sys
import time
from pathlib import Path

from captioning import distributed
from captioning.encoding import photo_batches
from captioning.files import write_json

SAVE_SECONDS = 10


def caption_photos(captioner, paths, beam_size=3, num_captions=1, max_len=20):
    """Caption photos batch by batch -> yields (path, told, error), in order but for the failed.

    told: {'captions': num_captions of {'caption': str, 'log_prob': nats}, best first}. Where the
    captioner names what it recognizes, each has 'names', the words for which it was chosen, and
    told has 'recognized', {word: probability}. Of a photo that cannot be read told is None, and
    error says why.
    """
    transform, rows = captioner.encoder.transform, range(len(paths))
    for read, images, errors in photo_batches(paths, rows, transform, captioner.device):
        yield from ((paths[row], None, message) for row, message in errors)
        if images is None:
            continue
        seen = captioner.see(images)
        lists = captioner.describe(seen, beam_size, max_len, num_captions)
        for row, told in zip(read, _told(captioner, seen, lists), strict=True):
            yield paths[row], told, None


def _told(captioner, seen, lists):
    """Yield what caption_photos tells of each image."""
    named = captioner.naming is not None
    recognized = captioner.naming.recognized(seen.probabilities) if named else [()] * len(lists)
    for descriptions, words in zip(lists, recognized, strict=True):
        captions = [{'caption': text, 'log_prob': round(sum(caption.log_probs), 4)}
                    | ({'names': [name.word for name in names]} if named else {})
                    for text, caption, names in descriptions]
        probabilities = {word: round(probability, 4) for word, probability in words}
        yield {'captions': captions} | ({'recognized': probabilities} if named else {})


def image_id(path):
    """The number at the end of a file's name, as in COCO_val2014_000000000042.jpg.

    ValueError if there is none.
    """
    number = re.search(r'(\d+)$', Path(path).stem)
    if not number:
        raise ValueError('--format coco takes the image id from the end of the file name, and '
                         f'{path} has no number there.')
    return int(number[1])


def image_ids(paths):
    """That of each; ValueError where two photos have the same."""
    ids = {}
    for path in paths:
        other = ids.setdefault(image_id(path), path)
        if other != path:
            raise ValueError(f'{other} and {path} end in the same number, which --format coco '
                             'takes as the image id: caption them into two files.')
    return list(ids)


def make_entry(path, told, form):
    """One photo's part of the output: 'coco' results, or 'json' with all that is told of it."""
    if form == 'coco':
        return {'image_id': image_id(path), 'caption': told['captions'][0]['caption']}
    return {'image': path, **told}


def photo_of(entry):
    """Which photo an entry is of: its path, or in COCO results its id."""
    return entry.get('image', entry.get('image_id'))


class CaptionFile:
    """An output file that grows; each of several processes writes a part of it, at last merged.

    path: None keeps the entries in memory. photos: of which ones, as `photo_of` tells them, in
    order. Raises ValueError where the file is there and is another's.
    """

    def __init__(self, path, photos):
        self.path, self.photos = path, photos
        alone = distributed.ranks() == 1
        before = distributed.on_first_rank(self._merged) if path else {}
        self.entries = dict(before) if alone else {}
        self.missing = [photo for photo in photos if photo not in before]
        self.part = path if alone else f'{path}.rank{distributed.rank()}'
        self.saved_at = time.monotonic()

    def add(self, entry):
        self.entries[photo_of(entry)] = entry
        if time.monotonic() - self.saved_at > SAVE_SECONDS:
            self.save()

    def save(self):
        if self.path:
            write_json(self.part, list(self.entries.values()))
        self.saved_at = time.monotonic()

    def merge(self):
        """Write all parts into the file, in the order of the photos, after what it had of others.
        """
        print(f'{len(self._merged()):,} photos are captioned in {self.path}', file=sys.stderr)

    def _merged(self):
        """`merge`, also of parts that were left when processes were killed -> {photo: entry}."""
        path = Path(self.path)
        parts = sorted(path.parent.glob(glob.escape(path.name) + '.rank*'))
        entries = {photo_of(entry): entry for file in (path, *parts)
                   for entry in read_entries(file)}
        order = {photo: position for position, photo in enumerate(self.photos)}
        entries = dict(sorted(entries.items(), key=lambda item: order.get(item[0], -1)))
        if entries or parts:
            write_json(path, list(entries.values()))
        for part in parts:
            part.unlink()
        return entries


def read_entries(path):
    """The entries of an output file, none where it is not there; ValueError if it is another's."""
    try:
        entries = json.loads(path.read_text('utf-8'))
        if all(photo_of(entry) is not None for entry in entries):
            return entries
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, AttributeError):
        pass
    raise ValueError(f'{path} is there and is not the output of this command: give another '
                     '--output, or remove it.')
