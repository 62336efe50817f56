"""From photos to features: the frozen part of the encoder, batch by batch.

    for rows, images, errors in photo_batches(paths, rows, encoder.transform, device):
        features = encode(encoder.backbone, images, dtype)      # (B, C), of a grid (B, P, C)

Axes: B batch, C channels, P places, S side of an image in pixels.
"""

import zlib
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from captioning.devices import computed_in, loading_workers
from captioning.photos import load_image
from captioning.transforms import ANY_AUGMENTATION, make_transform, seeded


@torch.no_grad()
def encode(backbone, images, dtype):
    """Features float32, computed in `dtype`: (B, C), of a grid (B, P, C).

    images: (B, 3, S, S), or where `backbone` is its last stages, what these read.
    """
    backbone = backbone.to(memory_format=torch.channels_last)
    images = images.to(memory_format=torch.channels_last)
    with computed_in(dtype, images.device):
        return backbone(images).float()


class Photos(Dataset):
    """Photos as tensors. Item: (row, image (3, S, S) or None, message of an error or None).

    transform: arguments of make_transform. What is random about a view follows from the view and
    the photo's name, whatever photos are beside it.
    """

    def __init__(self, paths, rows, transform):
        self.paths, self.rows, self.view = paths, rows, transform.get('view', 0)
        self.transform = make_transform(**transform)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        try:
            image = load_image(self.paths[row])
        except OSError as error:
            return row, None, str(error)
        seed = [self.view, zlib.crc32(Path(self.paths[row]).name.encode())]
        return row, seeded(seed, self.transform, image), None


class AugmentedPhotos(Dataset):
    """Photos flipped and cropped at random, for fine-tuning. Item: row -> (row, image (3, S, S)).

    What is random follows from `seed`, a list of ints, and the row. OSError names a photo that
    cannot be read.
    """

    def __init__(self, paths, transform, crop, seed):
        self.paths, self.seed = paths, seed
        self.transform = make_transform(**transform, view=ANY_AUGMENTATION, crop=crop)

    def __getitem__(self, row):
        image = load_image(self.paths[row])
        return row, seeded([*self.seed, row], self.transform, image)


def photo_batches(paths, rows, transform, device, batch_size=32):
    """Read the photos `rows` of `paths` -> yields (rows, images (B, 3, S, S) or None, errors).

    rows: of those that could be read. errors: [(row, message)] of the others.
    """
    loader = DataLoader(Photos(paths, rows, transform), batch_size, collate_fn=list,
                        num_workers=loading_workers(device))
    for batch in loader:
        read = [(row, image) for row, image, _ in batch if image is not None]
        errors = [(row, message) for row, _, message in batch if message is not None]
        images = torch.stack([image for _, image in read]).to(device) if read else None
        yield [row for row, _ in read], images, errors
