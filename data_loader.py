"""COCO captions -> batches of images and captions.

    loader = get_loader(transform, mode='train', batch_size=10, vocab_threshold=5,
                        vocab_from_file=False)
    images, captions = next(iter(loader))       # (B, 3, 224, 224) float32, (B, T) int64

Where the data lives, and what files it has: captioning/caption_data.py.
Axes: B batch, T caption length with start and end word, H and W image height and width.
"""

import os

import numpy as np
import torch
import torch.utils.data as data
from torch.nn.utils.rnn import pad_sequence

from captioning.caption_data import find_data
from captioning.photos import load_image
from vocabulary import Vocabulary


class CoCoDataset(data.Dataset):
    """One split of a COCO caption data set.

    caption_data: a CaptionData. token_folder: where the captions' tokens are kept.

    Item: mode 'train' and 'val' (image as the transform gives it, ids (T,) int64
    [start, words..., end]); mode 'test' (original image (H, W, 3) uint8, transformed image).
    Attributes: `vocab`; `paths` of the images; for 'train' and 'val' also `caption_lengths`, a list
    of ints without start and end, and `image_ids`. Captions without words, and captions of images
    that the file does not list, are left out and counted; images without captions are never asked
    for.
    """

    def __init__(self, transform, mode, batch_size, vocab, caption_data, token_folder=None):
        self.transform, self.mode, self.batch_size = transform, mode, batch_size
        self.vocab = vocab
        self.paths = caption_data.image_paths(mode)
        if mode != 'test':
            self._set_captions(caption_data, token_folder)
        elif not self.paths:
            raise ValueError(f'{caption_data.annotation_file(mode)} has no images: '
                             "the split 'test' is empty.")

    def _set_captions(self, caption_data, token_folder):
        file, content = caption_data.annotation_file(self.mode), caption_data.annotations(self.mode)
        types, ids, ends = caption_data.tokens(self.mode, token_folder)
        self.image_ids = [entry['id'] for entry in content['images']]
        row_of_image = {image_id: row for row, image_id in enumerate(self.image_ids)}
        image_rows = np.array([row_of_image.get(entry['image_id'], -1)
                               for entry in content['annotations']], np.int64)
        lengths = np.diff(ends, prepend=0)
        unlisted, empty = image_rows < 0, lengths == 0
        if unlisted.any():
            print(f'{file}: {unlisted.sum()} captions of images that it does not list are left out')
        if empty.any():
            print(f'{file}: {empty.sum()} captions without a word are left out')
        self.kept = np.flatnonzero(~unlisted & ~empty)    # positions in the file's list of captions
        if not len(self.kept):
            raise ValueError(f'{file} has no captions of its images: '
                             f"the split '{self.mode}' is empty.")
        self.image_rows = image_rows[self.kept]           # (captions,) index into paths, image_ids
        vocab_ids = np.array([self.vocab(token) for token in types], np.int64)
        self._words = vocab_ids[ids]                      # ids of the words of all captions
        self._lengths = lengths[self.kept]                # (captions,)
        self._starts = ends[self.kept] - self._lengths    # (captions,) index into _words
        self.caption_lengths = self._lengths.tolist()
        self._captions_of_length = self._group_by_length()

    def _group_by_length(self):
        """{length: indices of the captions that have it}"""
        order = np.argsort(self._lengths, kind='stable')
        lengths, starts = np.unique(self._lengths[order], return_index=True)
        return dict(zip(lengths.tolist(), np.split(order, starts[1:]), strict=True))

    def __len__(self):
        return len(self.paths) if self.mode == 'test' else len(self.image_rows)

    def caption_ids(self, index):
        """Ids of a caption, (T,) int64: [start, words..., end]."""
        start = self._starts[index]
        words = self._words[start:start + self._lengths[index]]
        ids = np.concatenate(([self.vocab.start_id], words, [self.vocab.end_id]))
        return torch.from_numpy(ids)

    def padded_ids(self, indices):
        """Ids of many captions at once -> captions (B, T) int64, lengths (B,).

        They are padded with the end word's id; lengths count start and end.
        """
        words = self._lengths[indices]
        lengths = words + 2
        position = np.arange(lengths.max()) - 1                     # (T,) among the words
        where = self._starts[indices][:, None] + position           # (B, T) index into _words
        is_word = (position >= 0) & (position < words[:, None])
        word_ids = self._words[where.clip(0, len(self._words) - 1)]
        captions = np.where(is_word, word_ids, self.vocab.end_id)
        captions[:, 0] = self.vocab.start_id
        return torch.from_numpy(captions), torch.from_numpy(lengths)

    def collate(self, items):
        """Stack items whose captions differ in length.

        Gives images (B, 3, H, W) and captions (B, T), padded with the end word's id.
        """
        images, captions = zip(*items, strict=True)
        padded = pad_sequence(captions, batch_first=True, padding_value=self.vocab.end_id)
        return torch.stack(images), padded

    def __getitem__(self, index):
        if self.mode == 'test':
            image = load_image(self.paths[index])
            return np.array(image), self.transform(image)
        image = load_image(self.paths[self.image_rows[index]])
        return self.transform(image), self.caption_ids(index)

    def get_train_indices(self):
        """Indices of `batch_size` captions of one length.

        The length is drawn in proportion to its frequency.
        """
        length = self.caption_lengths[np.random.randint(len(self))]
        group = self._captions_of_length[length]
        too_few = len(group) < self.batch_size
        return np.random.choice(group, self.batch_size, replace=too_few).tolist()


def get_loader(transform, mode='train', batch_size=1, vocab_threshold=None,
               vocab_file='./vocab.pkl', start_word='<start>', end_word='<end>',
               unk_word='<unk>', vocab_from_file=True, num_workers=0, cocoapi_loc=None):
    """Data loader over one split of the captions under `cocoapi_loc` (see find_folder).

    'train': one batch of captions of one length; assign another sampler of
    dataset.get_train_indices() to `loader.batch_sampler.sampler` for the next. 'val': every caption
    once, in file order, padded with the end word's id. 'test': one random image, original
    (1, H, W, 3) and transformed. vocab_from_file=False counts the vocabulary over the training
    captions ('train' only) and writes vocab_file.

    Raises ValueError or FileNotFoundError that name the argument, what was found and what to do.
    """
    _check_arguments(transform, mode, batch_size, vocab_from_file)
    caption_data = find_data(cocoapi_loc)
    _require_images(caption_data, mode)
    vocab = Vocabulary(vocab_threshold, vocab_file, start_word, end_word, unk_word,
                       str(caption_data.annotation_file('train')), vocab_from_file)
    dataset = CoCoDataset(transform, mode, batch_size, vocab, caption_data,
                          token_folder=os.path.dirname(vocab_file))
    if mode == 'train':
        sampler = data.SubsetRandomSampler(dataset.get_train_indices())
        batches = data.BatchSampler(sampler, batch_size, drop_last=False)
        return data.DataLoader(dataset, num_workers=num_workers, batch_sampler=batches)
    if mode == 'val':
        return data.DataLoader(dataset, batch_size, num_workers=num_workers,
                               collate_fn=dataset.collate)
    return data.DataLoader(dataset, batch_size, shuffle=True, num_workers=num_workers)


def _check_arguments(transform, mode, batch_size, vocab_from_file):
    if mode not in ('train', 'val', 'test'):
        raise ValueError(f"mode={mode!r}: expected 'train', 'val' or 'test'.")
    if not callable(transform):
        raise ValueError(
            f'transform={transform!r}: expected a function from a PIL image to a tensor.')
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f'batch_size={batch_size!r}: expected a whole number from 1.')
    if mode == 'test' and batch_size != 1:
        raise ValueError(f"batch_size={batch_size}: mode='test' gives one image at a time; "
                         'leave batch_size at 1.')
    if mode != 'train' and not vocab_from_file:
        raise ValueError(f"vocab_from_file=False with mode='{mode}': words are counted over "
                         "training captions only; build the vocabulary with mode='train' first.")


def _require_images(caption_data, mode):
    folder = caption_data.image_folder(mode)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} not found (cocoapi_loc='{caption_data.folder}'). Draw the built-in data "
            'with `python -m scripts.scenes`, get COCO with `python -m scripts.download`, or give '
            'the folder that holds cocoapi/.')
