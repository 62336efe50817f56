"""The cache of features: computed once, resumed after a kill, and damage is noticed."""

import contextlib
import os

import numpy as np
import pytest
from conftest import draw_square

from captioning import encoding
from captioning.features import cached_features


def features_of(encoder, paths, folder):
    return cached_features(encoder, paths, folder / 'cache', 'train2014', batch_size=2)


def cache_file(folder, suffix):
    file, = (folder / 'cache').rglob(f'*{suffix}')
    return file


def test_the_second_call_computes_nothing(encoder, paths, tmp_path, encoded):
    first, _ = features_of(encoder, paths, tmp_path)
    encoded()
    second, _ = features_of(encoder, paths, tmp_path)
    assert encoded() == [1]    # the probe of the key
    assert isinstance(second, np.memmap) and np.array_equal(first, second)


def test_an_interrupted_extraction_continues(encoder, paths, tmp_path, monkeypatch, encoded):
    expected, _ = features_of(encoder, paths, tmp_path / 'other')
    encoded()
    load_image, opened = encoding.load_image, []

    def killed_at_seven(path):
        opened.append(path)
        if len(opened) == 7:
            raise KeyboardInterrupt
        return load_image(path)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encoding, 'load_image', killed_at_seven)
        features_of(encoder, paths, tmp_path)
    encoded()
    features, _ = features_of(encoder, paths, tmp_path)
    assert sum(encoded()) == 2 + 3    # two probes and the images that were not done
    assert np.array_equal(features, expected)
    leftovers = [path for path in (tmp_path / 'cache').rglob('*') if path.is_file()]
    assert {path.suffix for path in leftovers} == {'.npy', '.json'} and len(leftovers) == 2


def test_one_changed_and_one_new_image_compute_two(encoder, paths, tmp_path, encoded):
    before = np.array(features_of(encoder, paths[:8], tmp_path)[0])
    draw_square(paths[3], 'white')
    paths[3].write_bytes(paths[3].read_bytes() + b' ')
    encoded()
    after, _ = features_of(encoder, paths, tmp_path)
    assert sum(encoded()) == 2 + 2
    same = [0, 1, 2, 4, 5, 6, 7]
    assert np.array_equal(after[same], before[same])
    assert not np.allclose(after[3], before[3], atol=0.02)
    cache_file(tmp_path, '.npy')    # there is one: the old list's file is gone


def test_unreadable_images_are_named_and_the_rest_computed(encoder, paths, tmp_path, capsys):
    paths[2].write_bytes(paths[2].read_bytes()[:60])
    paths[5].unlink()
    for _ in range(2):    # computed, then from the cache
        features, unreadable = features_of(encoder, paths, tmp_path)
        assert unreadable == [2, 5] and np.isnan(features[unreadable]).all()
        assert not np.isnan(np.delete(features, unreadable, axis=0)).any()
        told = capsys.readouterr().out
        assert '2 of 9 images' in told and '2.png' in told and '5.png' in told
    draw_square(paths[5], 'red')
    assert features_of(encoder, paths, tmp_path)[1] == [2]


# ---- Damage ----

def test_a_flipped_bit_is_noticed_and_mended(encoder, paths, tmp_path, capsys):
    expected = np.array(features_of(encoder, paths, tmp_path)[0])
    file = cache_file(tmp_path, '.npy')
    content = bytearray(file.read_bytes())
    content[-1000] ^= 4
    file.write_bytes(content)
    again, _ = features_of(encoder, paths, tmp_path)
    assert np.array_equal(again, expected) and 'checksum' in capsys.readouterr().out


def test_a_cut_file_is_computed_again(encoder, paths, tmp_path):
    expected = np.array(features_of(encoder, paths, tmp_path)[0])
    file = cache_file(tmp_path, '.npy')
    file.write_bytes(file.read_bytes()[:500])
    assert np.array_equal(features_of(encoder, paths, tmp_path)[0], expected)


def test_a_damaged_manifest_is_computed_again(encoder, paths, tmp_path, encoded):
    expected = np.array(features_of(encoder, paths[:3], tmp_path)[0])
    for content in ('', '{}', '[]', '{"images": []', '{"images": []}'):
        cache_file(tmp_path, '.json').write_text(content)
        encoded()
        assert np.array_equal(features_of(encoder, paths[:3], tmp_path)[0], expected)
        assert sum(encoded()) == 2 + 3    # two probes and the images


# ---- Two processes ----

@pytest.mark.parametrize('stopped', [False, True])
def test_another_process_on_the_same_images_does_no_harm(
        encoder, paths, tmp_path, monkeypatch, stopped):
    expected = np.array(features_of(encoder, paths, tmp_path / 'other')[0])
    load_image, opened = encoding.load_image, []

    def interrupted(path):
        raise KeyboardInterrupt

    def other_process_meanwhile(path):
        opened.append(path)
        if len(opened) == 5:
            with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
                patch.setattr(encoding, 'load_image', interrupted if stopped else load_image)
                patch.setattr(os, 'getpid', lambda: 4_000_000)
                features_of(encoder, paths, tmp_path)
        return load_image(path)

    with monkeypatch.context() as patch:
        patch.setattr(encoding, 'load_image', other_process_meanwhile)
        assert np.array_equal(features_of(encoder, paths, tmp_path)[0], expected)
    assert len(opened) == 9
    assert np.array_equal(features_of(encoder, paths, tmp_path)[0], expected)
