"""Features as a recognizer reads them, of a captioner that may have tuned its encoder.

    encoder = SharedEncoder(captioner)
    features, pooled = encoder.encode(images)       # as captioner.encode(images), and (N, C)

Axes: N images, C channels, P places of an image.
"""

import copy
from collections import OrderedDict

import torch
from torch import nn

from captioning.encoding import FrozenBackbone

BATCH = 256    # images whose features are read at a time


class SharedEncoder:
    """Encodes images for a captioner and for a recognizer at once.

    Stages that the captioner has tuned run twice, with its weights and as they were before; those
    before them, which are frozen, run once.
    """

    def __init__(self, captioner):
        self.captioner = captioner
        self._dtype = None

    def encode(self, images):
        """Images (N, 3, S, S) on the device -> (features of the captioner, pooled (N, C)).

        Both are float32. The first are those of `captioner.encode`, the second come from the CNN as
        its weights file has it.
        """
        captioner = self.captioner
        if not captioner.untuned:
            features = captioner.encode(images)
            return features, pooled(features)
        if self._dtype != captioner.dtype:
            self._prepare(captioner.dtype)
        maps = self._shared.encode(images)
        return self._tuned.encode(maps), pooled(self._untuned.encode(maps))

    def _prepare(self, dtype):
        backbone = self.captioner.encoder.backbone
        names = [name for name, _ in backbone.named_children()]
        first = min(map(names.index, self.captioner.untuned))
        untuned = _replaced(backbone[first:], self.captioner.untuned)
        parts = backbone[:first], backbone[first:], untuned
        self._shared, self._tuned, self._untuned = (FrozenBackbone(part, dtype) for part in parts)
        self._dtype = dtype


def pooled(features):
    """Features (N, C), or of places (N, P, C) -> (N, C): a grid's mean is what a pool gives."""
    return features.mean(dim=1) if features.ndim == 3 else features


def pooled_rows(features, rows=None):
    """`pooled` of an array or tensor, or of these rows of it, some at a time -> (N, C) float32."""
    rows = range(len(features)) if rows is None else rows
    parts = [torch.asarray(features[rows[start:start + BATCH]], copy=True).float()
             for start in range(0, len(rows), BATCH)]
    return torch.cat([pooled(part) for part in parts])


def pooling_encoder(captioner):
    """A copy of a captioner's encoder whose CNN pools, for caches as below."""
    encoder = copy.deepcopy(captioner.encoder)
    encoder.backbone.append(Pool())
    return encoder


def untuned_encoder(captioner):
    """A copy of a captioner's encoder whose CNN is as its weights file has it, and pools.

    For caches: `split_features` gives the features of a split that a recognizer reads, and where
    training without attention has kept them it takes those.
    """
    encoder = pooling_encoder(captioner)
    encoder.backbone = _replaced(encoder.backbone, copy.deepcopy(captioner.untuned))
    return encoder


class Pool(nn.Module):
    """`pooled` as a stage of a CNN."""

    def forward(self, features):
        return pooled(features)


def _replaced(stages, others):
    """An nn.Sequential with some of its stages exchanged. others: {name: stage}."""
    return nn.Sequential(OrderedDict(stages.named_children()) | others).eval()
