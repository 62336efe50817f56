"""Several processes training one model: `torchrun --nproc-per-node 2 -m scripts.train ...`. One process needs nothing.

torchrun starts the processes (ranks) and tells each its number; PyTorch's DistributedDataParallel adds up gradients.
"""

import datetime
import functools
import os
import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.nn.functional import all_reduce


def connect(device=None):
    """Join the other processes where torchrun started this one -> this one's device; only rank 0 prints from then on.

    device: 'cpu' to leave the GPUs alone. For a lone process it comes back as it is.
    """
    if int(os.environ.get('WORLD_SIZE', 1)) == 1:
        return device
    cuda = torch.cuda.is_available() and device != 'cpu'
    device = torch.device('cuda', int(os.environ['LOCAL_RANK'])) if cuda else torch.device('cpu')
    if cuda:
        torch.cuda.set_device(device)
    # Long enough for the first rank to compute the features of all images while the others wait.
    dist.init_process_group('nccl' if cuda else 'gloo', timeout=datetime.timedelta(days=1))
    if rank():
        sys.stdout = open(os.devnull, 'w')  # noqa: SIM115 - until the process ends
    return device


def disconnect():
    """Leave together: a process that ends while others still talk to it makes these fail."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def ranks():
    return dist.get_world_size() if dist.is_initialized() else 1


def from_first(function):
    """What `function()` returns in rank 0, in every rank: it runs there alone, and its error stops all of them."""
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


def total(value):
    """The sum over all ranks of a tensor."""
    if ranks() > 1:
        dist.all_reduce(value)
    return value


def parallel(network, share=None):
    """The network, made to add up gradients over ranks; batch-norms inside its part `share` count rows of all ranks."""
    if ranks() == 1:
        return network
    for module in share.modules():
        if isinstance(module, nn.BatchNorm1d):    # PyTorch's SyncBatchNorm works on GPUs alone
            module.forward = functools.partial(_shared_batch_norm, module)
    return nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)


def _shared_batch_norm(norm, features):
    """model.BatchNorm.forward, with mean and variance of the rows of all ranks; features: (B, E) or (B, P, E)."""
    rows, size = features.float().flatten(0, -2), features.shape[-1]
    if not norm.training:
        return F.batch_norm(rows, norm.running_mean, norm.running_var, norm.weight, norm.bias,
                            eps=norm.eps).view_as(features)
    count = rows.new_tensor([len(rows)])
    sums = all_reduce(torch.cat([rows.sum(0), (rows ** 2).sum(0), count]))
    mean, square, count = sums[:size], sums[size:-1], sums[-1].detach()
    mean, variance = mean / count, square / count - (mean / count) ** 2
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean, norm.momentum)
        norm.running_var.lerp_(variance * count / (count - 1).clamp(min=1), norm.momentum)
    return (features.float() - mean) * torch.rsqrt(variance + norm.eps) * norm.weight + norm.bias
