"""A data set without the captions that have certain words, for models that never learn these.

    copy, kept = without_words(data, recognizer.words[:3], 'data/without-three')
    run = open_run(make_settings(name='without-three', cocoapi_loc=str(copy.folder)), copy)
"""

import contextlib
import os
import shutil

import numpy as np

from captioning.caption_data import CaptionData
from captioning.files import link_or_copy, write_json
from captioning.scoring.hallucination import says
from vocabulary import tokenize


def without_words(data, words, folder):
    """Write a copy of a data set without the training captions that have any of the words.

    words: list of Word. Images are links where the system allows them, and features that were
    computed for `data` serve the copy. Returns the copy, a CaptionData, and how many captions are
    left.
    """
    forms = {form for word in words for form in word.forms}
    annotations = data.annotations('train')
    kept = [entry for entry in annotations['annotations']
            if not says(' '.join(tokenize(entry['caption'])), forms)]
    copy = CaptionData(folder)
    for split in ('train', 'val'):
        entries = kept if split == 'train' else data.annotations('val')['annotations']
        copy.annotation_file(split).parent.mkdir(parents=True, exist_ok=True)
        write_json(copy.annotation_file(split), {**data.annotations(split), 'annotations': entries})
        copy.image_folder(split).parent.mkdir(parents=True, exist_ok=True)
        _link(data.image_folder(split), copy.image_folder(split))
    copy.cache_folder.mkdir(parents=True, exist_ok=True)
    for features in data.cache_folder.glob('features-*'):
        _link(features, copy.cache_folder / features.name)
    return copy, len(kept)


def f1(said, true):
    """F1 of saying a word. said, true: arrays of bool (N,), or of several words (W, N)."""
    return 2 * (said & true).sum(axis=-1) / np.maximum(1, said.sum(axis=-1) + true.sum(axis=-1))


def _link(folder, link):
    """Make a link to a folder. Where that is not allowed, as to most users of Windows: links to its
    files, or copies of them."""
    if link.exists():
        return
    with contextlib.suppress(OSError):
        os.symlink(folder.resolve(), link, target_is_directory=True)
    if not link.exists():
        aside = link.with_name(f'{link.name}.tmp')
        shutil.rmtree(aside, ignore_errors=True)    # of a process that was killed
        shutil.copytree(folder, aside, copy_function=link_or_copy)
        aside.rename(link)
