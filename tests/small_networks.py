"""A ResNet-18 with one block a stage and a quarter of the channels: less to compute, to save and to
copy, by the same operations.
"""

import copy
import functools

import torch
from torch import nn
from torchvision.models import resnet

FEATURES = 128    # channels of its last stage

_make = functools.cache(resnet._resnet)


class SmallResNet(resnet.ResNet):

    def __init__(self):
        super().__init__(resnet.BasicBlock, [1, 1, 1, 1])
        self.fc = nn.Linear(FEATURES, 1000)

    def _make_layer(self, block, planes, *rest, **named):
        return super()._make_layer(block, planes // 4, *rest, **named)


@functools.cache
def small_resnet18():
    return SmallResNet()


def small(block, layers, *rest, **named):
    """In the place of torchvision's `resnet._resnet`. Random weights are drawn once, which costs
    other random numbers nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        if layers == [2, 2, 2, 2]:
            return copy.deepcopy(small_resnet18())
        return copy.deepcopy(_make(block, tuple(layers), *rest, **named))
