"""How much the doctor measures: what takes a few minutes, on a CPU or on an accelerator.

    size = size_for(device, quick=False)
"""

from typing import NamedTuple

from captioning.benchmark.made_up import COCO_CAPTIONS, COCO_IMAGES, COCO_WORDS
from captioning.devices import is_cpu
from captioning.encoding import MANY

SMALL_FEATURES = 512    # of a ResNet-18
SMALL_MODEL = {'backbone': 'resnet18', 'weights': None, 'embed_size': 16, 'hidden_size': 16}


class Size(NamedTuple):
    """side: of the matrices; copied: bytes; calls: small operations in a row.

    encoded: images at once, as if of encoded_in_all; photos: read from files; decoded: images
    captioned at once, 0 for as many as usual. captions, images, words, channels: of the made-up
    data; grid_images: those that have a grid. batches: captions a step. steps, warm_up: of
    training; graph_steps: as CUDA graphs. repeats: of the rest. model: settings of the model that
    differ from the defaults.
    """

    side: int
    copied: int
    calls: int
    encoded: int
    encoded_in_all: int
    photos: int
    decoded: int
    captions: int
    images: int
    words: int
    channels: int
    grid_images: int
    batches: tuple
    steps: int
    graph_steps: int
    warm_up: int
    repeats: int
    model: dict


CPU = Size(side=1024, copied=2 ** 28, calls=20_000, encoded=8, encoded_in_all=MANY, photos=40,
           decoded=128, captions=COCO_CAPTIONS, images=COCO_IMAGES, words=COCO_WORDS, channels=2048,
           grid_images=600, batches=(128, 512), steps=3, graph_steps=0, warm_up=1, repeats=3,
           model={})
ACCELERATOR = Size(side=8192, copied=2 ** 31, calls=20_000, encoded=256, encoded_in_all=MANY,
                   photos=4_000, decoded=0, captions=COCO_CAPTIONS, images=COCO_IMAGES,
                   words=COCO_WORDS, channels=2048, grid_images=4_000, batches=(128, 512),
                   steps=30, graph_steps=800, warm_up=8, repeats=20, model={})
QUICK = Size(side=128, copied=2 ** 20, calls=100, encoded=2, encoded_in_all=2, photos=5, decoded=5,
             captions=400, images=80, words=50, channels=SMALL_FEATURES, grid_images=40,
             batches=(8, 16), steps=2, graph_steps=2, warm_up=1, repeats=1, model=SMALL_MODEL)


def size_for(device, quick=False):
    if quick:
        return QUICK
    return CPU if is_cpu(device) else ACCELERATOR
