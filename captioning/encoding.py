"""From photos to features: the frozen part of the encoder, batch by batch.

    frozen = FrozenBackbone(encoder.backbone, dtype)
    for rows, images, errors in photo_batches(paths, rows, encoder.transform, device):
        features = frozen.encode(images)        # (B, C), of a grid (B, P, C)

Axes: B batch, C channels, P places, S side of an image in pixels.
"""

import contextlib
import copy
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, default_collate

from captioning.devices import computed_in, is_cpu, loading_workers, moved, pins_memory
from captioning.onnx_network import OnnxNetwork
from captioning.photos import load_image
from captioning.transforms import (
    least_decoded,
    make_pixels,
    normalize,
    random_view,
    seeded,
)

MANY = 400         # images for which it is worth some ten seconds to encode them faster
FEW = 8            # images that a CPU computes at once: what it hands on stays in its cache
BATCH_SIZE = 32    # photos; reading them takes longer than encoding them, with any batch size


# ---- The network ----

class FrozenBackbone:
    """Encodes many batches with a backbone, or with stages of one, whose weights stay as they are.

    images: how many will be encoded. In float32 on a CPU the backbone itself is computed; MANY
    images by onnxruntime, from a copy. Elsewhere batch-norms, walking through the modules and
    casting weights again at each batch would take as long as the convolutions: the first batch
    makes a copy with batch-norms folded into convolutions and weights in `dtype`. A copy does not
    follow a change of the weights.
    """

    def __init__(self, backbone, dtype, images=1):
        self.backbone, self.dtype, self.images = backbone, dtype, images
        self._compute = None

    @torch.no_grad()
    def encode(self, images):
        """Features float32, computed in `dtype`: (B, C), of a grid (B, P, C).

        images: (B, 3, S, S) float32, or for the last stages of a backbone what these read.
        """
        images = images.to(memory_format=torch.channels_last)
        if self._compute is None:
            prepare = self._on_cpu if is_cpu(images.device) else self._prepared
            self._compute = prepare(images[:1])
        features = self._compute(images).float()
        overflows = self.dtype == torch.float16 and not features.isfinite().all()
        return self.backbone(images).float() if overflows else features

    def _under_autocast(self, images):
        backbone = self.backbone.to(memory_format=torch.channels_last)
        with computed_in(self.dtype, images.device):
            return backbone(images)

    def _on_cpu(self, image):
        """As `_prepared`, on a CPU."""
        if self.dtype != torch.float32:
            compute = self._prepared(image)
            return lambda images: torch.cat([compute(few) for few in images.split(FEW)])
        if self.images >= MANY:
            with contextlib.suppress(Exception):    # any code may be in a backbone
                network = OnnxNetwork(self.backbone, image)
                if difference(network(image), self.backbone(image)) < 1e-3:
                    return network
        return self._under_autocast

    def _prepared(self, image):
        """The quickest way to compute features that is right for one image (1, 3, S, S).

        A copy may differ from the backbone by rounding, as the backbone under autocast does.
        """
        expected = self.backbone(image)

        def rounding():
            return difference(self._under_autocast(image), expected)

        for copied in (folded, copy.deepcopy):
            with contextlib.suppress(Exception):    # any code may be in a backbone
                network = cast(copied(self.backbone), self.dtype)
                off = difference(network(image.to(self.dtype)), expected)
                if off < 0.05 or off < 0.05 + 2 * rounding():
                    return lambda images: network(images.to(self.dtype))
        return self._under_autocast


def folded(backbone):
    """A copy of a network in eval mode whose batch-norms are folded into the convolutions.

    Raises many kinds of errors where PyTorch cannot trace the network.
    """
    from torch.fx.experimental.optimization import fuse  # here: importing it takes long
    return fuse(backbone)


def cast(network, dtype):
    """Cast a network's weights, in place -> the network, in the layout that is quickest.

    Batch-norms stay in float32, as under autocast: float16 cannot hold every variance.
    """
    norms = [module for module in network.modules()
             if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    states = [copy.deepcopy(norm.state_dict()) for norm in norms]
    network.to(dtype=dtype, memory_format=torch.channels_last)
    for norm, state in zip(norms, states, strict=True):
        norm.float().load_state_dict(state)
    return network


def difference(features, expected):
    """How far features are from those expected, relative to these."""
    return (features.float() - expected).norm() / expected.norm()


# ---- The photos ----

class PhotoDataset(Dataset):
    """Reads the photos of a batch by as many threads as PyTorch computes in.

    On a CPU these would wait meanwhile: a large photo takes as long to decode as to encode.
    """

    def __getitems__(self, rows):
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            return list(threads.map(self.__getitem__, rows))


class Photos(PhotoDataset):
    """Photos as they are, or in one of their views.

    Item: row -> (row, pixels (3, S, S) uint8 or None, message of an error or None).
    transform: arguments of make_transform. What is random about a view follows from the view and
    the photo's name, whatever photos are beside it.
    """

    def __init__(self, paths, transform):
        self.paths, self.view = paths, transform.get('view', 0)
        self.pixels = make_pixels(transform['size'], self.view)
        self.least = least_decoded(transform['size'])

    def __getitem__(self, row):
        try:
            image = load_image(self.paths[row], self.least)
        except OSError as error:
            return row, None, str(error)
        if not self.view:    # nothing is random
            return row, self.pixels(image), None
        seed = [self.view, zlib.crc32(Path(self.paths[row]).name.encode())]
        return row, seeded(seed, self.pixels, image), None


class AugmentedPhotos(PhotoDataset):
    """Photos flipped and cropped at random, for fine-tuning. Items are those of Photos.

    What is random follows from `seed`, a list of ints, and the row. OSError names a photo that
    cannot be read.
    """

    def __init__(self, paths, transform, crop, seed):
        self.paths, self.seed = paths, seed
        self.pixels = make_pixels(transform['size'], random_view(), crop)
        self.least = least_decoded(transform['size'])

    def __getitem__(self, row):
        image = load_image(self.paths[row], self.least)
        return row, seeded([*self.seed, row], self.pixels, image), None


def photo_batches(paths, rows, transform, device, batch_size=BATCH_SIZE):
    """Read the photos `rows` of `paths` -> yields (rows, images (B, 3, S, S) or None, errors).

    rows: of those that could be read. images: float32, normalised. errors: [(row, message)] of the
    others.
    """
    batches = BatchSampler(rows, batch_size, drop_last=False)
    return load_batches(Photos(paths, transform), batches, batch_size, transform, device)


def load_batches(photos, batches, batch_size, transform, device):
    """Read batches of photos -> yields what `photo_batches` yields.

    photos: Photos or AugmentedPhotos. batches: lists of at most `batch_size` rows.
    The photos come from other processes as bytes, and become numbers on the device.
    """
    workers = loading_workers(device, len(batches), batch_size * 3 * transform['size'] ** 2)
    loader = DataLoader(photos, batch_sampler=batches, collate_fn=together, num_workers=workers,
                        prefetch_factor=1 if workers else None, pin_memory=pins_memory(device))
    mean, std = (moved(torch.tensor(transform[key], dtype=torch.float32), device)
                 for key in ('mean', 'std'))
    for rows, pixels, errors in loader:
        images = None
        if pixels is not None:
            images = normalize(pixels.to(device, non_blocking=pins_memory(device)), mean, std)
        yield rows, images, errors


def together(photos):
    """Items of Photos -> (rows, pixels (B, 3, S, S) or None, errors), of what could be read."""
    rows = [row for row, pixels, _ in photos if pixels is not None]
    pixels = [pixels for _, pixels, _ in photos if pixels is not None]
    errors = [(row, message) for row, _, message in photos if message is not None]
    return rows, default_collate(pixels) if pixels else None, errors
