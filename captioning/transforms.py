"""From a PIL image to the tensor that the encoder takes, with or without random changes.

    transform = make_transform(**encoder.transform)     # size, mean, std
    tensor = transform(image)                           # (3, size, size)

Where many photos are read, the same is done in two parts: the bytes of each, then their numbers,
all at once on the device.
"""

import threading

import numpy as np
import torch
from torchvision import transforms

from captioning import augmentations

_one_generator = threading.Lock()


def least_decoded(size):
    """Pixels that the shorter side of a photo must have for an encoder that takes `size` of them.

    Twice as many: resizing does the rest of the smoothing. For load_image.
    """
    return 2 * size


def make_transform(size, mean, std, view=0, crop=0.6):
    """PIL image -> (3, size, size) float32.

    view 0: the whole image, squashed, because captions tell of the whole image. From view 1 on it
    is changed, see augmentations.py; `crop` is the smallest share of it that a random crop keeps.
    """
    changes = _changes(size, view, crop)
    return transforms.Compose(
        [*changes, transforms.ToTensor(), transforms.Normalize(mean, std)])


def make_pixels(size, view=0, crop=0.6):
    """PIL image -> (3, size, size) uint8, which `normalize` makes the same numbers of."""
    return transforms.Compose([*_changes(size, view, crop), transforms.PILToTensor()])


def normalize(pixels, mean, std):
    """Pixels (B, 3, S, S) from 0 to 255 -> float32, on their device. mean, std: (3,) there.

    The steps of torchvision's ToTensor and Normalize, without the latter's waiting for a GPU.
    """
    images = pixels.to(torch.float32).div(255)
    return images.sub_(mean[:, None, None]).div_(std[:, None, None])


def _changes(size, view, crop):
    """What happens to the PIL image."""
    if not view:
        return [transforms.Resize((size, size))]
    functions = augmentations.AUGMENTATIONS
    return functions[min(view, len(functions)) - 1](size, crop)


def random_view():
    """The view that the last augmentation makes."""
    return len(augmentations.AUGMENTATIONS)


def seeded(seed, transform, image):
    """Apply a random transform reproducibly, also in threads. seed: a list of ints."""
    torch_seed = int(np.random.default_rng(seed).integers(2 ** 62))
    with _one_generator, torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_seed)
        return transform(image)
