"""Speed of the encoder, and of reading the photos that it takes."""

import itertools

import torch
from torch import nn

from captioning.benchmark.made_up import COCO_IMAGES
from captioning.benchmark.measure import seconds
from captioning.devices import computed_in, default_device, fast_dtype, is_cpu, moved
from captioning.encoding import BATCH_SIZE, MANY, FrozenBackbone, photo_batches
from captioning.photos import load_image
from captioning.tables import text_table
from captioning.transforms import least_decoded, make_transform, normalize
from model import EncoderCNN


def measure_encoder(data):
    """Images/s of the encoder in each precision and memory layout, and the share that reading
    photos takes.
    """
    device = default_device()
    rows, rates = [('precision', 'layout', 'images/s')], []
    layouts = (torch.contiguous_format, torch.channels_last)
    for dtype, layout in itertools.product((torch.float32, torch.bfloat16), layouts):
        rate = images_per_second(dtype, layout, device)
        rates.append(rate)
        rows.append((_short_name(dtype), _short_name(layout), f'{rate:.1f}'))
    dtype = fast_dtype(device)
    rates.append(frozen_images_per_second(dtype, device))
    rows.append((_short_name(dtype), 'prepared once', f'{rates[-1]:.1f}'))
    print(text_table(rows, indent=2))
    best, reading = max(rates), seconds_to_read(data)
    share = reading / (reading + 1 / best)
    print(f'  reading a photo takes {1000 * reading:.1f} ms, {share:.0%} of reading and encoding '
          f'it at {best:.1f} images/s')
    if not is_cpu(device):
        _print_resident(device)


def images_per_second(dtype, layout, device, batch_size=BATCH_SIZE):
    """Speed of the default backbone, computed in `dtype` with images in a memory layout."""
    backbone = EncoderCNN(4).backbone.to(device).to(memory_format=layout)
    images = torch.randn(batch_size, 3, 224, 224, device=device).to(memory_format=layout)

    @torch.no_grad()
    def forward():
        with computed_in(dtype, device):
            backbone(images)

    forward()
    return batch_size / seconds(forward, repeats=3)


def frozen_images_per_second(dtype, device, batch_size=BATCH_SIZE, repeats=3, images=MANY):
    """Speed of the default backbone as the features of so many images are computed with it, from
    pixels on the device.
    """
    encoder = EncoderCNN(4).to(device)
    frozen = FrozenBackbone(encoder.backbone, dtype, images)
    pixels = torch.randint(256, (batch_size, 3, 224, 224), dtype=torch.uint8, device=device)
    mean, std = (torch.tensor(encoder.transform[key], device=device) for key in ('mean', 'std'))

    def encode():
        frozen.encode(normalize(pixels, mean, std))

    encode()    # prepares it
    return batch_size / seconds(encode, repeats)


def photos_per_second(dtype, device, paths):
    """Speed from files to features, as they are computed for training, of the default encoder."""
    encoder = EncoderCNN(4).to(device)
    frozen = FrozenBackbone(encoder.backbone, dtype)
    frozen.encode(torch.zeros(1, 3, 224, 224, device=device))    # prepares it

    def encode_files():
        for _, images, _ in photo_batches(paths, range(len(paths)), encoder.transform, device):
            frozen.encode(images).cpu()

    return len(paths) / seconds(encode_files)


def seconds_to_read(data, count=128):
    """Seconds to read and transform a training photo."""
    paths = _training_photos(data, count)
    transform = make_transform(**EncoderCNN(4).transform)
    return seconds(lambda: _read(paths, transform)) / len(paths)


def seconds_per_image(data, dtype, count=64):
    """Seconds to get the feature of a photo: decoding, transform and encoder."""
    device = default_device()
    encoder = EncoderCNN(4).to(device)
    frozen = FrozenBackbone(encoder.backbone, dtype)
    transform = make_transform(**encoder.transform)
    paths = _training_photos(data, count)

    def encode_photos():
        batch = torch.stack(_read(paths, transform))
        frozen.encode(moved(batch, device))

    encode_photos()
    return seconds(encode_photos, repeats=2) / len(paths)


def _read(paths, transform):
    return [transform(load_image(path, least_decoded(224))) for path in paths]


def _training_photos(data, count):
    return sorted(data.image_folder('train').iterdir())[:count]


def _short_name(value):
    return str(value).removeprefix('torch.')


def _print_resident(device, batch_size=256):
    """COCO's images as uint8 in GPU memory, resized there: seconds for all of them.

    One batch is encoded again and again.
    """
    photos = torch.randint(256, (batch_size, 3, 480, 640), dtype=torch.uint8, device=device)
    encoder = EncoderCNN(4).to(device)
    frozen = FrozenBackbone(encoder.backbone, fast_dtype(device))
    mean, std = (torch.tensor(encoder.transform[key], device=device) for key in ('mean', 'std'))

    def resize_and_encode():
        resized = nn.functional.interpolate(photos.float(), (224, 224), mode='bilinear',
                                            antialias=True)
        frozen.encode(normalize(resized, mean, std))

    resize_and_encode()
    batch_seconds = seconds(resize_and_encode, repeats=10)
    print(f'  {COCO_IMAGES:,} images of 640x480 in GPU memory, resized there: '
          f'{batch_seconds * COCO_IMAGES / batch_size:.1f} s')
