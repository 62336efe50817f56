"""What a machine can do at most, and how long a piece of work takes then.

    yardsticks = Yardsticks.measured(device, size)
    least = yardsticks.seconds(Work(operations=1e9, bytes=1e6, calls=100), torch.float32)

Speeds are judged by the share of this that they reach, so that what is expected follows from the
machine itself. (Williams et al. 2009, Roofline: An Insightful Visual Performance Model; here the
times of arithmetic, memory and calls are added, as if nothing overlapped.)
"""

from typing import NamedTuple

import torch

from captioning.benchmark.measure import seconds
from captioning.benchmark.training import matrix_speed
from captioning.devices import fast_dtype, free_memory, training_dtype

TIMES = 3


class Work(NamedTuple):
    """operations: multiplications and additions. bytes: read from and written to memory. calls: of
    PyTorch's operations, each of which the processor has to start."""

    operations: float
    bytes: float
    calls: float


class Yardsticks(NamedTuple):
    """gflops: {dtype: billions of operations a second}, of large matrix products. gigabytes: a
    second, read and written by a large copy. call_seconds: of an operation on a few numbers."""

    gflops: dict
    gigabytes: float
    call_seconds: float

    @classmethod
    def measured(cls, device, size):
        dtypes = dict.fromkeys((torch.float32, fast_dtype(device), training_dtype(device)))
        gflops = {dtype: best_matrix_speed(dtype, size) for dtype in dtypes}
        return cls(gflops, copy_speed(device, size), call_seconds(device, size))

    def parts(self, work, dtype):
        """{'arithmetic', 'memory', 'calls': seconds}"""
        return {'arithmetic': work.operations / self.gflops[dtype] / 1e9,
                'memory': work.bytes / self.gigabytes / 1e9,
                'calls': work.calls * self.call_seconds}

    def seconds(self, work, dtype):
        return sum(self.parts(work, dtype).values())


def best_matrix_speed(dtype, size):
    """GFLOP/s, the highest of a few times: what else runs on a machine can only slow it down."""
    return max(matrix_speed(dtype, size.side, size.repeats) for _ in range(TIMES))


def copy_speed(device, size):
    """GB/s, read and written, of a large copy within the device's memory."""
    count = size.copied
    if free := free_memory(device):
        count = min(count, free // 8)
    source = torch.zeros(count, dtype=torch.uint8, device=device)
    copied = torch.zeros_like(source)
    took = seconds(lambda: copied.copy_(source), size.repeats)
    return 2 * count / took / 1e9


def call_seconds(device, size):
    """Seconds that a few numbers take to be added: the time of the call, not of the work."""
    numbers = torch.zeros(8, device=device)
    numbers.add_(1)
    return seconds(lambda: numbers.add_(1), size.calls)
