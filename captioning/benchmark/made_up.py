"""Captions and data sets of random words, as large as COCO where that is wanted.

    captions = made_up_captions(COCO_CAPTIONS, COCO_IMAGES, COCO_WORDS)     # with random features
    data = write_made_up(folder, images=1000, captions=5000)                # without photos
"""

import json

import numpy as np
import torch

from captioning.caption_data import CaptionData
from captioning.captions import Captions
from vocabulary import Vocabulary

COCO_IMAGES, COCO_CAPTIONS, COCO_WORDS = 82_783, 414_113, 9_955    # words of the vocabulary
LONGEST = 50         # words of a caption, without start and end
FILE_WORDS = 28_000  # different words that a made-up file draws from


def made_up_captions(count, images, words, features=2048, places=0):
    """Captions of random words, as long as COCO's (11 words on average), with random features.

    words: size of the vocabulary. features: channels C; places: P of a grid, 0 for pooled features
    -> Captions.
    """
    random = np.random.default_rng(0)
    lengths = 2 + _caption_lengths(random, count, shift=6.5)
    ids = torch.from_numpy(random.integers(3, words, (count, int(lengths.max())), np.int32))
    positions = torch.arange(ids.shape[1])
    ids[:, 0] = 0
    ids[positions >= torch.from_numpy(lengths)[:, None] - 1] = 1
    shape = (images, places, features) if places else (images, features)
    image_features = torch.rand(shape, dtype=torch.float16)
    image_rows = random.integers(images, size=count)
    return Captions(image_features, image_rows, ids, lengths, usable=np.ones(images, bool))


def made_up_vocabulary(words):
    """A vocabulary of that many words, the special ones included."""
    return Vocabulary.from_words(['<start>', '<end>', '<unk>', *map(str, range(words - 3))])


def write_made_up(folder, images, captions):
    """Write a captions file of COCO's shape, with words as frequent as in a language (Zipf).

    images, captions: how many. There are no photos -> CaptionData.
    """
    data = CaptionData(folder)
    random = np.random.default_rng(0)
    vocabulary = np.array([f'word{number}' for number in range(FILE_WORDS)])
    lengths = _caption_lengths(random, captions, shift=5.5)
    ranks = np.minimum(random.zipf(1.3, lengths.sum()), FILE_WORDS) - 1
    words = iter(vocabulary[ranks].tolist())
    annotations = []
    for number, length in enumerate(lengths.tolist()):
        caption = ' '.join(next(words) for _ in range(length)).capitalize() + '.'
        annotations.append({'id': number, 'image_id': number % images, 'caption': caption})
    entries = [{'id': number, 'file_name': f'COCO_train2014_{number:012}.jpg'}
               for number in range(images)]
    file = data.annotation_file('train')
    for path in (file.parent, data.image_folder('train')):
        path.mkdir(parents=True)
    file.write_text(json.dumps({'images': entries, 'annotations': annotations}), 'utf-8')
    return data


def _caption_lengths(random, count, shift):
    """Words of each caption, distributed about as in COCO."""
    return np.clip(random.gamma(4, 1.1, count) + shift, 5, LONGEST).astype(int)
