"""How time and memory are measured.

    seconds(lambda: frozen.encode(images), repeats=4)
    returned, gigabytes = in_own_process(function, *arguments)
"""

import multiprocessing
import resource
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

    Function and arguments are pickled, so the function is one of a module.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn')) as pool:
        return pool.submit(_with_peak_memory, function, arguments).result()


def _with_peak_memory(function, arguments):
    returned = function(*arguments)
    return returned, _peak_memory()


def _peak_memory():
    """Most memory that this process has taken, in GB."""
    status = Path('/proc/self/status')
    if status.exists():    # Linux, where ru_maxrss includes what the parent process once took
        kilobytes = status.read_text().split('VmHWM:')[1].split()[0]
        return int(kilobytes) / 2 ** 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2 ** 30    # macOS counts bytes
