"""Where things lie, and files that are whole or not there: the foundation that everything imports.

    with write_aside(path) as aside:
        aside.write_bytes(content)      # a reader of `path` sees the old file or the new one
"""

import contextlib
import glob
import hashlib
import json
import os
import platform
import shutil
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / 'runs'                    # one folder an experiment
CACHE = ROOT / 'data' / 'cache'         # what is computed from data once
SCENES = ROOT / 'data' / 'scenes'       # the built-in data, drawn by `python -m scripts.scenes`
HOST = platform.node().split('.')[0]


@contextlib.contextmanager
def write_aside(path, tidy=True):
    """Give a temporary path beside `path`; rename it over `path` when the block succeeds.

    A reader of `path` sees the old file or the new one, never a part of it. When the block fails,
    the temporary file is removed. tidy: also remove what killed processes have left, for which the
    whole folder is read: too long where one of many thousand files is written. OSError names
    `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if tidy:
        remove_leftovers(path.parent, glob.escape(path.name))
    process = f'{HOST}.{os.getpid()}.{threading.get_ident()}'
    aside = path.with_name(f'.{path.name}.{process}.tmp')
    aside.touch()
    try:
        yield aside
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, path)
    except OSError as error:
        if error.filename is None and error.errno:    # writing does not say where
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        aside.unlink(missing_ok=True)


def write_json(path, content, indent=1):
    """Write plain values as JSON, aside and renamed."""
    with write_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=indent), 'utf-8')


def read_json(path):
    """What a JSON file holds; ValueError names one that is damaged."""
    try:
        return json.loads(Path(path).read_text('utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f'{path} is damaged ({error}). Restore it, or remove its folder.') from None


def file_hash(path):
    """SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def link_or_copy(file, target):
    """Make `target` the same file, or a link to it, or where neither is allowed a copy."""
    file = Path(file).resolve()
    for link in (os.link, os.symlink):
        with contextlib.suppress(OSError):
            return link(file, target)
    shutil.copyfile(file, target)


def text_hash(text, digits=16):
    """The first hexadecimal digits of the SHA-256 of a text."""
    return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:digits]


def weights_file(weights):
    """Path of a weights file, looked for in the repository, or None where it is no file."""
    path = ROOT / (weights or '')
    return path if path.is_file() else None


def repository_path(path):
    """`path` as it is written in messages: from the repository on, where it lies inside."""
    path = Path(path)
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def remove_leftovers(folder, names='*'):
    """Remove what killed processes of this machine have left in a folder: parts of files that they
    were writing. names: a pattern, of these files alone.
    """
    if os.name == 'nt':    # where os.kill would not ask but kill
        return
    for aside in folder.glob(f'.{names}.{glob.escape(HOST)}.*.tmp'):
        try:
            os.kill(int(aside.name.split('.')[-3]), 0)    # is it running? (0 is no signal)
        except ProcessLookupError:
            aside.unlink(missing_ok=True)
        except (OSError, ValueError):    # of another user, or not named by us
            continue


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
