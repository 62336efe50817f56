"""The cache of features: computed once, resumed after a kill, and damage is noticed."""

import contextlib
import json
import mmap
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_square

from captioning import encoding, feature_cache
from captioning.feature_cache import FeatureCache
from captioning.features import cached_features

MAPS = Path('/proc/self/maps')    # files that this process has mapped into memory


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


def test_an_image_that_can_be_read_by_now_is_no_longer_left_out(encoder, paths, tmp_path, encoded):
    """Its size and time may be the same: the disk was away, a package was missing."""
    sound, status = paths[2].read_bytes(), paths[2].stat()
    paths[2].write_bytes(b'x' * len(sound))
    os.utime(paths[2], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert features_of(encoder, paths, tmp_path)[1] == [2]
    encoded()
    paths[2].write_bytes(sound)
    os.utime(paths[2], ns=(status.st_atime_ns, status.st_mtime_ns))
    features, unreadable = features_of(encoder, paths, tmp_path)
    assert not unreadable and np.isfinite(features).all()
    assert sum(encoded()) == 3 + 1    # two probes for the key, one for the shape, and the image


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


@pytest.mark.skipif(not MAPS.exists(), reason='needs /proc')
def test_no_array_is_open_where_it_is_renamed_or_deleted(paths, tmp_path, monkeypatch):
    """Windows would refuse."""
    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path, 'train2014', paths[:5]).compute(interrupted, (3000,))
    replace, mapped = os.replace, []

    def noting_replace(old, new):
        if new.suffix == '.npy':
            mapped.append(str(tmp_path) in MAPS.read_text())
        replace(old, new)

    monkeypatch.setattr(os, 'replace', noting_replace)
    features, _ = FeatureCache(tmp_path, 'train2014', paths).compute(made_up_rows, (3000,))
    assert len(features) == 9 and mapped and not any(mapped)


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


# ---- Photos that change ----

def replace_in_place(path, seconds=5):
    """Another photo under the same name, of the same size in bytes, some seconds later."""
    size, changed = path.stat().st_size, path.stat().st_mtime
    draw_square(path, 'black')
    path.write_bytes(path.read_bytes().ljust(size, b' '))
    assert path.stat().st_size == size
    os.utime(path, (changed + seconds, changed + seconds))


@pytest.fixture
def same_size(paths):
    """The photos, filled up to one size; decoders do not read what comes after the photo."""
    for path in paths:
        path.write_bytes(path.read_bytes().ljust(400, b' '))
    return paths


def touch_all(paths, seconds):
    for path in paths:
        changed = path.stat().st_mtime + seconds
        os.utime(path, (changed, changed))


def without_contents(folder):
    """Make the manifest one of an earlier version."""
    file = cache_file(folder, '.json')
    manifest = json.loads(file.read_text())
    manifest.pop('contents', None)
    file.write_text(json.dumps(manifest))


@pytest.mark.parametrize('earlier_version', [False, True])
def test_a_photo_replaced_by_one_of_the_same_size_is_encoded_again(
        encoder, same_size, tmp_path, encoded, earlier_version):
    before = np.array(features_of(encoder, same_size, tmp_path)[0])
    if earlier_version:
        without_contents(tmp_path)
        encoded()
        features_of(encoder, same_size, tmp_path)
        assert encoded() == [1]    # the probe of the key: what was cached stays valid
    replace_in_place(same_size[3])
    encoded()
    after, _ = features_of(encoder, same_size, tmp_path)
    assert sum(encoded()) == 3 + 1    # three probes and the photo
    assert np.array_equal(np.delete(after, 3, axis=0), np.delete(before, 3, axis=0))
    assert not np.allclose(after[3], before[3], atol=0.02)
    features_of(encoder, same_size, tmp_path)
    assert encoded() == [1]


def test_a_copy_of_the_photos_encodes_nothing_and_is_read_once(
        encoder, paths, tmp_path, encoded, monkeypatch):
    features_of(encoder, paths, tmp_path)
    touch_all(paths, 5)
    encoded()
    read, crc32 = [], feature_cache._crc32
    monkeypatch.setattr(feature_cache, '_crc32', lambda path: read.append(path) or crc32(path))
    for _ in range(2):
        feature_cache._checksums.clear()    # as in another process
        features_of(encoder, paths, tmp_path)
    assert encoded() == [1, 1] and read == paths


def test_a_photo_replaced_between_two_interrupted_runs_is_encoded_again(same_size, tmp_path):
    def interrupted(todo):
        yield from list(made_up_rows(todo))[:2]
        raise KeyboardInterrupt

    asked = []

    def encode_rows(todo):
        asked.append(todo)
        yield from made_up_rows(todo)

    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path, 'train2014', same_size).compute(interrupted, (3000,))
    replace_in_place(same_size[2])
    with pytest.raises(KeyboardInterrupt):
        FeatureCache(tmp_path, 'train2014', same_size).compute(interrupted, (3000,))
    FeatureCache(tmp_path, 'train2014', same_size).compute(encode_rows, (3000,))
    assert 2 in asked[0] and 0 not in asked[0]


def test_an_interrupted_replacement_keeps_the_other_features(same_size, tmp_path):
    asked = []

    def interrupted(todo):
        asked.append(todo)
        yield from ()
        raise KeyboardInterrupt

    FeatureCache(tmp_path, 'train2014', same_size).compute(made_up_rows, (3000,))
    replace_in_place(same_size[3])
    for _ in range(2):
        cache = FeatureCache(tmp_path, 'train2014', same_size)
        assert cache.read() is None
        with pytest.raises(KeyboardInterrupt):
            cache.compute(interrupted, (3000,))
    assert asked == [[1, 3], [1, 3]]    # 1 could not be read


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
        patch.setattr(torch, 'get_num_threads', lambda: 1)    # one photo after the other
        patch.setattr(encoding, 'load_image', other_process_meanwhile)
        assert np.array_equal(features_of(encoder, paths, tmp_path)[0], expected)
    assert len(opened) == 9
    assert np.array_equal(features_of(encoder, paths, tmp_path)[0], expected)
