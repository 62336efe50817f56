"""Caption a split of a data set with a checkpoint.

    results = caption_split('runs/NAME/best.pt', find_data(), 'val', beam_size=3)
"""

import numpy as np

from captioning.captioner import load_captioner
from captioning.features import split_features
from captioning.naming import Seen
from captioning.recognition.untuned import pooled_rows, untuned_encoder
from captioning.scoring.results import as_results


def caption_split(checkpoint, data, split='val', beam_size=1, limit=None, model_file=None,
                  names=None, consensus=None):
    """Caption the images of a split, or its first `limit`, in file order -> results.

    data: CaptionData. Images that cannot be read are left out. model_file: the model.py of the
    run, where it was edited since. names, consensus: see load_captioner. Raises what load_captioner
    and split_features raise.
    """
    captioner = load_captioner(checkpoint, model_file=model_file, names=names,
                               consensus=consensus)
    seen, rows, images = seen_split(captioner, data, split, limit)
    lists = captioner.describe(seen, beam_size, rows=rows)
    captions = {images[row]['id']: best.text for row, (best, *_) in zip(rows, lists, strict=True)}
    return as_results(captions)


def seen_split(captioner, data, split, limit=None):
    """What a captioner has of the images of a split, or its first `limit`.

    Returns (Seen, rows of the images that can be read, entries of the annotation file).
    FileNotFoundError where none can be read.
    """
    features, unreadable, images = split_features(captioner.encoder, data, split, limit)
    rows = np.setdiff1d(np.arange(len(images)), unreadable)
    if not len(rows):
        raise FileNotFoundError(f'none of the {len(images):,} photos of {split} can be read. They '
                                f'are expected in {data.image_folder(split)}.')
    if captioner.naming is None:
        return Seen(features), rows, images
    untuned = features
    if captioner.untuned:
        untuned, _, _ = split_features(untuned_encoder(captioner), data, split, limit)
    probabilities = captioner.naming.recognizer.probabilities(pooled_rows(untuned))
    return Seen(features, probabilities), rows, images
