"""How time and memory are measured.

    seconds(lambda: frozen.encode(images), repeats=4)
    returned, gigabytes = in_own_process(function, *arguments)
"""

import contextlib
import multiprocessing
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from captioning.devices import synchronize


def seconds(function, repeats=1):
    """Mean time of a call, the work on a GPU included."""
    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    synchronize()
    return (time.perf_counter() - start) / repeats


def in_own_process(function, *arguments):
    """Call a function in a fresh process -> (what it returns, peak memory in GB).

    Function and arguments are pickled, so the function is one of a module. Where this process is
    interrupted or ended, the other one is, too.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        future = pool.submit(_with_peak_memory, function, arguments)
        try:
            return future.result()
        except BaseException:
            for process in multiprocessing.active_children():    # the pool would wait for it
                process.terminate()
            raise


def _with_peak_memory(function, arguments):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))    # so that it ends those of its own
    returned = function(*arguments)
    return returned, _peak_memory()


def _peak_memory():
    """Most memory that this process has taken, in GB; nan on Windows."""
    status = Path('/proc/self/status')
    if status.exists():    # Linux, where ru_maxrss includes what the parent process once took
        kilobytes = status.read_text('utf-8').split('VmHWM:')[1].split()[0]
        return int(kilobytes) / 2 ** 20
    with contextlib.suppress(ImportError):
        import resource  # here: Windows has none
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 30    # macOS counts bytes
    return float('nan')
