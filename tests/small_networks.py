"""A ResNet-18 with one block a stage: less to compute, to save and to copy, by the same operations.
"""

import copy
import functools

import torch
from torchvision.models import resnet

_make = functools.cache(resnet._resnet)


def shallow(block, layers, *rest, **named):
    """In the place of torchvision's `resnet._resnet`. Random weights are drawn once, which costs
    other random numbers nothing."""
    layers = (1, 1, 1, 1) if layers == [2, 2, 2, 2] else tuple(layers)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return copy.deepcopy(_make(block, layers, *rest, **named))
