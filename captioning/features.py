"""The encoder's output for every image of a split, computed once and kept on disk.

    features, unreadable, images = split_features(encoder, data, 'train')   # (N, C) or (N, P, C)

The encoder is frozen, so an image always gives the same feature. The key of the cache covers
whatever changes it: the encoder's answer to a fixed probe image, its weights, the transform, the
precision, and, by the manifest, names and sizes of the images.

The mean of the places of a grid is what a pool gives: where features of places are kept, pooled
ones come from those, and the photos are not read again.

Axes: N images, C channels, P places.
"""

import contextlib
import copy
import hashlib
import json
from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn
from torchvision.ops import Permute
from tqdm import tqdm

from captioning import augmentations
from captioning.checkpoint import weights_hash
from captioning.devices import fast_dtype, is_cpu
from captioning.encoding import BATCH_SIZE, FrozenBackbone, photo_batches
from captioning.feature_cache import FeatureCache
from captioning.files import text_hash
from captioning.photos import is_reduced, load_image
from captioning.transforms import least_decoded

# Features of changed photos were kept before augmentations.py was part of the key: with this text
# of it they are still valid.
FIRST_AUGMENTATIONS = '9ee69d741023ce79'
MEAN_BATCH = 256    # images whose features of places are read at a time


def split_features(encoder, data, split, limit=None, view=0):
    """Features of the images of a split, or of its first `limit`, in file order.

    data: a CaptionData. view: of the images as they are (0) or changed, see make_transform. Returns
    (features, unreadable, entries): features (N, C), of grids (N, P, C), float16, memory-mapped;
    the row of an unreadable image is NaN. unreadable: list of those rows, which are named in a
    printed message. entries: those of the annotation file. An interrupted extraction continues
    where it was, and a changed image or one more does not compute the others again.
    """
    images = data.images(split)
    name = f'{split}2014'
    if limit is not None and limit < len(images):
        images, name = images[:limit], f'{name}-{limit}'
    paths = data.image_paths(split)[:limit]
    features, unreadable = cached_features(encoder, paths, data.cache_folder, name, view=view)
    return features, unreadable, images


def cached_features(encoder, paths, folder, name, batch_size=BATCH_SIZE, view=0):
    """Features of the images `paths`, from the cache under `folder` or computed now.

    Returns (features, unreadable), as in split_features. name: of the list of images.
    """
    paths, dtype = [Path(path) for path in paths], fast_dtype(next(encoder.parameters()).device)

    least = least_decoded(encoder.transform['size'])

    def is_outdated(path):    # once, large photos were encoded from all of their pixels
        return is_reduced(path, least)

    def read(cache):    # not where an image can be read by now that once could not be
        found = cache.read()
        if found and all(_problem(paths[row], least) for row in found[1]):
            return found
        return None

    def cache_of(backbone):
        key = cache_key(backbone, encoder.transform, dtype, view)
        return FeatureCache(Path(folder) / f'features-{key}', name, paths, is_outdated)

    on_cpu = _on_cpu(encoder)    # copied once: keys are asked for on a CPU
    _check_forward(on_cpu)
    cache = cache_of(on_cpu.backbone)
    cached = read(cache)
    if cached is None:
        places = without_pool(on_cpu.backbone, encoder.transform['size'])
        of_places = places and read(cache_of(places))
        if of_places:
            cached = _pool(cache, *of_places)
        else:
            cached = _encode(cache, paths, encoder, dtype, view, batch_size)
    _tell_unreadable(name, paths, cached[1], least)
    return cached


def _encode(cache, paths, encoder, dtype, view, batch_size):
    """Fill a cache with the encoder's features of photos -> what `cached_features` gives."""
    frozen = FrozenBackbone(encoder.backbone, dtype, images=len(paths))
    device = next(encoder.parameters()).device
    probe = _probe_image(encoder.transform['size']).to(device)
    feature_shape = frozen.encode(probe).shape[1:]    # (C,) or (P, C)
    progress = tqdm(total=len(paths), desc=f'features of {cache.name}', unit=' images')

    def encode_rows(rows):
        progress.update(len(paths) - len(rows))    # computed by an earlier run
        transform = {**encoder.transform, 'view': view}
        for read, images, errors in photo_batches(paths, rows, transform, device, batch_size):
            encoded = None
            if images is not None:
                encoded = frozen.encode(images).to(torch.float16).cpu().numpy()
            yield read, encoded, [row for row, _ in errors]
            progress.update(len(read) + len(errors))

    with progress:
        return cache.compute(encode_rows, feature_shape)


def _pool(cache, of_places, unreadable):
    """Fill a cache with the means of features of places (N, P, C) -> as `_encode`."""
    def mean_rows(rows):
        readable = sorted(set(rows).difference(unreadable))
        batches = [readable[start:start + MEAN_BATCH]
                   for start in range(0, len(readable), MEAN_BATCH)]
        for batch in tqdm(batches, desc=f'means of {cache.name}', delay=2):
            grids = torch.from_numpy(of_places[batch])
            yield batch, grids.float().mean(dim=1).half().numpy(), []
        yield [], None, unreadable

    return cache.compute(mean_rows, of_places.shape[2:])


@torch.no_grad()
def without_pool(backbone, size):
    """A backbone that ends with a pool -> the same with a grid, (B, P, C); of others None.

    size: of the images that it takes, in pixels.
    """
    grid = nn.Sequential(nn.Flatten(2), Permute([0, 2, 1]))
    probe = _probe_image(size).to(next(backbone.parameters()).device)
    with contextlib.suppress(Exception):    # an edited one may be anything
        *stages, (name, _) = backbone.named_children()
        places = nn.Sequential(OrderedDict([*stages, (name, grid)])).eval()
        if _alike(places(probe).mean(dim=1), backbone(probe)):
            return places
    return None


def _tell_unreadable(name, paths, unreadable, least):
    if unreadable:
        names = ', '.join(str(paths[row]) for row in unreadable[:5])
        more = ', ...' if len(unreadable) > 5 else ''
        print(f'{name}: {len(unreadable)} of {len(paths)} images are missing or damaged and left '
              f'out: {names}{more}. The first: {_problem(paths[unreadable[0]], least)}')


def _problem(path, least=None):
    """Why `load_image` cannot read an image; '' where it can."""
    try:
        load_image(path, least)
    except OSError as error:
        return str(error)
    return ''


def cache_key(backbone, transform, dtype, view=0):
    """What the features depend on besides the images, as 12 digits.

    An edit of EncoderCNN is noticed by the backbone's answer to a probe image. That is computed on
    a CPU: the key is the same on every device.
    """
    backbone = _on_cpu(backbone)
    probe = _probe_image(transform['size'])
    answer = FrozenBackbone(backbone, torch.float32).encode(probe).flatten()
    projection = torch.randn(len(answer), 8, generator=torch.Generator().manual_seed(0))
    mixed = answer @ projection / len(answer) ** 0.5
    # So coarse that the number of threads makes no difference.
    rounded = [f'{value:.2e}' for value in mixed.tolist()]
    parts = [rounded, list(answer.shape), weights_hash(backbone), transform, view == 1, str(dtype)]
    if view > 1:    # views from 2 on were added later: keys of before stay as they were
        parts.append(view)
    if view:
        text = text_hash(Path(augmentations.__file__).read_text('utf-8'))
        parts += [text] if text != FIRST_AUGMENTATIONS else []
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _on_cpu(network):
    """The network, or a copy where it is on another device."""
    if is_cpu(next(network.parameters()).device):
        return network
    return copy.deepcopy(network).to('cpu')


def _probe_image(size):
    """A fixed image (1, 3, size, size), smooth and different in each channel."""
    x = torch.linspace(-2, 2, size)
    channels = torch.outer(x, x), torch.outer(x.sin(), x.cos()), torch.outer(x.exp(), -x)
    return torch.stack(channels)[None]


@torch.no_grad()
def _check_forward(encoder):
    """ValueError if an encoder does more than `embed(backbone(images))`, which training computes.
    """
    images = _probe_image(encoder.transform['size'])
    training = encoder.training
    encoder.eval()
    computed, expected = encoder(images), encoder.embed(encoder.backbone(images))
    encoder.train(training)
    if not _alike(computed, expected):
        raise ValueError(
            'EncoderCNN.forward does something else than embed(backbone(images)). Training reads '
            'what the backbone gave once, so the change would go unnoticed: move it into '
            '`backbone` or `embed`.')


def _alike(features, expected):
    same_shape = features.shape == expected.shape
    return same_shape and torch.allclose(expected, features, rtol=1e-3, atol=1e-3)
