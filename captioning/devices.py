"""Which device computes, and what it can do: asked here and nowhere else.

    device = default_device()
    with computed_in(training_dtype(device), device): ...

A device is the CPU or an accelerator, a GPU of whatever make. What only some of them can do is
asked of the device's module of PyTorch, never of its name.
"""

import contextlib
import functools
import os
import shutil
import sys

import torch

NO_GPU_HERE = ('no NVIDIA driver', 'No CUDA GPUs', 'No HIP GPUs', 'not compiled')
MOST_WORKERS = 16
APPLE = 'mps'    # the one name that is asked for: see pins_memory and loading_workers
SHARED_MEMORY = '/dev/shm'    # through which worker processes hand photos over


# ---- Which device ----

def default_device():
    """The accelerator of this machine (cuda, mps ...), else the CPU; $CAPTIONING_DEVICE overrules.

    An accelerator that does not work is named on stderr with the reason, and the CPU takes over.
    """
    if os.environ.get('CAPTIONING_DEVICE'):
        return use(os.environ['CAPTIONING_DEVICE'])
    device, reason = working_accelerator()
    if reason:
        _tell_once(f'the GPU cannot be used, so the CPU computes: {reason}')
    return device or torch.device('cpu')


def untried_device():
    """As default_device, whether it works or not: for processes that share GPUs."""
    if os.environ.get('CAPTIONING_DEVICE'):
        return torch.device(os.environ['CAPTIONING_DEVICE'])
    if torch.accelerator.is_available():
        return torch.accelerator.current_accelerator()
    return torch.device('cpu')


def use(device):
    """Make a device such as cuda:1 the one that PyTorch asks and answers for -> torch.device."""
    device = torch.device(device)
    choose = getattr(torch.get_device_module(device), 'set_device', None)
    if device.index is not None and not is_cpu(device) and choose:    # Apple's GPU has none
        choose(device)
    return device


@functools.cache
def working_accelerator():
    """-> (the accelerator or None, why one that is there does not work or None).

    It is tried, since one that is there may be too old, or too new, for the installed torch.
    """
    if not torch.accelerator.is_available():
        return None, _why_none_is_there()
    device = torch.accelerator.current_accelerator()
    try:
        ones = torch.ones(8, 8, device=device)
        (ones @ ones).sum().item()
    except RuntimeError as error:
        return None, f'{name_of(device)}: {str(error).strip().splitlines()[0]}'
    return torch.device(device.type), None


def _why_none_is_there():
    """None where this machine has no GPU; else what PyTorch says of it, such as an old driver."""
    if not torch.backends.cuda.is_built():
        return None
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        return None if any(text in reason for text in NO_GPU_HERE) else reason
    return None


def name_of(device):
    """What an accelerator is called by its maker; its type where it does not tell."""
    with contextlib.suppress(Exception):    # such as one that does not work
        return torch.get_device_module(device).get_device_name(device)
    return torch.device(device).type


@functools.cache
def _tell_once(message):
    print(message, file=sys.stderr)


def is_cpu(device):
    return torch.device(device).type == 'cpu'


# ---- Precision ----

def fast_dtype(device):
    """The dtype of the encoder and of decoding, where no gradients flow.

    bfloat16 where the device computes with it directly, else float16 where it does so with that
    (the T4 that Colab lends), else float32.
    """
    if _has_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if _has_float16(device) else torch.float32


def training_dtype(device):
    """The dtype of training: bfloat16 where the device computes with it directly, else float32.

    Never float16: a loss per word has gradients of about 1e-6, which vanish in its range. The
    recurrent layers are apart, see captioning/gpu_layers.py.
    """
    return torch.bfloat16 if _has_bfloat16(device) else torch.float32


def _has_bfloat16(device):
    if is_cpu(device):
        return _cpu_has('amx_bf16') or _cpu_has('avx512_bf16')
    supported = getattr(torch.get_device_module(device), 'is_bf16_supported', None)
    if supported is None:
        return False
    try:
        return supported(including_emulation=False)
    except TypeError:    # Intel's in PyTorch 2.6
        return supported()


def _cpu_has(instructions):
    return bool(getattr(torch.cpu, 'get_capabilities', dict)().get(instructions))


def _has_float16(device):
    """Has the device units for it? Those of NVIDIA have from capability 7.0 on."""
    if is_cpu(device):
        return False
    ask = getattr(torch.get_device_module(device), 'get_device_capability', None)
    capability = ask(device) if ask else None
    return isinstance(capability, tuple) and capability >= (7, 0)


def computed_in(dtype, device):
    """Context in which a network is computed in `dtype`; float32 needs none."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype)


# ---- Memory ----

def placed(network, device):
    """A network on a device -> the network.

    One that is there stays as it is: `to` would give the weights of its recurrent layers another
    place in the memory of a GPU, and what is recorded of training looks for them where they were.
    """
    device = torch.empty(0, device=device).device    # with its number
    places = {tensor.device for tensor in (*network.parameters(), *network.buffers())}
    return network if places == {device} else network.to(device)


def moved(values, device):
    """An array or tensor -> a tensor on a device.

    From pinned memory, where there is such: then the processor waits neither for the copy nor for
    the work that was given to the device before.
    """
    values = torch.as_tensor(values)
    if not values.is_cpu or is_cpu(device):
        return values.to(device)
    if not pins_memory(device):
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


@functools.cache
def pins_memory(device):
    """Can memory be pinned, so that copies from it to the device need no waiting?

    On Apple's GPUs such a copy may read memory that is free again (pytorch issue 189690).
    """
    if torch.device(device).type in ('cpu', APPLE):
        return False
    try:
        torch.empty(1).pin_memory()
    except (RuntimeError, NotImplementedError):
        return False
    return True


def fits(size, device):
    """Do so many bytes fit into half of the memory that an accelerator has left?"""
    return size < free_memory(device) / 2


def free_memory(device):
    """Bytes that an accelerator has left; 0 for a CPU, and where it does not tell."""
    ask = None if is_cpu(device) else getattr(torch.get_device_module(device), 'mem_get_info', None)
    with contextlib.suppress(RuntimeError):    # some of Intel's
        return ask()[0] if ask else 0
    return 0


def synchronize():
    """Wait for the work that was given to an accelerator, before a clock is read."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


# ---- What is quicker on one than on another ----

def loading_workers(device, batches, batch_bytes):
    """Processes that load photos: a CPU that encodes them has none to spare.

    At most one for each core that this process has to itself and for every second of so many
    batches, and so many that the batches under way, of so many bytes each, fit into shared memory,
    of which a container may have 64 MB. None on Apple's machines, which start each of them from
    nothing.
    """
    if torch.device(device).type in ('cpu', APPLE):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    ranks = int(os.environ.get('LOCAL_WORLD_SIZE', 1))
    workers = min(MOST_WORKERS, batches // 2, cores // ranks)
    if os.path.isdir(SHARED_MEMORY):
        fitting = shutil.disk_usage(SHARED_MEMORY).free // batch_bytes // ranks
        workers = min(workers, fitting // 2 - 1)    # two a worker: one ready, one being read
    return max(0, workers)


def length_groups(device):
    """Parts of like length into which a batch is split.

    The quicker products are, the less padding costs beside further calls: on a GPU, and on a CPU
    that has AMX.
    """
    if not is_cpu(device):
        return 1
    return 2 if _cpu_has('amx_bf16') else 4


def words_between_checks(device):
    """How many words decoding writes until it asks whether all captions have ended.

    Each time it asks, it waits for a GPU.
    """
    return 1 if is_cpu(device) else 4


def decoding_batch(device, beam_size=1):
    """How many images are captioned at once; each of their captions takes memory on a GPU."""
    return 256 if is_cpu(device) else max(1, min(1024, 4096 // beam_size))
