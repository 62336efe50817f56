"""A pretended GPU: a second device on any machine, on which code runs as it would on a CUDA GPU.

    from captioning import pretended_gpu

    device = pretended_gpu.start()      # torch.device('pretend', 0), which torch.accelerator names
    with pretended_gpu.counted() as counts:
        loss = train_step(...)
    assert counts.copies == counts.waits == 0, counts

It is for tests. The processor holds its tensors and computes on them, but what a CPU forgives and a
CUDA GPU does not raises an error: operations that mix devices, `.numpy()`, recurrent layers that
start from states which are not contiguous, and backward through them in eval mode. Under autocast
recurrent layers compute in float16, as CUDA's do. Random numbers come from a stream of the device.
Copies to the device, waits for it and operations on it are counted.

It rests on a private hook of PyTorch for backends that are written in Python; a PyTorch without it
raises Unavailable. It cannot show how fast a GPU is, how full its memory, how it rounds, or errors
of cuDNN, NCCL, streams, compiled kernels and CUDA graphs. Some details are left out:

- A single value of the device that is assigned by a mask (`x[mask] = value`) waits on CUDA, here
  it does not.
- torch.empty(..., pin_memory=True) raises: pin with Tensor.pin_memory or a DataLoader.
- On the processor, a generator of the device draws as one of the processor, where CUDA raises.
- torch.load puts nothing on the device, as `map_location` or without it: load to the CPU and move.

    counting    what is counted, and where in the code it came from
    tensors     the tensors, and how an operation is computed on them
    fused       recurrent layers and attention, each one operation
    autocast    which operations autocast computes in which precision, as on CUDA
    backend     what PyTorch asks of a device: memory, random numbers, generators, pinned memory
"""

import torch
from torch.utils import backend_registration

from captioning.pretended_gpu.backend import NAME, Backend
from captioning.pretended_gpu.counting import Counts, Event, counted

__all__ = ['Counts', 'Event', 'Unavailable', 'counted', 'start']


class Unavailable(RuntimeError):
    """This PyTorch takes no device that is written in Python."""


KNOWN = '2.14'    # version of PyTorch that has the hook; with it what goes wrong is our error
HOOK = '_setup_privateuseone_for_python_backend'

_backends = []    # none or one


def start(bfloat16=True, capability=(9, 0), memory=80 * 2 ** 30, broken=None):
    """Add the device to PyTorch, for the rest of this process -> torch.device('pretend', 0).

    bfloat16: does the device say that it computes with it? (A T4 says no, and emulates it.)
    capability: CUDA's number for what a GPU can do. memory: in bytes. broken: message of a
    RuntimeError that every computation raises, as on a GPU that this PyTorch has no kernels for;
    allocations and copies succeed there. A second call changes these four, which are attributes of
    torch.get_device_module(device) too. Raises Unavailable.
    """
    if not _backends:
        _backends.append(_added())
    backend, = _backends
    backend.bfloat16, backend.capability = bfloat16, capability
    backend.memory, backend.broken = memory, broken
    return torch.device(NAME, 0)


def _added():
    """The backend, after it was added to PyTorch and has computed something."""
    refusal = f'PyTorch {torch.__version__} takes no device that is written in Python: '
    if not hasattr(backend_registration, HOOK):
        raise Unavailable(f'{refusal}it has no {HOOK}')
    backend = Backend()
    try:
        backend.add_to_torch()
        _compute_something(torch.device(NAME, 0))
    except Exception as error:    # what another version raises nobody knows
        if torch.__version__.startswith(KNOWN):
            raise
        raise Unavailable(f'{refusal}{type(error).__name__}: {error}') from error
    return backend


def _compute_something(device):
    """A step of training, the smallest one."""
    layer = torch.nn.Linear(2, 1).to(device)
    layer(torch.ones(3, 2, device=device)).sum().backward()
    gradient = layer.weight.grad
    assert gradient.device == device and gradient.tolist() == [[3.0, 3.0]], gradient
