"""A small data set in COCO's layout, drawn here, and a small model: no test downloads anything."""

import functools
import json
import os
from pathlib import Path

import pytest
import small_networks
import torch
from PIL import Image, ImageDraw
from torchvision.models import resnet, resnet18
from training_helpers import tiny_settings

from captioning import devices, files
from captioning.encoding import FrozenBackbone
from model import EncoderCNN

os.environ['CAPTIONING_DEVICE'] = 'cpu'    # on a machine with a GPU too; tests/devices is for that

REPOSITORY = Path(__file__).resolve().parent.parent
COLOURS = ['red', 'green', 'blue', 'yellow', 'white', 'black']
PATTERNS = ['A {0} square.', 'There is a {0} square in the middle.', 'a square , {0}',
            'One small {0} square on grey .', 'The square is {0}']


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """The tests of the notebooks come first: one of several processes gets them all, and executes
    the notebooks once. Then come others that take a minute: at the end one process would wait."""
    first = {'test_notebooks': 0, 'test_pretended_gpu': 1}
    items.sort(key=lambda item: first.get(item.path.stem, 2))


@pytest.fixture(scope='module')
def cpu_in_float32():
    """For tests that expect a CPU's float32, also where it has bfloat16 and would choose it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, '_cpu_has', lambda instructions: False)
        yield


def captions_of(colour):
    return [pattern.format(colour) for pattern in PATTERNS]


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def draw_square(path, colour):
    image = Image.new('RGB', (40, 30), 'grey')
    ImageDraw.Draw(image).rectangle((12, 7, 28, 23), fill=colour)
    image.save(path)


def make_dataset(root, counts=None):
    """Coloured squares, five captions each; -> root, which holds cocoapi/."""
    next_id = 1
    for split, count in (counts or {'train': 12, 'val': 4, 'test': 3}).items():
        folder = root / 'cocoapi' / 'images' / f'{split}2014'
        folder.mkdir(parents=True)
        images, annotations = [], []
        for number in range(count):
            colour = COLOURS[number % len(COLOURS)]
            name = f'{split}_{number:03}.jpg'
            draw_square(folder / name, colour)
            images.append({'id': next_id, 'file_name': name, 'width': 40, 'height': 30})
            annotations += [{'id': 1000 * next_id + number, 'image_id': next_id, 'caption': caption}
                            for number, caption in enumerate(captions_of(colour))]
            next_id += 1
        name = {'test': 'image_info_test2014'}.get(split, f'captions_{split}2014')
        content = {'info': {}, 'licenses': [], 'images': images}
        if split != 'test':
            content['annotations'] = annotations
        write_json(root / 'cocoapi' / 'annotations' / f'{name}.json', content)
    return root


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Folder of a fresh small data set. The working folder is another, empty one."""
    monkeypatch.delenv('COCOAPI_LOC', raising=False)
    work = tmp_path / 'work'
    work.mkdir()
    monkeypatch.chdir(work)
    return make_dataset(tmp_path / 'squares')


@pytest.fixture(scope='session')
def small_weights(tmp_path_factory):
    """File with the weights of a random ResNet-18, which is quicker than the default."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp('weights') / 'resnet18.pt'
    torch.save(resnet18().state_dict(), path)
    return str(path)


def driver_of(root, before=''):
    """A script that trains as `python -m scripts.train`, with runs and caches under `root`.

    before: lines that run first.
    """
    return f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(REPOSITORY)!r})
from captioning import files
from captioning.encoding import FrozenBackbone
from model import EncoderCNN
files.RUNS, files.CACHE = Path({str(root)!r}) / 'runs', Path({str(root)!r}) / 'cache'
import scripts.train
{before}
scripts.run_main(scripts.train.main)
"""


def default_encodings(errors, root):
    """What `python -X warn_default_encoding` printed of text that the repository in `root` reads or
    writes in the code page of the system."""
    warned = [line for line in errors.splitlines() if 'EncodingWarning' in line]
    rooms = tuple(str(root / room) for room in ('captioning', 'scripts', 'model.py'))
    return [line for line in warned if line.startswith(rooms)]


@pytest.fixture
def isolated_root(tmp_path, monkeypatch):
    """Runs and caches go to a temporary folder instead of the repository's -> that folder."""
    root = tmp_path / 'root'
    monkeypatch.setattr(files, 'RUNS', root / 'runs')
    monkeypatch.setattr(files, 'CACHE', root / 'cache')
    return root


@pytest.fixture(scope='session')
def shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp('cache')


@pytest.fixture(scope='session')
def shallow_weights(tmp_path_factory):
    """As small_weights, of a ResNet-18 that `shallow_networks` makes."""
    path = tmp_path_factory.mktemp('weights') / 'shallow.pt'
    torch.save(small_networks.small(resnet.BasicBlock, [2] * 4, None, False).state_dict(), path)
    return str(path)


@pytest.fixture
def shallow_networks(monkeypatch):
    """A ResNet-18 has few blocks and channels meanwhile, in this process."""
    monkeypatch.setattr(resnet, '_resnet', small_networks.small)


@pytest.fixture
def settings(dataset, isolated_root, shared_cache, shallow_networks, shallow_weights, monkeypatch):
    """settings(epochs=3, ...) -> settings of a tiny run on `dataset`.

    Tests share the cache, so that the features of the same photos are computed once.
    """
    monkeypatch.setattr(files, 'CACHE', shared_cache)
    return functools.partial(tiny_settings, dataset, shallow_weights)


@pytest.fixture
def few_photos(tmp_path):
    """Folder of a smaller data set, as settings have it: fine-tuning reads each photo again."""
    return str(make_dataset(tmp_path / 'few', {'train': 6, 'val': 2, 'test': 1}))


# ---- Features ----

@pytest.fixture
def encoder():
    torch.manual_seed(5)
    return EncoderCNN(4, backbone='resnet18', weights=None, image_size=64).eval()


@pytest.fixture
def paths(tmp_path):
    """Nine photos."""
    folder = tmp_path / 'images'
    folder.mkdir()
    paths = [folder / f'{number}.png' for number in range(9)]
    for number, path in enumerate(paths):
        draw_square(path, COLOURS[number % 6])
    return paths


@pytest.fixture
def encoded(monkeypatch):
    """encoded() -> how many images each call of the encoder had since it was last asked."""
    counts, encode = [], FrozenBackbone.encode

    def counting(frozen, images):
        counts.append(len(images))
        return encode(frozen, images)

    monkeypatch.setattr(FrozenBackbone, 'encode', counting)
    return lambda: [counts.pop(0) for _ in range(len(counts))]
