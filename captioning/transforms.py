"""From a PIL image to the tensor that the encoder takes, with or without random changes.

    transform = make_transform(**encoder.transform)     # size, mean, std
    tensor = transform(image)                           # (3, size, size)
"""

import numpy as np
import torch
from torchvision import transforms

from captioning.augmentations import AUGMENTATIONS

ANY_AUGMENTATION = len(AUGMENTATIONS)    # the view that the last of them makes


def make_transform(size, mean, std, view=0, crop=0.6):
    """PIL image -> (3, size, size) float32.

    view 0: the whole image, squashed, because captions tell of the whole image. From view 1 on it
    is changed, see augmentations.py; `crop` is the smallest share of it that a random crop keeps.
    """
    changes = [transforms.Resize((size, size))]
    if view:
        changes = AUGMENTATIONS[min(view, len(AUGMENTATIONS)) - 1](size, crop)
    return transforms.Compose(
        [*changes, transforms.ToTensor(), transforms.Normalize(mean, std)])


def seeded(seed, transform, image):
    """Apply a random transform reproducibly. seed: a list of ints."""
    torch_seed = int(np.random.default_rng(seed).integers(2 ** 62))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_seed)
        return transform(image)
