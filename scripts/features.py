"""The encoder's output for every image of a split, computed once and kept on disk.

    features, unreadable = cached_features(encoder, paths, folder, 'train2014')     # (N, C) or (N, P, C) float16
    python -m scripts.features --split train val test

The encoder is frozen, so an image always gives the same feature. The key of a cache covers whatever changes it: the
encoder's answer to a fixed probe image, its weights, the transform, the precision, and names and sizes of the images.
"""

import argparse
import contextlib
import hashlib
import json
import os
import time
import zlib
from pathlib import Path

import numpy as np
import torch
from torchvision import transforms
from tqdm import tqdm

from data_loader import annotation_file, dataset_cache, image_folder, load_image, resolve_cocoapi_loc
from model import EncoderCNN
from scripts import file_hash, run_main, write_aside
from scripts.annotations import read_annotations


def make_transform(size, mean, std, view=0, crop=0.6):
    """PIL image -> (3, size, size) float32: the whole image, squashed, because captions tell of the whole image.

    view: 0 as it is, 1 with left and right exchanged, from 2 flipped by chance and cropped to `crop` of it or more.
    """
    whole = transforms.Resize((size, size)) if view < 2 or crop == 1 else transforms.RandomResizedCrop(
        size, (crop, 1), antialias=True)
    flips = [transforms.RandomHorizontalFlip(1 if view == 1 else 0.5)] if view else []
    return transforms.Compose([whole, *flips, transforms.ToTensor(), transforms.Normalize(mean, std)])


def by_chance(seed, transform, image):
    """What a transform gives for an image where its chance comes from `seed`, a list of ints."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(np.random.default_rng(seed).integers(2 ** 62)))
        return transform(image)


def default_device():
    """cuda, else mps, else cpu."""
    if torch.cuda.is_available():
        return torch.device('cuda')
    return torch.device('mps' if torch.backends.mps.is_available() else 'cpu')


def fast_dtype(device):
    """bfloat16 where the device computes with it directly, which is two to three times faster; else float32."""
    if torch.device(device).type == 'cuda':
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    processor = getattr(torch.cpu, 'get_capabilities', dict)() if torch.device(device).type == 'cpu' else {}
    return torch.bfloat16 if processor.get('amx_bf16') or processor.get('avx512_bf16') else torch.float32


def weights_hash(module):
    """First 16 digits of the SHA-256 over names and values: tells one set of weights from another."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def encode(backbone, images, dtype):
    """Features of a batch of images (B, 3, H, W), or of what later stages read: (B, C) float32, computed in `dtype`."""
    backbone, images = (what.to(memory_format=torch.channels_last) for what in (backbone, images))
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        return backbone(images).float()


def cache_key(encoder, dtype, stages=None, view=0):
    """What the features depend on besides the images, as 12 digits. Notices an edit of EncoderCNN by a probe image.

    Raises ValueError if the encoder does more than `embed(backbone(images))`, which is what training computes.
    """
    backbone, device, transform = _first(encoder, stages), next(encoder.backbone.parameters()).device, encoder.transform
    x = torch.linspace(-2, 2, transform['size'], device=device)
    probe = torch.stack([torch.outer(x, x), torch.outer(x.sin(), x.cos()), torch.outer(x.exp(), -x)])    # (3, S, S)
    answer = encode(backbone, probe[None], torch.float32)
    if stages is None:
        _check_forward(encoder, probe[None], answer)
    answer = answer.flatten().cpu()
    mixed = answer @ torch.randn(len(answer), 8, generator=torch.Generator().manual_seed(0)) / len(answer) ** 0.5
    rounded = [f'{value:.2e}' for value in mixed.tolist()]    # so coarse that the number of threads makes no difference
    parts = [rounded, list(answer.shape), weights_hash(backbone), transform, view == 1, str(dtype)]
    parts += [view] if view > 1 else []    # whose caches are younger than the others'
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def _first(encoder, stages):
    return encoder.backbone if stages is None else encoder.backbone[:stages]


@torch.no_grad()
def _check_forward(encoder, images, features):
    training = encoder.training
    encoder.eval()
    expected, found = encoder.embed(features), encoder(images)
    encoder.train(training)
    if expected.shape != found.shape or not torch.allclose(expected, found, rtol=1e-3, atol=1e-3):
        raise ValueError('EncoderCNN.forward does something else than embed(backbone(images)). Training reads what the '
                         'backbone gave once, so the change would go unnoticed: move it into `backbone` or `embed`.')


class _Images(torch.utils.data.Dataset):
    def __init__(self, paths, rows, transform):
        self.paths, self.rows, self.view = paths, rows, transform.get('view', 0)
        self.transform = make_transform(**transform)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        row = self.rows[index]
        try:
            image = load_image(self.paths[row])
            seed = [self.view, zlib.crc32(Path(self.paths[row]).name.encode())]    # whatever images are beside it
            return row, by_chance(seed, self.transform, image) if self.view > 1 else self.transform(image), None
        except OSError as error:
            return row, None, str(error)


class AugmentedPhotos(torch.utils.data.Dataset):
    """Photos flipped and cropped at random, for fine-tuning. Item: row -> (row, image (3, S, S)), where chance comes
    from `seed`, a list of ints, and the row. OSError names a photo that cannot be read."""

    def __init__(self, paths, transform, crop, seed):
        self.paths, self.seed, self.transform = paths, seed, make_transform(**transform, view=2, crop=crop)

    def __getitem__(self, row):
        return row, by_chance([*self.seed, row], self.transform, load_image(self.paths[row]))


def loading_workers(device):
    """Processes that load photos: a CPU that encodes them has none to spare."""
    return min(8, os.cpu_count() or 1) if torch.device(device).type == 'cuda' else 0


def image_batches(paths, rows, transform, device, batch_size=32):
    """Yield (rows, images (B, 3, S, S) or None, errors [(row, message)]) over the images `rows` of `paths`."""
    loader = torch.utils.data.DataLoader(_Images(paths, rows, transform), batch_size, collate_fn=list,
                                         num_workers=loading_workers(device))
    for batch in loader:
        good = [(row, image) for row, image, error in batch if error is None]
        images = torch.stack([image for _, image in good]).to(device) if good else None
        yield [row for row, _ in good], images, [(row, error) for row, _, error in batch if error is not None]


def _listing(paths):
    """Names and sizes in bytes (-1: not there) of the images: changes when an image is replaced."""
    folder = os.path.commonpath([path.parent for path in paths]) if paths else ''
    return [[os.path.relpath(path, folder), path.stat().st_size if path.exists() else -1] for path in paths]


def _kept_rows(folder, name):
    """What earlier extractions of `name`, whole or interrupted, have computed: {(image name, size): feature}."""
    rows = {}
    for manifest_file in folder.glob(f'{name}-????????.json'):
        manifest = _read_manifest(manifest_file)
        for array_file in folder.glob(f'{manifest_file.stem}.*npy') if manifest else ():
            with contextlib.suppress(OSError, ValueError):    # gone, or killed before it had a header
                if array_file.stem == manifest_file.stem and file_hash(array_file) != manifest['sha256']:
                    print(f'{array_file} is damaged (its checksum differs): its images are computed again')
                    continue
                array = np.load(array_file, mmap_mode='r')
                for row, value in enumerate(array):
                    if value.any() and not np.isnan(value).any():    # NaN or, after a power cut, zeros: not computed
                        rows[tuple(manifest['images'][row])] = value
    return rows


def cached_features(encoder, paths, folder, name, batch_size=32, stages=None, view=0):
    """Features of the images `paths`, from the cache under `folder` or computed now -> (features, unreadable).

    features: (N, C), of grids (N, P, C), float16, memory-mapped; the row of an unreadable image is NaN. unreadable:
    list of those rows, which are named in a printed message. An interrupted extraction continues where it was, and a
    changed image or one more does not compute the others again. stages: only the backbone's first ones; features are
    then what they give. view: of the images as they are, flipped, or cropped by chance, as make_transform has it.
    """
    transform = {**encoder.transform, 'view': view}
    device = next(encoder.parameters()).device
    dtype = fast_dtype(device)
    folder = Path(folder) / f'features-{cache_key(encoder, dtype, stages, view)}'
    folder.mkdir(parents=True, exist_ok=True)
    paths = [Path(path) for path in paths]
    listing = _listing(paths)
    # The list of images is part of the file names, so that an array never meets the list of another.
    stem = folder / f'{name}-{hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:8]}'
    whole, part, manifest_file = (stem.with_name(stem.name + suffix) for suffix in (
        '.npy', f'.{os.getpid()}-{time.monotonic_ns()}.part.npy', '.json'))    # others may compute the same
    manifest = _read_manifest(manifest_file)
    if manifest and whole.exists() and manifest['sha256'] == file_hash(whole):
        _tell_unreadable(name, paths, manifest['unreadable'])
        return np.load(whole, mmap_mode='c'), manifest['unreadable']
    kept = _kept_rows(folder, name)
    todo = [row for row, entry in enumerate(listing) if tuple(entry) not in kept]
    size = transform['size']
    backbone = _first(encoder, stages)
    shape = encode(backbone, torch.zeros(1, 3, size, size, device=device), dtype).shape[1:]    # (C,)
    _write_manifest(manifest_file, listing)
    array = np.lib.format.open_memmap(part, 'w+', np.float16, (len(paths), *shape))
    _reserve(part)
    for row, entry in enumerate(listing):
        array[row] = kept.get(tuple(entry), np.nan)    # NaN: not computed yet
    array.flush()
    unreadable = []
    with tqdm(total=len(paths), initial=len(paths) - len(todo), desc=f'features of {name}', unit=' images') as bar:
        for rows, images, errors in image_batches(paths, todo, transform, device, batch_size):
            if rows:
                array[rows] = encode(backbone, images, dtype).cpu().numpy()
            unreadable += [row for row, _ in errors]
            bar.update(len(rows) + len(errors))
    array.flush()
    if [row for row, value in enumerate(array) if np.isnan(value).any()] != sorted(unreadable):
        raise RuntimeError(f'{part}: some features are not a number. Does the encoder overflow float16?')
    with contextlib.suppress(FileNotFoundError):    # another process was first, and has tidied up
        _write_manifest(manifest_file, listing, unreadable, file_hash(part))
        os.replace(part, whole)
    for old in folder.glob(f'{name}-????????.*'):
        if old not in (whole, manifest_file):
            old.unlink(missing_ok=True)
    _tell_unreadable(name, paths, unreadable)
    return np.load(whole, mmap_mode='c'), unreadable    # a change stays in memory, which is as torch wants it


def _reserve(path):
    """Take the space of a mapped file now: a full disk would be found by a signal that kills, not by an error."""
    try:
        if hasattr(os, 'posix_fallocate'):
            with open(path, 'r+b') as file:
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
    except OSError as error:
        size = os.path.getsize(path) / 1e6
        path.unlink()
        raise OSError(f'{path.parent} has no room for {size:,.0f} MB of features ({error.strerror}).') from None


def _read_manifest(path):
    """What _write_manifest wrote, or None where it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        manifest = json.loads(path.read_text())
        if isinstance(manifest, dict) and {'images', 'unreadable', 'sha256'} <= manifest.keys():
            return manifest


def _write_manifest(path, listing, unreadable=(), sha256=None):
    with write_aside(path) as aside:
        aside.write_text(json.dumps({'images': listing, 'unreadable': list(unreadable), 'sha256': sha256}))


def _tell_unreadable(name, paths, unreadable):
    if unreadable:
        names = ', '.join(str(paths[row]) for row in unreadable[:5]) + (', ...' if len(unreadable) > 5 else '')
        print(f'{name}: {len(unreadable)} of {len(paths)} images are missing or damaged and left out: {names}')


def split_features(encoder, cocoapi_loc, split, limit=None, stages=None, view=0):
    """Features of the images of a split, or of its first `limit`, in file order -> (features, unreadable, entries).

    stages and view: as in cached_features.
    """
    images = read_annotations(annotation_file(cocoapi_loc, split), need_captions=False)['images']
    name = f'{split}2014' if limit is None or limit >= len(images) else f'{split}2014-{limit}'
    images = images[:limit]
    paths = [image_folder(cocoapi_loc, split) / entry['file_name'] for entry in images]
    return *cached_features(encoder, paths, dataset_cache(cocoapi_loc), name, stages=stages, view=view), images


def main():
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--cocoapi-loc', help='folder that holds cocoapi/ (default: as the notebooks)')
    parser.add_argument('--split', nargs='+', default=['train', 'val', 'test'], choices=['train', 'val', 'test'])
    args = parser.parse_args()
    loc = resolve_cocoapi_loc(args.cocoapi_loc)
    encoder = EncoderCNN(1).to(default_device())
    for split in args.split:
        features, _, _ = split_features(encoder, loc, split)
        print(f'{split}: {features.shape} {features.dtype}')


if __name__ == '__main__':
    run_main(main)
