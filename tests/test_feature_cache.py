"""The cache of features: computed once, resumed after a kill, and damage is noticed."""

import contextlib
import mmap
import os

import numpy as np
import pytest
from conftest import draw_square

from captioning import encoding, feature_cache
from captioning.feature_cache import FeatureCache
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

    def killed_at_seven(path, least):
        opened.append(path)
        if len(opened) == 7:
            raise KeyboardInterrupt
        return load_image(path, least)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(encoding, 'load_image', killed_at_seven)
        features_of(encoder, paths, tmp_path)
    encoded()
    features, _ = features_of(encoder, paths, tmp_path)
    assert sum(encoded()) == 3 + 3    # three probes and the images that were not done
    assert np.array_equal(features, expected)
    leftovers = [path for path in (tmp_path / 'cache').rglob('*') if path.is_file()]
    assert {path.suffix for path in leftovers} == {'.npy', '.json'} and len(leftovers) == 2


def test_one_changed_and_one_new_image_compute_two(encoder, paths, tmp_path, encoded):
    before = np.array(features_of(encoder, paths[:8], tmp_path)[0])
    draw_square(paths[3], 'white')
    paths[3].write_bytes(paths[3].read_bytes() + b' ')
    encoded()
    after, _ = features_of(encoder, paths, tmp_path)
    assert sum(encoded()) == 3 + 2
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


# ---- The array ----

def made_up_rows(todo, count=3000):
    """Features as an encoder would give them, two rows at a time; row 1 cannot be read."""
    for first in range(0, len(todo), 2):
        rows = [row for row in todo[first:first + 2] if row != 1]
        features = np.array([[row + 1] * count for row in rows], np.float16).reshape(-1, count)
        yield rows, features, [row for row in todo[first:first + 2] if row == 1]


def test_each_row_is_written_once(paths, tmp_path, monkeypatch):
    written, new_array = [], feature_cache._new_array

    class Counting:
        def __init__(self, array):
            self.array = array

        def __setitem__(self, rows, values):
            written.extend(np.atleast_1d(np.array(rows, int)).tolist())
            self.array[rows] = values

        def flush(self):
            self.array.flush()

    monkeypatch.setattr(feature_cache, '_new_array', lambda *args: Counting(new_array(*args)))
    for count in (8, 9):    # all new, and one new beside eight that are copied
        written.clear()
        features, unreadable = FeatureCache(tmp_path, 'train2014', paths[:count]).compute(
            made_up_rows, (3000,))
        assert sorted(written) == list(range(count))
        assert unreadable == [1] and np.isnan(features[1]).all()
        assert np.delete(features[:, 0], 1).tolist() == [1, 3, 4, 5, 6, 7, 8, 9][:count - 1]


def interrupted(todo):
    yield from list(made_up_rows(todo))[:3]
    raise KeyboardInterrupt


@pytest.mark.parametrize('damage', ['none', 'page', 'nan', 'infinite'])
def test_a_row_that_was_written_in_part_is_computed_again(paths, tmp_path, damage):
    cache, asked = FeatureCache(tmp_path, 'train2014', paths), []
    with pytest.raises(KeyboardInterrupt):
        cache.compute(interrupted, (3000,))
    part, = tmp_path.glob('*.part.npy')
    if damage == 'page':    # which a power cut kept from the disk
        content = bytearray(part.read_bytes())
        content[4 * mmap.PAGESIZE:5 * mmap.PAGESIZE] = bytes(mmap.PAGESIZE)    # in rows 2 and 3
        part.write_bytes(content)
    elif damage != 'none':    # as earlier versions wrote it
        array = np.load(part, mmap_mode='r+')
        array[3, 2000] = {'nan': np.nan, 'infinite': np.inf}[damage]
        array[6:] = np.nan
        array.flush()

    def encode_rows(todo):
        asked.extend(todo)
        yield from made_up_rows(todo)

    features, _ = cache.compute(encode_rows, (3000,))
    computed_again = {'none': [], 'page': [2, 3], 'nan': [3], 'infinite': [3]}[damage]
    assert asked == [1, *computed_again, 6, 7, 8]
    assert np.array_equal(np.delete(features, 1, axis=0),
                          np.array([[row + 1] * 3000 for row in (0, *range(2, 9))], np.float16))


def test_features_that_overflow_float16_are_refused(paths, tmp_path):
    def encode_rows(todo):
        yield todo[:1], np.full((1, 4), np.inf, np.float16), []

    cache = FeatureCache(tmp_path, 'train2014', paths)
    with pytest.raises(RuntimeError, match='overflow float16'):
        cache.compute(encode_rows, (4,))
    assert cache.read() is None


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
        assert sum(encoded()) == 3 + 3    # three probes and the images


# ---- Two processes ----

@pytest.mark.parametrize('stopped', [False, True])
def test_another_process_on_the_same_images_does_no_harm(
        encoder, paths, tmp_path, monkeypatch, stopped):
    expected = np.array(features_of(encoder, paths, tmp_path / 'other')[0])
    load_image, opened = encoding.load_image, []

    def interrupted(path, least):
        raise KeyboardInterrupt

    def other_process_meanwhile(path, least):
        opened.append(path)
        if len(opened) == 5:
            with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
                patch.setattr(encoding, 'load_image', interrupted if stopped else load_image)
                patch.setattr(os, 'getpid', lambda: 4_000_000)
                features_of(encoder, paths, tmp_path)
        return load_image(path, least)

    with monkeypatch.context() as patch:
        patch.setattr(encoding, 'load_image', other_process_meanwhile)
        assert np.array_equal(features_of(encoder, paths, tmp_path)[0], expected)
    assert len(opened) == 9
    assert np.array_equal(features_of(encoder, paths, tmp_path)[0], expected)
