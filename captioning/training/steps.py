"""What a training step takes: captions one by one, or images with all their captions.

An *item* is what an epoch serves exactly once. CaptionItems are indices of captions, ImageItems are
rows of images; both lead to the same Batch.
"""

from typing import NamedTuple

import numpy as np
import torch


class Batch(NamedTuple):
    """One step's share of this process.

    rows: array, the image of each input. inputs: (B, ...) what the network reads, features or what
    the tuned stages take. groups: list of TargetGroup. words and captions: how many are scored, of
    all processes.
    """

    rows: np.ndarray
    inputs: torch.Tensor
    groups: list
    words: int
    captions: int


class CaptionItems:
    """A step takes captions, each with the image that it belongs to."""

    unit = 'captions'

    def __init__(self, captions, captions_per_step):
        self.captions, self.batch_size = captions, captions_per_step
        self.items = captions.indices

    def rows(self, items):
        return self.captions.image_rows[items]

    def caption_indices(self, items):
        return items

    def inputs_of_captions(self, items):
        """Which of the batch's inputs each of its captions belongs to."""
        return np.arange(len(items))


class ImageItems:
    """A step takes images, each with all its captions: each is read and embedded once an epoch."""

    unit = 'images'

    def __init__(self, captions, images_per_step):
        self.captions, self.batch_size = captions, images_per_step
        self.items = captions.rows

    def rows(self, items):
        return items

    def caption_indices(self, items):
        return self.captions.captions_of_images(items)

    def inputs_of_captions(self, items):
        """Which of the batch's inputs each of its captions belongs to."""
        return np.repeat(np.arange(len(items)), self.captions.caption_counts(items))


def images_per_step(captions, captions_per_step):
    """How many images have about that many captions."""
    return max(1, round(captions_per_step * len(captions.rows) / len(captions.indices)))
