"""Features of a list of images as a file: whole, or taken up where an interrupted run left it.

    cache = FeatureCache(folder, 'train2014', paths)
    features, unreadable = cache.read() or cache.compute(encode_rows, feature_shape)

Beside the array NAME-HASH.npy lies NAME-HASH.json, the manifest: names and sizes of the images, in
the order of the array's rows, which of them could not be read, the array's checksum, and its size
and time when that was last found right. The hash is of the list of images, so that an array never
meets the list of another. While features are computed the array is called
NAME-HASH.PROCESS.part.npy, and its manifest has no checksum yet.

A photo may be replaced by another of the same name and size. So the manifest also has the time of
each image's last change, and a checksum of what is in it, taken when it was encoded. Opening the
cache asks the file system for sizes and times alone. Only of an image whose time is another are the
bytes read: where the checksum is the same, as in a copy of the folder, the new time is noted;
where not, this image is encoded again. Manifests of earlier versions have no times: they are
trusted once, but for images that were read in another way then, and what they lack is noted.
"""

import contextlib
import json
import mmap
import os
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from captioning.files import file_hash, text_hash, write_json

MANIFEST_KEYS = {'images', 'unreadable', 'sha256'}

_checksums = {}    # of images, by path and time; caches of several encoders have the same images


class FeatureCache:
    """The features of the images `paths` in one folder. Raises OSError where it cannot write.

    folder: one for each key, see features.cache_key. name: of the list of images, such as
    'train2014'; features that other lists of that name have are used again. is_outdated: tells of
    an image's path whether its feature does not hold where the manifest is one without times.
    """

    def __init__(self, folder, name, paths, is_outdated=lambda path: False):
        self.folder, self.name = Path(folder), name
        self.images, self.times = _names_and_sizes(paths)
        self._files, self._is_outdated = list(zip(paths, self.times, strict=True)), is_outdated
        self.stem = f'{name}-{text_hash(json.dumps(self.images), digits=8)}'
        self.array_file = self.folder / f'{self.stem}.npy'
        self.manifest_file = self.folder / f'{self.stem}.json'

    def read(self):
        """Features (N, ...) float16, memory-mapped, and the unreadable rows; None where damaged."""
        manifest = _read_manifest(self.manifest_file)
        if not manifest or not self.array_file.exists():
            return None
        if not self._is_sound(manifest) or not self._are_unchanged(manifest['contents']):
            return None
        self._note(manifest)
        # Copy-on-write, since torch warns of arrays that are read-only.
        return np.load(self.array_file, mmap_mode='c'), manifest['unreadable']

    def _is_sound(self, manifest):
        """Is the array what was written?

        Its checksum takes minutes where it has many gigabytes, and is computed only if its size or
        the time of its last change are not those noted before.
        """
        if manifest.get('noted') == _size_and_time(self.array_file):
            return True
        return manifest['sha256'] == file_hash(self.array_file)

    def _note(self, manifest):
        """Note times that are others than before, of what was found to be the same."""
        times = [content and content[0] for content in manifest['contents']]
        if times != self.times or manifest.get('noted') != _size_and_time(self.array_file):
            with contextlib.suppress(OSError):    # where nothing may be written it is done again
                self._write_manifest(manifest['unreadable'], manifest['sha256'])

    def _are_unchanged(self, contents):
        return all(self._is_unchanged(row, content) for row, content in enumerate(contents))

    def _is_unchanged(self, row, content):
        """Is the image what it was? content: its time and checksum then, None where not noted."""
        if content is None:
            path, _ = self._files[row]
            return not self._is_outdated(path)
        time_then, checksum_then = content
        if time_then == self.times[row]:
            if checksum_then is not None:
                _checksums[self._files[row]] = checksum_then
            return True
        return checksum_then is not None and checksum_then == self._checksum(row)

    def _checksum(self, row):
        """Of what is in the image's file, None where it cannot be read; computed once."""
        path, _ = file = self._files[row]
        if file not in _checksums:
            _checksums[file] = _crc32(path)
        return _checksums[file]

    def compute(self, encode_rows, feature_shape):
        """Compute what earlier runs have not, keep it, and return what `read` gives.

        encode_rows(rows) yields (rows, features (B, ...) float16, unreadable rows) batch by batch.
        RuntimeError where a feature is infinite or NaN.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # Another process may be computing the same.
        part = self.folder / f'{self.stem}.{os.getpid()}-{time.monotonic_ns()}.part.npy'
        unreadable = self._fill(part, encode_rows, feature_shape)
        self._finish(part, unreadable)
        return np.load(self.array_file, mmap_mode='c'), unreadable

    def _fill(self, part, encode_rows, feature_shape):
        """Write the array to the file `part` -> the unreadable rows.

        Afterwards no array is open, for Windows neither renames nor deletes files that are.
        """
        earlier = self._earlier_rows()
        todo = [row for row, image in enumerate(self.images) if tuple(image) not in earlier]
        if _read_manifest(self.manifest_file) is None:    # else it tells what interrupted runs read
            self._write_manifest()
        array = _new_array(part, (len(self.images), *feature_shape))
        for row, image in enumerate(self.images):
            if tuple(image) in earlier:
                array[row] = earlier[tuple(image)]
        unreadable = []
        with ThreadPoolExecutor(1) as beside:    # while the files are still in memory
            for rows, features, not_read in encode_rows(todo):
                if len(rows):
                    _check_finite(features, part)
                    array[rows] = features
                    beside.map(self._checksum, rows)
                unreadable += not_read
        array[unreadable] = np.nan
        array.flush()
        return unreadable

    def _earlier_rows(self):
        """{(image name, size): feature} that earlier runs computed, finished or interrupted.

        Of images whose content is still the same.
        """
        row_of = {tuple(image): row for row, image in enumerate(self.images)}
        rows = {}
        for manifest_file in self.folder.glob(f'{self.name}-????????.json'):
            manifest = _read_manifest(manifest_file)
            if not manifest:
                continue
            images = [tuple(image) for image in manifest['images']]
            kept = [image in row_of and self._is_unchanged(row_of[image], content)
                    for image, content in zip(images, manifest['contents'], strict=True)]
            for file, array in self._sound_arrays(manifest_file.stem, manifest['sha256']):
                is_computed = _is_computed if file.stem == manifest_file.stem else _is_whole
                rows.update((image, value)
                            for image, keep, value in zip(images, kept, array, strict=True)
                            if keep and is_computed(value))
        return rows

    def _sound_arrays(self, stem, checksum):
        """(file, array) of one list of images: the finished one, and parts of interrupted ones."""
        for file in self.folder.glob(f'{stem}.*npy'):
            with contextlib.suppress(OSError, ValueError):    # gone, or killed before its header
                if file.stem == stem and file_hash(file) != checksum:
                    print(f'{file} is damaged (its checksum differs): '
                          'its images are computed again')
                else:
                    yield file, np.load(file, mmap_mode='r')

    def _write_manifest(self, unreadable=(), checksum=None):
        contents = [[changed, _checksums.get((path, changed))] for path, changed in self._files]
        content = {'images': self.images, 'unreadable': list(unreadable), 'sha256': checksum,
                   'contents': contents}
        if checksum and self.array_file.exists():
            content['noted'] = _size_and_time(self.array_file)
        write_json(self.manifest_file, content, indent=None)

    def _finish(self, part, unreadable):
        """Give the array its name, and remove those of other lists of images."""
        with contextlib.suppress(FileNotFoundError):    # another process was first, and tidied up
            for row in range(len(self.images)):    # those that earlier runs encoded
                self._checksum(row)
            checksum = file_hash(part)
            self._write_manifest(unreadable, checksum)
            os.replace(part, self.array_file)
            self._write_manifest(unreadable, checksum)    # with its size and time
        for old in self.folder.glob(f'{self.name}-????????.*'):
            if old not in (self.array_file, self.manifest_file):
                with contextlib.suppress(PermissionError):    # another process of Windows reads it
                    old.unlink(missing_ok=True)


def _size_and_time(file):
    """[bytes, time of the last change in ns], -1 both where there is no such file."""
    try:
        status = os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return [-1, -1]
    return [status.st_size, status.st_mtime_ns]


def _names_and_sizes(paths):
    """-> ([name, bytes] of each image, -1 for one that is not there; times of the last changes)"""
    paths = [str(path) for path in paths]
    folders = {os.path.dirname(path) for path in paths}    # few, where there are 80,000 paths
    common = os.path.commonpath(folders) if folders else ''
    below = {folder: os.path.relpath(folder or '.', common) for folder in folders}
    names = [os.path.normpath(os.path.join(below[os.path.dirname(path)], os.path.basename(path)))
             for path in paths]
    states = [_size_and_time(path) for path in paths]
    images = [[name, size] for name, (size, _) in zip(names, states, strict=True)]
    return images, [changed for _, changed in states]


def _crc32(path):
    try:
        return zlib.crc32(path.read_bytes())
    except OSError:
        return None


def _is_computed(value):
    """A row that is not computed yet is all zeros; of an image that cannot be read it is NaN."""
    return value.any() and np.isfinite(value).all()


def _is_whole(value):
    """Is a row of an interrupted run computed, and were all of its pages written?

    After a power cut those that were not are zeros.
    """
    values = value.ravel()
    page = mmap.PAGESIZE // value.itemsize
    to_next_page = -(value.ctypes.data // value.itemsize) % page
    pieces = np.split(values, range(to_next_page, len(values), page))
    return _is_computed(values) and all(piece.any() for piece in pieces if len(piece))


def _check_finite(features, path):
    if not np.isfinite(features).all():
        raise RuntimeError(f'{path}: some features are not finite. '
                           'Does the encoder overflow float16?')


def _new_array(path, shape):
    """A file for float16 values, mapped into memory.

    Its space is taken now: later a full disk would be noticed by a signal that kills, not by an
    error.
    """
    array = np.lib.format.open_memmap(path, 'w+', np.float16, shape)
    if not hasattr(os, 'posix_fallocate'):
        return array
    try:
        with open(path, 'r+b') as file:
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
    except OSError as error:
        megabytes = os.path.getsize(path) / 1e6
        path.unlink()
        raise OSError(f'{path.parent} has no room for {megabytes:,.0f} MB of features '
                      f'({error.strerror}).') from None
    return array


def _read_manifest(path):
    """What _write_manifest wrote, or None where it is missing or damaged."""
    with contextlib.suppress(OSError, ValueError):
        manifest = json.loads(path.read_text('utf-8'))
        if isinstance(manifest, dict) and manifest.keys() >= MANIFEST_KEYS:
            manifest.setdefault('contents', [None] * len(manifest['images']))
            return manifest
    return None
