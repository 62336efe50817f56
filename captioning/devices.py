"""Which device computes, and what it can do: asked here and nowhere else."""

import contextlib
import os

import torch


def default_device():
    """cuda, else mps, else cpu."""
    if torch.cuda.is_available():
        return torch.device('cuda')
    return torch.device('mps' if torch.backends.mps.is_available() else 'cpu')


def fast_dtype(device):
    """bfloat16 where the device computes with it directly, else float32.

    That is two to three times faster.
    """
    kind = torch.device(device).type
    if kind == 'cuda':
        direct = torch.cuda.is_bf16_supported(including_emulation=False)
    elif kind == 'cpu':
        able = getattr(torch.cpu, 'get_capabilities', dict)()
        direct = able.get('amx_bf16') or able.get('avx512_bf16')
    else:
        direct = False
    return torch.bfloat16 if direct else torch.float32


def computed_in(dtype, device):
    """Context in which a network is computed in `dtype`; float32 needs none."""
    if dtype == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype)


def loading_workers(device):
    """Processes that load photos: a CPU that encodes them has none to spare."""
    return min(8, os.cpu_count() or 1) if torch.device(device).type == 'cuda' else 0


def length_groups(device):
    """Parts of like length into which a batch is split.

    On a GPU padding costs less than further calls.
    """
    return 1 if torch.device(device).type == 'cuda' else 4


def synchronize():
    """Wait for the work that was given to a GPU, before a clock is read."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
