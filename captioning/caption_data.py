"""One data set on disk, opened once and passed along: files, captions, words, cache folder.

    data = find_data()                      # $COCOAPI_LOC, ./cocoapi or the built-in scenes
    data.images('val')                      # [{'id': 1, 'file_name': 'a.jpg'}, ...]
    data.image_paths('val'), data.vocabulary(5), data.cache_folder

The layout is that of COCO 2014: <folder>/cocoapi/annotations and <folder>/cocoapi/images.
"""

import functools
import os
from pathlib import Path

from captioning import files
from captioning.annotations import (
    annotations_hash,
    caption_tokens,
    read_annotations,
    require_annotations,
)
from vocabulary import Vocabulary, tokenize

ANNOTATIONS = {'train': 'captions_train2014.json', 'val': 'captions_val2014.json',
               'test': 'image_info_test2014.json'}    # of test the captions are often withheld
TEST_CAPTIONS = 'captions_test2014.json'
_announced = set()


def find_folder(cocoapi_loc=None):
    """The folder that holds cocoapi/ -> (Path, why it was chosen).

    It is the argument, else $COCOAPI_LOC, else '.' if it has one, else the built-in scenes.
    """
    if cocoapi_loc:
        return Path(cocoapi_loc), 'given'
    if os.environ.get('COCOAPI_LOC'):
        return Path(os.environ['COCOAPI_LOC']), 'from $COCOAPI_LOC'
    if os.path.isdir('cocoapi/annotations'):
        return Path('.'), 'found here'
    return files.SCENES, 'the built-in scenes'


def find_data(cocoapi_loc=None):
    """Open the data set in `find_folder(cocoapi_loc)`; what was chosen is printed once."""
    folder, reason = find_folder(cocoapi_loc)
    if os.path.abspath(folder) not in _announced:
        _announced.add(os.path.abspath(folder))
        print(f'data: {files.repository_path(folder)} ({reason})')
    return CaptionData(folder)


class CaptionData:
    """A data set in COCO's layout. split: 'train', 'val' or 'test'.

    Each file is read when it is first asked for, and once; FileNotFoundError and ValueError name a
    file that is not there or not what was expected.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self._annotations, self._hashes = {}, {}
        self._tokens, self._vocabularies = {}, {}

    def __repr__(self):
        return f"CaptionData('{self.folder}')"

    @property
    def name(self):
        """The folder's own name, such as 'flickr8k'."""
        return self.folder.resolve().name

    def annotation_file(self, split):
        """Path of the annotation file of a split; that of 'test' may have no captions."""
        return self.folder / 'cocoapi' / 'annotations' / ANNOTATIONS[split]

    def caption_file(self, split):
        """Path of the captions of a split, for 'test' too; that one is often withheld."""
        file = self.annotation_file(split)
        return file.with_name(TEST_CAPTIONS) if split == 'test' else file

    def image_folder(self, split):
        return self.folder / 'cocoapi' / 'images' / f'{split}2014'

    def annotations(self, split):
        """What the annotation file of a split holds, as read_annotations gives it."""
        if split not in self._annotations:
            need_captions = split != 'test'
            self._annotations[split] = read_annotations(self.annotation_file(split), need_captions)
        return self._annotations[split]

    def annotations_hash(self, split):
        """SHA-256 of the annotation file of a split."""
        if split not in self._hashes:
            self._hashes[split] = annotations_hash(self.annotation_file(split))
        return self._hashes[split]

    def images(self, split):
        """Entries of the images of a split, in file order: dicts with id and file_name."""
        return self.annotations(split)['images']

    def image_paths(self, split):
        """Paths of the images of a split, in file order."""
        folder = self.image_folder(split)
        return [folder / entry['file_name'] for entry in self.images(split)]

    @functools.cached_property
    def cache_folder(self):
        """Folder for what is computed from this data once: vocabularies, tokens, features.

        Its name tells the data set and a hash of its captions: of the first split that is there.
        """
        splits = [split for split in ANNOTATIONS if self.annotation_file(split).exists()]
        if not splits:
            require_annotations(self.annotation_file('train'))
        return files.CACHE / f'{self.name}-{self.annotations_hash(splits[0])[:8]}'

    def tokens(self, split, folder=None):
        """CaptionTokens of a split, kept in `folder` (default: the cache folder)."""
        if split not in self._tokens:
            self._tokens[split] = caption_tokens(
                str(self.annotation_file(split)), tokenize,
                self.cache_folder if folder is None else folder, self._annotations.get(split))
        return self._tokens[split]

    def vocabulary_file(self, threshold):
        """Path for the vocab_file of `get_loader` and `Vocabulary` on this data set."""
        return self.cache_folder / f'vocab-{threshold}.pkl'

    def vocabulary(self, threshold):
        """Vocabulary of the training captions, of the words with `threshold` occurrences."""
        if threshold not in self._vocabularies:
            vocab = Vocabulary.from_tokens(self.tokens('train'), threshold)
            self._vocabularies[threshold] = vocab
        return self._vocabularies[threshold]
