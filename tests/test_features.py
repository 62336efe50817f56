"""The feature cache: computed once, resumed after a kill, damaged files noticed, unreadable images left out."""

import contextlib
import itertools

import numpy as np
import pytest
import torch
from conftest import COLOURS, draw_square
from PIL import Image

import scripts.features
from model import EncoderCNN
from scripts.features import cache_key, cached_features, encode, fast_dtype, make_transform


@pytest.fixture
def encoder():
    torch.manual_seed(5)
    return EncoderCNN(4, backbone='resnet18', weights=None).eval()


@pytest.fixture
def paths(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    paths = [folder / f'{number}.png' for number in range(9)]
    for number, path in enumerate(paths):
        draw_square(path, COLOURS[number % 6])
    return paths


@pytest.fixture
def encoded(monkeypatch):
    """How many images went through the encoder, probes aside."""
    counts, real = [], scripts.features.encode

    def counting(backbone, images, dtype):
        counts.append(len(images))
        return real(backbone, images, dtype)

    monkeypatch.setattr(scripts.features, 'encode', counting)
    return lambda: [counts.pop(0) for _ in range(len(counts))]


def get(encoder, paths, tmp_path, **options):
    return cached_features(encoder, paths, tmp_path / 'cache', 'train2014', **{'batch_size': 2, **options})


def test_rows_are_the_encoders_output_in_order(encoder, paths, tmp_path):
    features, unreadable = get(encoder, paths, tmp_path)
    assert features.shape == (9, 512) and features.dtype == np.float16 and not unreadable
    transform = make_transform(**encoder.transform)
    for path, row in zip(paths, features, strict=True):
        alone = encode(encoder.backbone, transform(scripts.features.load_image(path))[None], fast_dtype('cpu'))[0]
        assert np.allclose(row, alone.numpy(), rtol=0.02, atol=0.02)
    assert not np.allclose(features[0], features[1], atol=0.02)


@pytest.mark.parametrize(('name', 'places', 'channels'), [('vgg16', 49, 512), ('inception_v3', 64, 2048),
                                                          ('convnext_tiny', 49, 768)])
def test_grids_of_any_backbone_are_kept(paths, tmp_path, encoded, name, places, channels):
    encoder = EncoderCNN(4, name, None, grid=True)
    for module in encoder.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():    # random weights with the statistics of data, so that float16 can hold what they give
        encoder.backbone.train()(torch.randn(4, 3, *[encoder.transform['size']] * 2))
    encoder.eval()
    features, _ = get(encoder, paths[:3], tmp_path)
    assert features.shape == (3, places, channels) and features.dtype == np.float16
    transform = make_transform(**encoder.transform)
    alone = encode(encoder.backbone, transform(scripts.features.load_image(paths[1]))[None], fast_dtype('cpu'))[0]
    assert np.allclose(features[1], alone.numpy(), rtol=0.05, atol=0.05 * float(alone.abs().max()))
    encoded()
    again, _ = get(encoder, paths[:3], tmp_path)
    assert encoded() == [1] and np.array_equal(features, again)


def test_second_call_computes_nothing(encoder, paths, tmp_path, encoded):
    first, _ = get(encoder, paths, tmp_path)
    encoded()
    second, _ = get(encoder, paths, tmp_path)
    assert encoded() == [1]    # the probe of the key
    assert isinstance(second, np.memmap) and np.array_equal(first, second)


def test_an_interrupted_extraction_continues(encoder, paths, tmp_path, monkeypatch, encoded):
    whole, _ = get(encoder, paths, tmp_path / 'other')
    encoded()
    real, opened = scripts.features.load_image, []

    def killed_at_seven(path):
        opened.append(path)
        if len(opened) == 7:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(scripts.features, 'load_image', killed_at_seven)
    with pytest.raises(KeyboardInterrupt):
        get(encoder, paths, tmp_path)
    monkeypatch.setattr(scripts.features, 'load_image', real)
    encoded()
    features, _ = get(encoder, paths, tmp_path)
    assert sum(encoded()) == 2 + 3    # two probes and the images that were not done
    assert np.array_equal(features, whole)
    assert not list((tmp_path / 'cache').rglob('*.part*')) and not list((tmp_path / 'cache').rglob('*.tmp'))


def test_one_changed_and_one_new_image_compute_two(encoder, paths, tmp_path, encoded):
    before = np.array(get(encoder, paths[:8], tmp_path)[0])
    draw_square(paths[3], 'white')
    paths[3].write_bytes(paths[3].read_bytes() + b' ')
    encoded()
    after, _ = get(encoder, paths, tmp_path)
    assert sum(encoded()) == 2 + 2
    same = [0, 1, 2, 4, 5, 6, 7]
    assert np.array_equal(after[same], before[same]) and not np.allclose(after[3], before[3], atol=0.02)
    assert len(list((tmp_path / 'cache').rglob('*.npy'))) == 1    # the old list's file is gone


def test_a_flipped_bit_is_noticed_and_mended(encoder, paths, tmp_path, capsys):
    whole, _ = get(encoder, paths, tmp_path)
    whole = np.array(whole)
    file, = (tmp_path / 'cache').rglob('*.npy')
    content = bytearray(file.read_bytes())
    content[-1000] ^= 4
    file.write_bytes(content)
    again, _ = get(encoder, paths, tmp_path)
    assert np.array_equal(again, whole) and 'checksum' in capsys.readouterr().out


def test_a_cut_file_is_computed_again(encoder, paths, tmp_path):
    whole = np.array(get(encoder, paths, tmp_path)[0])
    file, = (tmp_path / 'cache').rglob('*.npy')
    file.write_bytes(file.read_bytes()[:500])
    assert np.array_equal(get(encoder, paths, tmp_path)[0], whole)


def test_unreadable_images_are_listed_and_named_and_the_rest_computed(encoder, paths, tmp_path, capsys):
    paths[2].write_bytes(paths[2].read_bytes()[:60])
    paths[5].unlink()
    for _ in range(2):    # computed, then from the cache
        features, unreadable = get(encoder, paths, tmp_path)
        assert unreadable == [2, 5] and np.isnan(features[unreadable]).all()
        assert not np.isnan(np.delete(features, unreadable, axis=0)).any()
        told = capsys.readouterr().out
        assert '2 of 9 images' in told and '2.png' in told and '5.png' in told
    draw_square(paths[5], 'red')
    assert get(encoder, paths, tmp_path)[1] == [2]


@pytest.mark.parametrize('stopped', [False, True])
def test_another_process_on_the_same_images_does_no_harm(encoder, paths, tmp_path, monkeypatch, stopped):
    whole = np.array(get(encoder, paths, tmp_path / 'other')[0])
    real, opened = scripts.features.load_image, []

    def interrupted(path):
        raise KeyboardInterrupt

    def other_process_meanwhile(path):
        opened.append(path)
        if len(opened) == 5:
            with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
                patch.setattr(scripts.features, 'load_image', interrupted if stopped else real)
                patch.setattr(scripts.features.os, 'getpid', lambda: 4_000_000)
                get(encoder, paths, tmp_path)
        return real(path)

    monkeypatch.setattr(scripts.features, 'load_image', other_process_meanwhile)
    assert np.array_equal(get(encoder, paths, tmp_path)[0], whole)
    monkeypatch.setattr(scripts.features, 'load_image', real)
    assert np.array_equal(get(encoder, paths, tmp_path)[0], whole)


@pytest.mark.parametrize('content', ['', '{}', '[]', '{"images": []', '{"images": []}'])
def test_a_damaged_manifest_is_computed_again(encoder, paths, tmp_path, content):
    whole = np.array(get(encoder, paths, tmp_path)[0])
    manifest, = (tmp_path / 'cache').rglob('*.json')
    manifest.write_text(content)
    assert np.array_equal(get(encoder, paths, tmp_path)[0], whole)


def test_equal_names_in_two_folders_are_two_images(encoder, tmp_path):
    paths = [tmp_path / 'images' / folder / '1.bmp' for folder in 'ab']
    for path, colour in zip(paths, ('red', 'white'), strict=True):
        path.parent.mkdir(parents=True)
        draw_square(path, colour)
    before = np.array(get(encoder, paths, tmp_path)[0])
    draw_square(tmp_path / 'images' / '2.bmp', 'blue')
    after, _ = get(encoder, [*paths, tmp_path / 'images' / '2.bmp'], tmp_path)
    assert np.array_equal(before, after[:2]) and not np.allclose(before[0], before[1], atol=0.02)


def test_views_are_the_photo_flipped_and_cropped_the_same_whatever_photos_are_beside_it(encoder, paths, tmp_path):
    for path, colour in zip(paths, COLOURS, strict=False):
        Image.linear_gradient('L').rotate(len(colour)).convert('RGB').save(path)    # left and right differ
    seen = [get(encoder, paths, tmp_path, view=view)[0] for view in range(4)]
    for one, other in itertools.combinations(seen, 2):
        assert not np.allclose(one[0], other[0], atol=0.01)
    Image.open(paths[0]).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / 'flipped.png')
    again, _ = get(encoder, [tmp_path / 'flipped.png'], tmp_path / 'flipped')
    assert np.allclose(again[0], seen[1][0], atol=0.01)
    alone, _ = get(encoder, paths[1:2], tmp_path / 'alone', view=2)
    assert np.allclose(alone[0], seen[2][1], atol=0.01)


def test_an_edit_of_forward_that_training_would_not_see_is_refused(encoder, paths, tmp_path):
    forward = encoder.forward
    encoder.forward = lambda images: forward(images) * 2
    with pytest.raises(ValueError, match='EncoderCNN.forward'):
        get(encoder, paths, tmp_path)


def test_the_key_notices_weights_transform_precision_and_edits(encoder):
    key = cache_key(encoder, torch.float32)
    assert key == cache_key(encoder, torch.float32)
    others = {cache_key(encoder, torch.bfloat16), cache_key(encoder, torch.float32, view=1),
              cache_key(encoder, torch.float32, view=2), cache_key(encoder, torch.float32, view=3)}
    encoder.transform['size'] = 192
    others.add(cache_key(encoder, torch.float32))
    encoder.transform['size'] = 224
    grid = EncoderCNN(4, backbone='resnet18', weights=None, grid=True).eval()
    grid.load_state_dict(encoder.state_dict())
    others.add(cache_key(grid, torch.float32))
    forward = encoder.backbone.forward
    encoder.backbone.forward = lambda images: forward(images) * 1.05    # an edit that leaves the weights alone
    others.add(cache_key(encoder, torch.float32))
    encoder.backbone.forward = forward
    encoder.backbone.layer1[0].conv1.weight.data[0, 0, 0, 0] += 1e-4
    others.add(cache_key(encoder, torch.float32))
    assert len(others | {key}) == 9


def test_the_key_is_the_same_with_another_number_of_threads(encoder):
    before, keys = torch.get_num_threads(), set()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        keys.add(cache_key(encoder, torch.float32))
    torch.set_num_threads(before)
    assert len(keys) == 1
