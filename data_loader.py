"""COCO captions -> batches of images and captions; and where the data lives.

    loader = get_loader(transform, mode='train', batch_size=10, vocab_threshold=5, vocab_from_file=False)
    images, captions = next(iter(loader))       # (B, 3, 224, 224) float32, (B, T) int64

Axes: B batch, T caption length with start and end word, H and W image height and width.
"""

import os
from pathlib import Path

import numpy as np
import torch
import torch.utils.data as data
from PIL import Image, ImageOps
from torch.nn.utils.rnn import pad_sequence

from scripts.annotations import annotations_hash, caption_tokens, read_annotations
from vocabulary import Vocabulary, tokenize

ROOT = Path(__file__).resolve().parent
SCENES = ROOT / 'data' / 'scenes'       # the built-in data, drawn by `python -m scripts.scenes`
ANNOTATIONS = {'train': 'captions_train2014.json', 'val': 'captions_val2014.json', 'test': 'image_info_test2014.json'}
Image.init()
# No PostScript, which Pillow has Ghostscript run.
PHOTO_FORMATS = sorted({'AVIF', 'BMP', 'DIB', 'GIF', 'ICO', 'JPEG', 'JPEG2000', 'MPO', 'PNG', 'PPM', 'TGA', 'TIFF',
                        'WEBP'} & Image.OPEN.keys())
PHOTO_SUFFIXES = tuple(suffix for suffix, kind in Image.registered_extensions().items() if kind in PHOTO_FORMATS)
MEGAPIXELS = 100                        # of a photo, at most: it takes 2 GB of memory or less
_announced = set()


def resolve_cocoapi_loc(cocoapi_loc=None):
    """The folder that holds `cocoapi/`: the argument, else $COCOAPI_LOC, else '.' if it has one, else the scenes.

    What was chosen, and why, is printed once.
    """
    if cocoapi_loc:
        loc, reason = Path(cocoapi_loc), 'given'
    elif os.environ.get('COCOAPI_LOC'):
        loc, reason = Path(os.environ['COCOAPI_LOC']), 'from $COCOAPI_LOC'
    elif os.path.isdir('cocoapi/annotations'):
        loc, reason = Path('.'), 'found here'
    else:
        loc, reason = SCENES, 'the built-in scenes'
    if os.path.abspath(loc) not in _announced:
        _announced.add(os.path.abspath(loc))
        print(f'data: {os.path.relpath(loc)} ({reason})')
    return loc


def annotation_file(cocoapi_loc, split):
    """Path of the annotation file of 'train', 'val' or 'test' (test lists images and has no captions)."""
    return Path(cocoapi_loc) / 'cocoapi' / 'annotations' / ANNOTATIONS[split]


def image_folder(cocoapi_loc, split):
    """Path of the folder with the images of 'train', 'val' or 'test'."""
    return Path(cocoapi_loc) / 'cocoapi' / 'images' / f'{split}2014'


def dataset_cache(cocoapi_loc):
    """Folder for what is computed from a data set once: vocabulary, tokens, features. Named after its captions."""
    captions = annotations_hash(annotation_file(cocoapi_loc, 'train'))
    return ROOT / 'data' / 'cache' / f'{Path(cocoapi_loc).resolve().name}-{captions[:8]}'


def as_seen(image):
    """A PIL image as a person would see it: RGB, turned as its EXIF says, transparent parts on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ('I', 'I;16', 'I;16B', 'I;16L'):    # 16 bit grey: convert() would clip it, not scale it
        image = Image.fromarray((np.asarray(image, np.float32) / 257).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image.convert('RGBA'))
    return image.convert('RGB')


def load_image(path):
    """Open a photo `as_seen`. FileNotFoundError or OSError name the file when it is none, too large or cut short."""
    if not os.path.exists(path):
        raise FileNotFoundError(f'image {path} not found. Is the folder of images complete?')
    try:
        with Image.open(path, formats=PHOTO_FORMATS) as image:
            if image.width * image.height > MEGAPIXELS * 1e6:
                raise ValueError(f'{image.width * image.height / 1e6:.0f} megapixels, {MEGAPIXELS} are the limit')
            return as_seen(image)
    except Exception as error:    # decoders raise many kinds for damaged files
        raise OSError(f'image {path} cannot be read ({error}). Damaged, or cut short? Replace or remove it.') from None


class CoCoDataset(data.Dataset):
    """One split of a COCO caption data set.

    Item: mode 'train' and 'val' (image as the transform gives it, ids (T,) int64 [start, words..., end]);
    mode 'test' (original image (H, W, 3) uint8, transformed image). Attributes: `vocab`; for 'train' and 'val' also
    `caption_lengths`, a list of ints without start and end. Captions without words, and captions of images that the
    file does not list, are left out and counted; images without captions are never asked for.
    """

    def __init__(self, transform, mode, batch_size, vocab, annotations_file, img_folder, token_folder):
        self.transform, self.mode, self.batch_size, self.vocab = transform, mode, batch_size, vocab
        self.img_folder = Path(img_folder)
        found = read_annotations(annotations_file, need_captions=mode != 'test')
        self.paths = [entry['file_name'] for entry in found['images']]
        if mode != 'test':
            self._set_captions(found, annotations_file, token_folder)
        elif not self.paths:
            raise ValueError(f"{annotations_file} has no images: the split 'test' is empty.")

    def _set_captions(self, found, annotations_file, token_folder):
        types, ids, ends = caption_tokens(annotations_file, tokenize, token_folder)
        rows = {entry['id']: row for row, entry in enumerate(found['images'])}
        image_rows = np.array([rows.get(entry['image_id'], -1) for entry in found['annotations']], np.int64)
        lengths = np.diff(ends, prepend=0)
        self.kept = np.flatnonzero((image_rows >= 0) & (lengths > 0))    # positions in the file's list of captions
        if unlisted := int((image_rows < 0).sum()):
            print(f'{annotations_file}: {unlisted} captions of images that it does not list are left out')
        if empty := int((lengths == 0).sum()):
            print(f'{annotations_file}: {empty} captions without a word are left out')
        if not len(self.kept):
            raise ValueError(f"{annotations_file} has no captions of its images: the split '{self.mode}' is empty.")
        self.image_ids = [entry['id'] for entry in found['images']]
        self.image_rows = image_rows[self.kept]                   # (captions,) index into paths and image_ids
        self._words = np.array([self.vocab(token) for token in types], np.int64)[ids]    # ids of all words, end to end
        self._ends, self._lengths = ends[self.kept], lengths[self.kept]
        self.caption_lengths = self._lengths.tolist()
        order = np.argsort(self._lengths, kind='stable')
        starts = np.flatnonzero(np.diff(self._lengths[order], prepend=-1))
        self._of_length = dict(zip(self._lengths[order][starts].tolist(), np.split(order, starts[1:]), strict=True))

    def __len__(self):
        return len(self.paths) if self.mode == 'test' else len(self.image_rows)

    def caption_ids(self, index):
        """Ids of a caption, (T,) int64: [start, words..., end]."""
        end = self._ends[index]
        words = self._words[end - self._lengths[index]:end]
        return torch.from_numpy(np.concatenate(([self.vocab.start_id], words, [self.vocab.end_id])))

    def padded_ids(self, indices):
        """Ids of many captions at once -> captions (B, T) int64, padded with the end word's id, and lengths (B,)."""
        lengths = self._lengths[indices] + 2                                                    # with start and end
        position = np.arange(lengths.max()) - 1                                                 # (T,) among the words
        where = (self._ends[indices] - self._lengths[indices])[:, None] + position              # (B, T)
        is_word = (position >= 0) & (position < self._lengths[indices][:, None])
        captions = np.where(is_word, self._words[where.clip(0, len(self._words) - 1)], self.vocab.end_id)
        captions[:, 0] = self.vocab.start_id
        return torch.from_numpy(captions), torch.from_numpy(lengths)

    def collate(self, items):
        """Stack items whose captions differ in length: images (B, 3, H, W), captions (B, T) padded with the end id."""
        images, captions = zip(*items, strict=True)
        return torch.stack(images), pad_sequence(captions, batch_first=True, padding_value=self.vocab.end_id)

    def __getitem__(self, index):
        if self.mode == 'test':
            image = load_image(self.img_folder / self.paths[index])
            return np.array(image), self.transform(image)
        image = load_image(self.img_folder / self.paths[self.image_rows[index]])
        return self.transform(image), self.caption_ids(index)

    def get_train_indices(self):
        """Indices of `batch_size` captions of one length, the length drawn in proportion to its frequency."""
        length = self.caption_lengths[np.random.randint(len(self))]
        group = self._of_length[length]
        return np.random.choice(group, self.batch_size, replace=len(group) < self.batch_size).tolist()


def get_loader(transform, mode='train', batch_size=1, vocab_threshold=None, vocab_file='./vocab.pkl',
               start_word='<start>', end_word='<end>', unk_word='<unk>', vocab_from_file=True, num_workers=0,
               cocoapi_loc=None):
    """Data loader over one split of the captions under `cocoapi_loc` (see resolve_cocoapi_loc).

    'train': one batch of captions of one length; assign another sampler of dataset.get_train_indices() to
    `loader.batch_sampler.sampler` for the next. 'val': every caption once, in file order, padded with the end word's
    id. 'test': one random image, original (1, H, W, 3) and transformed. vocab_from_file=False counts the vocabulary
    over the training captions ('train' only) and writes vocab_file.

    Raises ValueError or FileNotFoundError that name the argument, what was found and what to do.
    """
    if mode not in ('train', 'val', 'test'):
        raise ValueError(f"mode={mode!r}: expected 'train', 'val' or 'test'.")
    if not callable(transform):
        raise ValueError(f'transform={transform!r}: expected a function from a PIL image to a tensor.')
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f'batch_size={batch_size!r}: expected a whole number from 1.')
    if mode == 'test' and batch_size != 1:
        raise ValueError(f"batch_size={batch_size}: mode='test' gives one image at a time; leave batch_size at 1.")
    if mode != 'train' and not vocab_from_file:
        raise ValueError(f"vocab_from_file=False with mode='{mode}': words are counted over training captions only; "
                         "build the vocabulary with mode='train' first.")
    loc = resolve_cocoapi_loc(cocoapi_loc)
    for split in {'train', mode} if not vocab_from_file else {mode}:
        if not image_folder(loc, split).is_dir():
            raise FileNotFoundError(f"{image_folder(loc, split)} not found (cocoapi_loc='{loc}'). Draw the built-in "
                                    'data with `python -m scripts.scenes`, get COCO with `python -m scripts.download`, '
                                    'or give the folder that holds cocoapi/.')
    vocab = Vocabulary(vocab_threshold, vocab_file, start_word, end_word, unk_word,
                       str(annotation_file(loc, 'train')), vocab_from_file)
    dataset = CoCoDataset(transform, mode, batch_size, vocab, str(annotation_file(loc, mode)), image_folder(loc, mode),
                          token_folder=os.path.dirname(vocab_file))
    if mode == 'train':
        sampler = data.SubsetRandomSampler(dataset.get_train_indices())
        return data.DataLoader(dataset, num_workers=num_workers,
                               batch_sampler=data.BatchSampler(sampler, batch_size, drop_last=False))
    if mode == 'val':
        return data.DataLoader(dataset, batch_size, num_workers=num_workers, collate_fn=dataset.collate)
    return data.DataLoader(dataset, batch_size, shuffle=True, num_workers=num_workers)
