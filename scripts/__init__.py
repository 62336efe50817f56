"""What notebooks and command line share. A file with a `main()` is a command: `python -m scripts.NAME --help`."""

import contextlib
import glob
import hashlib
import json
import os
import platform
import signal
import sys
import threading
from pathlib import Path

HOST = platform.node().split('.')[0]


@contextlib.contextmanager
def write_aside(path):
    """Give a temporary path beside `path`; rename it over `path` when the block succeeds, remove it when it fails.

    A reader of `path` therefore sees the old file or the new one, never a part of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    aside = path.with_name(f'.{path.name}.{HOST}.{os.getpid()}.{threading.get_ident()}.tmp')
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


def _remove_leftovers(path):
    """Remove what processes of this machine that were killed while they wrote `path` have left beside it."""
    if os.name == 'nt':    # where os.kill would not ask but kill
        return
    for aside in path.parent.glob(glob.escape(f'.{path.name}.{HOST}.') + '*.tmp'):
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


def read_json(path):
    """What a JSON file holds; ValueError names one that is damaged."""
    try:
        return json.loads(Path(path).read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is damaged ({error}). Restore it, or remove its folder.') from None


def file_hash(path):
    """SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def run_main(main):
    """Run a command's `main()`: an error is one line on stderr and exit status 1; with --debug the traceback."""
    debug = '--debug' in sys.argv[1:]
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != '--debug']
    signal.signal(signal.SIGTERM, lambda *_: sys.exit('terminated'))    # by an exception, so that all is tidied up
    try:
        main()
    except KeyboardInterrupt:
        sys.exit('interrupted')
    except MemoryError:
        sys.exit('error: not enough memory')
    except Exception as error:
        if debug:
            raise
        foreseen = isinstance(error, (OSError, ValueError, RuntimeError))
        sys.exit(f'error: {error}' if foreseen else
                 f'error: unforeseen {type(error).__name__}: {error} (the same with --debug shows where)')
