"""Write scenes and their captions as a data set in the layout of COCO 2014.

    from captioning.scenes import draw_scenes
    draw_scenes('data/scenes', train=2000, val=400, test=400, seed=0)
"""

import functools
import json
import tempfile
from pathlib import Path
from random import Random

from tqdm import tqdm
from tqdm.contrib.concurrent import process_map

from captioning.files import read_json
from captioning.scenes.captions import CAPTIONS, WORDS, make_captions
from captioning.scenes.composition import make_scene
from captioning.scenes.drawing import draw_scene

VERSION = 1    # raised when pictures or captions change: older data is not taken for the same then


def draw_scenes(output='data/scenes', train=2000, val=400, test=400, seed=0, size=256,
                workers=None):
    """Draw the data set into `<output>/cocoapi`, unless it is there already -> Path(output).

    train, val, test: numbers of images. size: their side in pixels. workers: processes (None: one
    a core), which do not change a byte. Raises ValueError for impossible numbers, and if other data
    is in the folder: nothing is replaced.
    """
    settings = dict(version=VERSION, train=train, val=val, test=test, seed=seed, size=size)
    if min(train, val, test) < 1 or size < 32:
        raise ValueError(f'cannot draw {settings}: expected an image or more in each split, '
                         'and a size of 32 or more')
    output = Path(output)
    final = output / 'cocoapi'
    if final.exists():
        _require_same(final, settings)
        return output
    output.mkdir(parents=True, exist_ok=True)
    # Drawn aside and renamed, so that what is half drawn is never taken for all of it.
    with tempfile.TemporaryDirectory(prefix='.drawing-', dir=output) as aside:
        folder = Path(aside, 'cocoapi')
        _write_splits(folder, settings, workers)
        folder.rename(final)
    return output


def _require_same(folder, settings):
    """Raise ValueError unless the data in `folder` was drawn with these settings."""
    file = folder / 'annotations' / 'captions_test2014.json'
    info = read_json(file).get('info', {}) if file.exists() else {}
    if info.get('scenes') != settings:
        raise ValueError(f'{folder} holds other data than {settings}: choose another --output '
                         'or remove that folder')


def _write_splits(folder, settings, workers):
    """Draw all images and write the annotation files."""
    annotations = folder / 'annotations'
    annotations.mkdir(parents=True)
    first_id = 1
    for split in ('train', 'val', 'test'):
        images = folder / 'images' / f'{split}2014'
        images.mkdir(parents=True)
        content = _draw_split(images, split, first_id, settings, workers)
        _write(annotations / f'captions_{split}2014.json', content)
        first_id += settings[split]
    without_captions = {key: content[key] for key in content if key != 'annotations'}
    _write(annotations / 'image_info_test2014.json', without_captions)


def _write(path, content):
    path.write_text(json.dumps(content), 'utf-8')


def _draw_split(folder, split, first_id, settings, workers):
    """Draw the images of a split into `folder` -> content of its annotation file."""
    count, size = settings[split], settings['size']
    ids = range(first_id, first_id + count)    # counted on from split to split
    names = [f'COCO_{split}2014_{image_id:012d}.jpg' for image_id in ids]
    draw = functools.partial(_draw_image, folder, split, settings['seed'], size)
    drawn = process_map(draw, names, range(count), max_workers=workers, chunksize=1,
                        tqdm_class=tqdm, desc=split)
    images, annotations = [], []
    for image_id, name, (scene, captions) in zip(ids, names, drawn, strict=True):
        images.append(dict(id=image_id, file_name=name, width=size, height=size, scene=scene))
        for caption_id, caption in enumerate(captions, CAPTIONS * image_id):
            annotations.append(dict(id=caption_id, image_id=image_id, caption=caption))
    info = {'scenes': settings, 'words': WORDS}
    return dict(info=info, licenses=[], images=images, annotations=annotations)


def _draw_image(folder, split, seed, size, name, index):
    """Draw one image into its file -> (scene, captions).

    Its random numbers depend on nothing but its place in the data set, so that it does not matter
    which process draws it. At the top of the module, where other processes can import it.
    """
    scene = make_scene(seed, split, index)
    image = draw_scene(scene, size, Random(f'{seed} {split} {index} picture'))
    image.save(folder / name, quality=90)
    return scene, make_captions(scene, Random(f'{seed} {split} {index} captions'))
