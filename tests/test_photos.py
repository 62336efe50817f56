"""Photos as cameras and phones write them: large ones decoded near the size needed, HEIC."""

import subprocess
import sys

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image, ImageOps

from captioning.encoding import Photos
from captioning.photos import PHOTO_SUFFIXES, find_photos, is_heic, load_image
from captioning.transforms import make_pixels

TRANSFORM = {'size': 224, 'mean': [0] * 3, 'std': [1] * 3}
TURNED_LEFT = 6                         # Orientation: upright after a quarter turn to the right
ORIENTATION = 0x0112


@pytest.fixture(scope='module')
def scenery():
    """A smooth picture of 2,000 x 1,600 pixels."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (20, 25, 3), np.uint8))
    return coarse.resize((2000, 1600), Image.Resampling.BICUBIC)


@pytest.mark.parametrize(('least', 'size'), [
    (None, (2000, 1600)), (801, (2000, 1600)), (800, (1000, 800)), (448, (1000, 800)),
    (400, (500, 400)), (1, (250, 200))])
def test_a_large_jpeg_is_decoded_near_the_size_that_is_needed(scenery, tmp_path, least, size):
    scenery.save(tmp_path / 'large.jpg')
    assert load_image(tmp_path / 'large.jpg', least).size == size


@pytest.mark.parametrize('mode', ['L', 'CMYK'])
def test_jpegs_of_other_modes_too(scenery, tmp_path, mode):
    scenery.convert(mode).save(tmp_path / 'large.jpg')
    full = load_image(tmp_path / 'large.jpg')
    near = load_image(tmp_path / 'large.jpg', 448)
    assert (near.mode, near.size) == ('RGB', (1000, 800))
    assert distance(near, full) < 2


def test_a_photo_of_a_phone_is_upright(scenery, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED_LEFT
    scenery.save(tmp_path / 'phone.jpg', exif=exif)
    near = load_image(tmp_path / 'phone.jpg', 448)
    assert near.size == (800, 1000)
    assert distance(near, scenery.transpose(Image.Transpose.ROTATE_270)) < 2


def test_a_file_of_several_photos_gives_the_first(scenery, tmp_path):
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED_LEFT
    other = Image.new('RGB', (400, 300), 'red')
    scenery.save(tmp_path / 'phone.jpg', 'MPO', save_all=True, append_images=[other], exif=exif)
    near = load_image(tmp_path / 'phone.jpg', 448)
    assert near.size == (800, 1000)
    assert distance(near, scenery.transpose(Image.Transpose.ROTATE_270)) < 2


def test_other_formats_have_all_of_their_pixels(scenery, tmp_path):
    scenery.save(tmp_path / 'large.png')
    assert load_image(tmp_path / 'large.png', 448) == scenery


def test_a_large_jpeg_that_is_cut_short_is_named(scenery, tmp_path):
    scenery.save(tmp_path / 'whole.jpg')
    content = (tmp_path / 'whole.jpg').read_bytes()
    (tmp_path / 'cut.jpg').write_bytes(content[:len(content) // 2])
    with pytest.raises(OSError, match='cut.jpg'):
        load_image(tmp_path / 'cut.jpg', 448)


@pytest.mark.parametrize(('size', 'reduced'), [((895, 1200), False), ((896, 1200), True)])
def test_the_encoder_sees_at_least_twice_the_pixels_that_it_takes(tmp_path, scenery, size, reduced):
    """Of smaller photos it sees what it has always seen, so features of them stay valid."""
    path = tmp_path / 'photo.jpg'
    scenery.resize(size).save(path)
    _, seen, _ = Photos([path], TRANSFORM)[0]
    full, near = (make_pixels(224)(load_image(path, least)) for least in (None, 448))
    assert seen.equal(near) and seen.equal(full) != reduced
    assert (seen.float() - full.float()).abs().mean() < 1.5


# ---- HEIC ----

def test_photos_of_iphones_are_read(scenery, tmp_path):
    pytest.importorskip('pillow_heif')
    smaller = scenery.resize((640, 480))
    smaller.save(tmp_path / 'IMG_0001.HEIC', 'HEIF', quality=90)
    image = load_image(tmp_path / 'IMG_0001.HEIC')
    assert image.mode == 'RGB' and image.size == (640, 480)
    assert distance(image, smaller) < 3


def test_a_folder_of_an_iphone_is_not_empty(tmp_path):
    for name in ('IMG_0001.HEIC', 'IMG_0002.heif', 'IMG_0003.txt'):
        (tmp_path / name).touch()
    assert [path[-8:] for path in find_photos([str(tmp_path)])] == ['001.HEIC', '002.heif']
    assert {'.jpg', '.png', '.webp'} < {*PHOTO_SUFFIXES}


def test_a_folder_in_the_place_of_a_photo_is_named(tmp_path):
    (tmp_path / 'IMG_0001.HEIC').mkdir()
    with pytest.raises(OSError, match='IMG_0001.HEIC cannot be read'):
        load_image(tmp_path / 'IMG_0001.HEIC')
    assert not is_heic(tmp_path / 'IMG_0001.HEIC')


WITHOUT_THE_PACKAGE = '''
import sys
sys.modules['pillow_heif'] = None       # importing it fails
from captioning.photos import load_image
try:
    load_image(sys.argv[1])
except OSError as error:
    print(error)
'''


@pytest.mark.parametrize('name', ['IMG_0001.HEIC', 'renamed.jpg'])
def test_where_heic_cannot_be_read_it_is_said_what_to_install(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b'\0\0\0\x24ftypheic' + b'\0' * 100)
    done = subprocess.run([sys.executable, '-c', WITHOUT_THE_PACKAGE, path], cwd=REPOSITORY,
                          capture_output=True, text=True, check=True)
    assert name in done.stdout and 'pip install pillow-heif' in done.stdout


def distance(one, other):
    """Mean difference of two pictures, of 255, where neither has fine detail."""
    small = [ImageOps.fit(image, (50, 50), Image.Resampling.BOX) for image in (one, other)]
    pixels = [np.asarray(image, np.float32) for image in small]
    return np.abs(pixels[0] - pixels[1]).mean()
