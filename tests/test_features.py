"""Features of photos: what the encoder gives for each, in its views, and the key of their cache."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COLOURS, draw_square
from PIL import Image
from torchvision import transforms

from captioning import augmentations, feature_cache, features
from captioning.devices import fast_dtype
from captioning.encoding import FrozenBackbone
from captioning.features import FIRST_AUGMENTATIONS, cached_features
from captioning.files import text_hash
from captioning.photos import load_image
from captioning.transforms import make_transform, seeded
from model import EncoderCNN


def cache_key(encoder, dtype, view=0):
    return features.cache_key(encoder.backbone, encoder.transform, dtype, view)


def features_of(encoder, paths, folder, view=0):
    return cached_features(encoder, paths, folder, 'train2014', batch_size=2, view=view)


def encoded_alone(encoder, path):
    image = make_transform(**encoder.transform)(load_image(path))
    frozen = FrozenBackbone(encoder.backbone, fast_dtype('cpu'))
    return frozen.encode(image[None])[0].numpy()


def test_rows_are_the_encoders_output_in_order(encoder, paths, tmp_path):
    features, unreadable = features_of(encoder, paths, tmp_path)
    assert features.shape == (9, 512) and features.dtype == np.float16 and not unreadable
    for path, row in zip(paths, features, strict=True):
        assert np.allclose(row, encoded_alone(encoder, path), rtol=0.02, atol=0.02)
    assert not np.allclose(features[0], features[1], atol=0.02)


@pytest.mark.parametrize(('name', 'places', 'channels'), [
    ('squeezenet1_1', 169, 512), ('inception_v3', 64, 2048), ('convnext_tiny', 49, 768)])
def test_grids_of_any_backbone_are_kept(paths, tmp_path, encoded, name, places, channels):
    encoder = EncoderCNN(4, name, None, grid=True)
    for module in encoder.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    # Random weights with the statistics of data, so that float16 can hold what they give.
    with torch.no_grad():
        encoder.backbone.train()(torch.randn(4, 3, *[encoder.transform['size']] * 2))
    encoder.eval()
    features, _ = features_of(encoder, paths[:3], tmp_path)
    assert features.shape == (3, places, channels) and features.dtype == np.float16
    alone = encoded_alone(encoder, paths[1])
    assert np.allclose(features[1], alone, rtol=0.05, atol=0.05 * np.abs(alone).max())
    encoded()
    again, _ = features_of(encoder, paths[:3], tmp_path)
    assert encoded() == [1] and np.array_equal(features, again)


def test_equal_names_in_two_folders_are_two_images(encoder, tmp_path):
    folder = tmp_path / 'images'
    paths = [folder / 'a' / '1.bmp', folder / 'b' / '1.bmp', folder / '2.bmp']
    for path, colour in zip(paths, ('red', 'white', 'blue'), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_square(path, colour)
    before = np.array(features_of(encoder, paths[:2], tmp_path)[0])
    after, _ = features_of(encoder, paths, tmp_path)
    assert np.array_equal(before, after[:2])
    assert not np.allclose(before[0], before[1], atol=0.02)


# ---- Views ----

def draw_gradients(paths):
    """Photos whose left and right differ."""
    for path, colour in zip(paths, COLOURS, strict=False):
        Image.linear_gradient('L').rotate(len(colour)).convert('RGB').save(path)


def test_views_are_the_photo_flipped_and_cropped_whatever_photos_are_beside_it(
        encoder, paths, tmp_path):
    paths = paths[:4]
    draw_gradients(paths)
    views = [features_of(encoder, paths, tmp_path, view)[0] for view in range(4)]
    for one, other in itertools.combinations(views, 2):
        assert not np.allclose(one[0], other[0], atol=0.01)
    flipped = Image.open(paths[0]).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    flipped.save(tmp_path / 'flipped.png')
    again, _ = features_of(encoder, [tmp_path / 'flipped.png'], tmp_path / 'flipped')
    assert np.allclose(again[0], views[1][0], atol=0.01)
    alone, _ = features_of(encoder, paths[1:2], tmp_path / 'alone', view=2)
    assert np.allclose(alone[0], views[2][1], atol=0.01)


def test_kept_features_of_views_are_used_only_where_today_makes_the_same_views(encoder, paths):
    """Features were kept before augmentations.py counted, and FIRST_AUGMENTATIONS allows them.

    Made other views, and it must be left as it is; made the same ones (a comment was edited), and
    it is to become the hash of the new text, so that kept features stay valid.
    """
    draw_gradients(paths)
    image, size = load_image(paths[0]), encoder.transform['size']
    resized = transforms.Resize((size, size))
    flipped = [resized, transforms.RandomHorizontalFlip(1)]
    cropped = [transforms.RandomResizedCrop(size, (0.6, 1)), transforms.RandomHorizontalFlip(0.5)]
    normalize = transforms.Normalize(encoder.transform['mean'], encoder.transform['std'])
    same_views = True
    for view, changes in enumerate((flipped, cropped, cropped), start=1):
        of_before = transforms.Compose([*changes, transforms.ToTensor(), normalize])
        of_today = make_transform(**encoder.transform, view=view)
        for seed in range(3):
            before, today = (seeded([view, seed], transform, image)
                             for transform in (of_before, of_today))
            same_views = same_views and torch.equal(before, today)
    text = Path(augmentations.__file__).read_text()
    allowed = text_hash(text) == FIRST_AUGMENTATIONS
    assert allowed == same_views, (
        f'set FIRST_AUGMENTATIONS = {text_hash(text)!r}: the views are those of before'
        if same_views else 'give FIRST_AUGMENTATIONS its value of before: the views are others')


# ---- Caches of before ----

def test_of_features_that_were_kept_before_only_those_of_large_photos_are_computed_again(
        encoder, paths, tmp_path, encoded):
    """Once a large JPEG was decoded in full, and manifests had no times."""
    large = tmp_path / 'images' / 'large.jpg'
    Image.linear_gradient('L').resize((1000, 1000)).convert('RGB').save(large)
    before = np.array(features_of(encoder, [*paths[:3], large], tmp_path)[0])
    manifest, = tmp_path.rglob('train2014-*.json')
    content = json.loads(manifest.read_text())
    del content['contents']
    manifest.write_text(json.dumps(content))
    encoded()
    after, _ = features_of(encoder, [*paths[:3], large], tmp_path)
    assert sum(encoded()) == 3 + 1    # three probes, and the large one
    assert np.array_equal(before[:3], after[:3]) and np.allclose(before, after, atol=0.01)
    features_of(encoder, [*paths[:3], large], tmp_path)
    assert sum(encoded()) == 1    # the probe of the key


# ---- Pooled features from those of places ----

@pytest.fixture
def grid_encoder(encoder):
    grid = EncoderCNN(4, backbone='resnet18', weights=None, image_size=64, grid=True).eval()
    grid.load_state_dict(encoder.state_dict())
    return grid


@pytest.mark.parametrize('view', [0, 1, 2])
def test_what_is_encoded_for_attention_is_not_encoded_again_for_the_plain_model(
        encoder, grid_encoder, paths, tmp_path, monkeypatch, view):
    draw_gradients(paths)
    paths[3].write_bytes(b'damaged')
    alone = np.array(features_of(encoder, paths, tmp_path / 'alone', view)[0])
    grids, _ = features_of(grid_encoder, paths, tmp_path, view)
    opened = []
    monkeypatch.setattr('captioning.encoding.load_image', opened.append)
    feature_cache._checksums.clear()    # as in another process
    monkeypatch.setattr(feature_cache, '_crc32', opened.append)
    pooled, unreadable = features_of(encoder, paths, tmp_path, view)
    assert not opened and unreadable == [3] and np.isnan(pooled[3]).all()
    assert pooled.shape == (9, 512) and pooled.dtype == np.float16
    rows = np.setdiff1d(range(9), unreadable)
    means = grids[rows].astype(np.float32).mean(axis=1)
    assert np.allclose(pooled[rows], means, rtol=1e-3, atol=1e-5)
    assert np.allclose(pooled[rows], alone[rows], rtol=0.02, atol=0.02)
    again, _ = features_of(encoder, paths, tmp_path, view)
    assert np.array_equal(again, pooled, equal_nan=True)


def test_for_the_plain_model_alone_no_features_of_places_are_kept(encoder, paths, tmp_path):
    features_of(encoder, paths, tmp_path / 'kept')
    kept = sum(file.stat().st_size for file in (tmp_path / 'kept').rglob('*.npy'))
    assert kept < 1.1 * 9 * 512 * 2 + 200


def test_features_of_places_of_another_image_list_are_not_taken(
        encoder, grid_encoder, paths, tmp_path):
    features_of(grid_encoder, paths[:5], tmp_path)
    alone = np.array(features_of(encoder, paths, tmp_path / 'alone')[0])
    assert np.array_equal(features_of(encoder, paths, tmp_path)[0], alone)


@pytest.mark.parametrize('edit', ['pool', 'forward'])
def test_an_edited_pool_is_no_mean_of_places(encoder, grid_encoder, paths, tmp_path, edit):
    features_of(grid_encoder, paths, tmp_path)
    if edit == 'pool':
        encoder.backbone[-1][0] = torch.nn.AdaptiveMaxPool2d(1)
    else:
        forward = encoder.backbone.forward
        encoder.backbone.forward = lambda images: 2 * forward(images)
    features, _ = features_of(encoder, paths, tmp_path)
    assert np.allclose(features[1], encoded_alone(encoder, paths[1]), rtol=0.02, atol=0.02)


# ---- The key of the cache ----

def test_an_edit_of_forward_that_training_would_not_see_is_refused(encoder, paths, tmp_path):
    forward = encoder.forward
    encoder.forward = lambda images: forward(images) * 2
    with pytest.raises(ValueError, match='EncoderCNN.forward'):
        features_of(encoder, paths, tmp_path)


def test_the_key_notices_weights_transform_precision_and_edits(encoder):
    key = cache_key(encoder, torch.float32)
    assert key == cache_key(encoder, torch.float32)
    others = {cache_key(encoder, torch.bfloat16)}
    others |= {cache_key(encoder, torch.float32, view) for view in (1, 2, 3)}
    encoder.transform['size'] = 192
    others.add(cache_key(encoder, torch.float32))
    encoder.transform['size'] = 64
    grid = EncoderCNN(4, backbone='resnet18', weights=None, image_size=64, grid=True).eval()
    grid.load_state_dict(encoder.state_dict())
    others.add(cache_key(grid, torch.float32))
    forward = encoder.backbone.forward    # an edit of it leaves the weights alone
    encoder.backbone.forward = lambda images: forward(images) * 1.05
    others.add(cache_key(encoder, torch.float32))
    encoder.backbone.forward = forward
    encoder.backbone.layer1[0].conv1.weight.data[0, 0, 0, 0] += 1e-4
    others.add(cache_key(encoder, torch.float32))
    assert len(others | {key}) == 9


def test_an_edit_of_the_augmentations_gives_views_another_key(encoder, tmp_path, monkeypatch):
    def keys():
        return [cache_key(encoder, torch.float32, view) for view in range(3)]

    before = keys()
    edited = tmp_path / 'augmentations.py'
    edited.write_text(Path(augmentations.__file__).read_text() + '# an edit\n')
    monkeypatch.setattr(augmentations, '__file__', str(edited))
    after = keys()
    assert [one == other for one, other in zip(before, after, strict=True)] == [
        True, False, False]


def test_the_key_is_the_same_with_another_number_of_threads(encoder):
    before, keys = torch.get_num_threads(), set()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        keys.add(cache_key(encoder, torch.float32))
    torch.set_num_threads(before)
    assert len(keys) == 1
