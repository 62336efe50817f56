"""What notebooks and command line share. A file with a `main()` is a command: `python -m scripts.NAME --help`."""

import contextlib
import hashlib
import os
import sys
import tempfile
from pathlib import Path


@contextlib.contextmanager
def write_aside(path):
    """Give a temporary path beside `path`; rename it over `path` when the block succeeds, remove it when it fails.

    A reader of `path` therefore sees the old file or the new one, never a part of it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=f'.{path.name}.', suffix='.tmp', dir=path.parent)
    os.close(handle)
    try:
        yield Path(aside)
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def file_hash(path):
    """SHA-256 of a file, 64 hexadecimal digits."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


def run_main(main):
    """Run a command's `main()`: an error that a user can mend is one line on stderr and exit status 1.

    CAPTION_DEBUG=1 shows the traceback instead.
    """
    try:
        main()
    except KeyboardInterrupt:
        sys.exit('interrupted')
    except (OSError, ValueError, RuntimeError) as error:
        if os.environ.get('CAPTION_DEBUG'):
            raise
        sys.exit(f'error: {error}')
