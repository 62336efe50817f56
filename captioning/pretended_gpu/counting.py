"""What the pretended GPU counts: copies to it, waits for it, and operations on it.

    with counted() as counts:
        ...
    print(counts.copies, counts.waits, counts.operations)
    print(counts)                                   # also where in the code they came from
"""

import collections
import contextlib
import sys
from pathlib import Path
from typing import NamedTuple

import torch

PYTORCH = str(Path(torch.__file__).parent)
HERE = str(Path(__file__).parent)

_active = []    # the Counts of all blocks that we are in


class Event(NamedTuple):
    """operation: as PyTorch's dispatcher names it. where: the innermost lines outside of PyTorch,
    'file.py:12 function < file.py:34 caller', or 'backward' where autograd starts it. dtype: of the
    result."""

    operation: str
    where: str
    dtype: torch.dtype | None = None


class Counts:
    """What happened in a block: `copied`, `waited` and `operated` are lists of Event.

    copied: copies from the processor's memory to the device. waited: the processor waited for the
    device. operated: computations on the device, about as many as a GPU would start kernels, though
    a recurrent layer starts many; views, allocations and copies from or to the processor are none.
    """

    def __init__(self):
        self.copied, self.waited, self.operated = [], [], []

    @property
    def copies(self):
        return len(self.copied)

    @property
    def waits(self):
        return len(self.waited)

    @property
    def operations(self):
        return len(self.operated)

    def __repr__(self):
        lines = [f'{self.copies} copies, {self.waits} waits, {self.operations} operations']
        for kind, events in (('copy', self.copied), ('wait', self.waited)):
            places = collections.Counter((event.operation, event.where) for event in events)
            for (operation, where), times in places.items():
                lines.append(f'  {times} x {kind}: {operation} at {where}')
        return '\n'.join(lines)


@contextlib.contextmanager
def counted():
    """Within the block what happens is counted -> yields Counts. Blocks may be inside others."""
    counts = Counts()
    _active.append(counts)
    try:
        yield counts
    finally:
        _active.remove(counts)


def note(kind, operation, result=None):
    """Something happened. kind: 'copied', 'waited' or 'operated'. result: of the operation."""
    if not _active:
        return
    first = result[0] if isinstance(result, (tuple, list)) and result else result
    event = Event(str(operation), _where(), getattr(first, 'dtype', None))
    for counts in _active:
        getattr(counts, kind).append(event)


def _where():
    """The two innermost lines outside of PyTorch and of this package."""
    lines, frame = [], sys._getframe(1)
    while frame is not None and len(lines) < 2:
        file = frame.f_code.co_filename
        if not file.startswith((PYTORCH, HERE, '<')):
            lines.append(f'{Path(file).name}:{frame.f_lineno} {frame.f_code.co_name}')
        frame = frame.f_back
    return ' < '.join(lines) or 'backward'
