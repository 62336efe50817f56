"""Random changes of a training photo: a new one is a function here and an entry in AUGMENTATIONS.

Training on `--views N` shows each photo as it is and in N - 1 changed forms, whose features are
computed once and kept; fine-tuning changes each photo anew in every epoch.

This file is part of what identifies a run: after an edit of it, training starts a new run and
computes new features of the changed forms.
"""

from torchvision import transforms


def flipped(size, crop):
    """Left and right exchanged."""
    return [transforms.Resize((size, size)), transforms.RandomHorizontalFlip(1)]


def cropped(size, crop):
    """A random part of the photo, at least `crop` of its area, flipped half of the time."""
    if crop == 1:
        resized = transforms.Resize((size, size))
    else:
        resized = transforms.RandomResizedCrop(size, (crop, 1), antialias=True)
    return [resized, transforms.RandomHorizontalFlip(0.5)]


# Each is a function (size in pixels, smallest share of the area) -> list of torchvision transforms
# of a PIL image. The first makes view 1, and so on; the last makes all further views, and what
# fine-tuning sees.
AUGMENTATIONS = (flipped, cropped)
