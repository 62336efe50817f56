"""Caption photos, however many, into a file that a killed run can be continued from.

    for path, told, error in caption_photos(captioner, paths, beam_size=3): ...
    output = CaptionFile('captions.json', form='json')
"""

import contextlib
import glob
import json
import re
import sys
import time
from pathlib import Path

from captioning import distributed
from captioning.encoding import photo_batches
from captioning.files import write_aside

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
        before = distributed.on_first_rank(lambda: read_entries(path) if path else {})
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
            write_entries(self.part, self.entries.values())
        self.saved_at = time.monotonic()

    def merge(self):
        """Write all parts into the file, in the order of the photos, after what it had of others.
        """
        entries = read_entries(self.path)
        order = {photo: position for position, photo in enumerate(self.photos)}
        write_entries(self.path, sorted(
            entries.values(), key=lambda entry: order.get(photo_of(entry), -1)))
        for part in _parts(self.path):
            part.unlink()
        print(f'{len(entries):,} photos are captioned in {self.path}', file=sys.stderr)


def read_entries(path):
    """{photo: entry} of an output file, and of the parts that several processes left of one."""
    entries = {}
    for file in (Path(path), *_parts(path)):
        with contextlib.suppress(FileNotFoundError):
            try:
                content = json.loads(file.read_text('utf-8'))
                entries.update((photo_of(entry), entry) for entry in content)
            except (ValueError, TypeError, AttributeError):
                raise ValueError(f'{file} is there and is not the output of this command: give '
                                 'another --output, or remove it.') from None
    return entries


def write_entries(path, entries):
    with write_aside(path) as aside:
        aside.write_text(as_json(entries), 'utf-8')


def as_json(entries):
    return json.dumps(list(entries), indent=1, ensure_ascii=False)


def _parts(path):
    path = Path(path)
    return sorted(path.parent.glob(glob.escape(path.name) + '.rank*'))
