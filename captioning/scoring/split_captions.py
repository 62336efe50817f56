"""Caption a split of a data set with a checkpoint.

    results = caption_split('runs/NAME/best.pt', find_data(), 'val', beam_size=3)
"""

import numpy as np

from captioning.captioner import load_captioner
from captioning.features import split_features
from captioning.scoring.results import as_results


def caption_split(checkpoint, data, split='val', beam_size=1, limit=None, model_file=None):
    """Caption the images of a split, or its first `limit`, in file order -> results.

    data: CaptionData. Images that cannot be read are left out. model_file: the model.py of the
    run, where it was edited since. Raises what load_captioner and split_features raise.
    """
    captioner = load_captioner(checkpoint, model_file=model_file)
    features, unreadable, images = split_features(captioner.encoder, data, split, limit)  # (N, C)
    rows = np.setdiff1d(np.arange(len(images)), unreadable)
    captions = captioner.caption_features(features, beam_size=beam_size, rows=rows)
    image_ids = [images[row]['id'] for row in rows]
    return as_results(dict(zip(image_ids, captions, strict=True)))
