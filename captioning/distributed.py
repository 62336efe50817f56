"""Several processes training one model: `torchrun --nproc-per-node 2 -m scripts.train ...`.

torchrun starts the processes (ranks) and tells each its number; PyTorch's DistributedDataParallel
adds up gradients. One process needs nothing.
"""

import datetime
import os
import sys
import warnings

import torch
import torch.distributed as dist
from torch import nn

from captioning.devices import is_cpu, untried_device, use, working_accelerator


def connect(device=None):
    """Join the other processes where torchrun started this one -> this one's device.

    Only rank 0 prints from then on. device: 'cpu' to leave the GPUs alone. For a lone process it
    comes back as it is. ValueError where there are more processes than GPUs.
    """
    if int(os.environ.get('WORLD_SIZE', 1)) == 1:
        return device
    device = _device_of_process(device)
    # Long enough for the first rank to compute the features of all images while the others wait.
    patience = datetime.timedelta(days=1)
    dist.init_process_group(_backends(device), timeout=patience)
    if rank():
        sys.stdout = open(os.devnull, 'w', encoding='utf-8')  # noqa: SIM115 - until we end
    return device


def _device_of_process(asked_for):
    """Each process of a machine computes on a GPU of its own, or on the CPU.

    It is chosen before it is tried: a trial on another process's GPU would take memory there.
    """
    device = torch.device(asked_for) if asked_for else untried_device()
    module, number = torch.get_device_module(device), int(os.environ['LOCAL_RANK'])
    takes_number = hasattr(module, 'set_device')
    if is_cpu(device) or not (takes_number or asked_for):    # Apple's GPU has none
        return torch.device('cpu')
    count = module.device_count()
    if number >= count:
        processes = os.environ['LOCAL_WORLD_SIZE']
        raise ValueError(f'{processes} processes, but GPUs: {count}. Start {count}, or add '
                         '--device cpu.')
    device = use(torch.device(device.type, number))
    _, reason = working_accelerator()
    if reason:    # on the CPU this process could not talk to those on GPUs
        raise RuntimeError(f'{device} cannot be used: {reason}')
    return device


def _backends(device):
    """Of tensors on the device, and of those in the processor's memory."""
    if is_cpu(device):
        return 'gloo'
    return f'cpu:gloo,{device.type}:{dist.Backend.default_device_backend_map[device.type]}'


def disconnect():
    """Leave together: a process that ends while others still talk to it makes these fail."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def ranks():
    return dist.get_world_size() if dist.is_initialized() else 1


def on_first_rank(function):
    """Run `function()` on rank 0 alone, and broadcast its result or its exception to all."""
    if ranks() == 1:
        return function()
    answer = [None, None]
    if rank() == 0:
        try:
            answer[0] = function()
        except Exception as error:    # whatever it is: the others would wait for ever
            answer[1] = error
    dist.broadcast_object_list(answer)
    if answer[1]:
        raise answer[1]
    return answer[0]


def first_rank_first(function):
    """Run `function()` on every rank; on rank 0 before the others, which read what it kept on disk.
    """
    if ranks() > 1:
        on_first_rank(lambda: function() and None)
    return function()


def total(value):
    """The sum over all ranks of a tensor."""
    if ranks() > 1:
        dist.all_reduce(value)
    return value


def on_any_rank(condition):
    """Does it hold on any rank? All of them ask at the same step.

    The answer goes through the processor's memory, so that no GPU is waited for.
    """
    return bool(total(torch.tensor(int(condition))))


def parallel(network):
    """The network, made to add up gradients over ranks."""
    if ranks() == 1:
        return network
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)    # PyTorch 2.6 lacks what follows on it
        return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)


class _Total(torch.autograd.Function):
    """`total` with a gradient: that of the sum, itself summed over the ranks, which all use it.

    PyTorch has the same in torch.distributed.nn.functional, and 2.14 warns that it will go.
    """

    @staticmethod
    def forward(context, value):
        return total(value.clone())

    @staticmethod
    def backward(context, gradient):
        return total(gradient.clone())


def on_global_batch(layer, inputs):
    """layer(inputs), computed on the inputs of all ranks together -> the rows of this rank.

    So a batch-norm, whichever it is, counts the rows of the global batch. inputs: (B, ...), where
    ranks may differ in B. Gradients flow back to the inputs of every rank.
    """
    if ranks() == 1:
        return layer(inputs)
    counts = torch.zeros(ranks(), dtype=torch.long, device=inputs.device)
    counts[rank()] = len(inputs)
    counts = total(counts).tolist()
    slots = inputs.new_zeros(ranks(), max(counts), *inputs.shape[1:])
    slots[rank(), :len(inputs)] = inputs
    slots = _Total.apply(slots)    # every rank has filled its own slot
    rows = [slot[:count] for slot, count in zip(slots, counts, strict=True)]
    return layer(torch.cat(rows)).split(counts)[rank()]
