"""What training makes smaller: another loss is a function here and an entry in LOSSES.

    total, nats = LOSSES['cross_entropy'](scores, targets, label_smoothing=0.1)

This file is part of what identifies a run: after an edit of it, training starts a new run.
Axes: W scored words of a batch, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

# Scores at a time: as many as a cache of a CPU holds; a GPU is better given all at once.
PART = {'cpu': 2 ** 20, 'accelerator': 2 ** 26}


def cross_entropy(scores, targets, label_smoothing):
    """Cross-entropy with label smoothing, summed over words.

    (Szegedy et al. 2016, Rethinking the Inception Architecture for Computer Vision.)

    scores: (W, V), in float32 or less. targets: (W,), the words that people wrote. Returns (total,
    nats): what is trained on, and the plain cross-entropy, which is logged as the loss per word.
    """
    nats, smoothing = caption_losses(scores, targets)
    return (1 - label_smoothing) * nats + label_smoothing * smoothing, nats


# Each is a function (scores, targets, label_smoothing) -> (total, nats), as cross_entropy is; the
# setting `loss` chooses one.
LOSSES = {'cross_entropy': cross_entropy}


def caption_losses(scores, targets):
    """Scores (W, V) and targets (W,) -> two sums over words, in float32.

    The first is the cross-entropy in nats, the second that with the uniform distribution over all
    words, for label smoothing.
    """
    return CaptionLosses.apply(scores, targets)


class CaptionLosses(torch.autograd.Function):
    """Both sums of `caption_losses`, some rows at a time, and their gradient by another softmax.

    The scores are the largest thing of a step. Between the two PyTorch would keep their log_softmax
    in float32; this keeps nothing but the scores, and on a CPU its parts stay in the cache.
    """

    @staticmethod
    def forward(ctx, scores, targets):
        ctx.save_for_backward(scores, targets)
        nats = uniform = 0
        for rows, words in _parts(scores, targets[:, None]):
            log_probs = rows.log_softmax(dim=1, dtype=torch.float32)
            nats = nats - log_probs.gather(1, words).sum()
            uniform = uniform - log_probs.mean(dim=1).sum()
        return nats, uniform

    @staticmethod
    @once_differentiable
    def backward(ctx, of_nats, of_uniform):
        scores, targets = ctx.saved_tensors
        gradients = torch.empty_like(scores)
        for rows, words, gradient in _parts(scores, targets[:, None], gradients):
            of_rows = rows.softmax(dim=1, dtype=torch.float32)
            of_rows.mul_(of_nats + of_uniform).sub_(of_uniform / scores.shape[1])
            of_rows.scatter_add_(1, words, (-of_nats).expand(words.shape))
            gradient.copy_(of_rows)
        return gradients, None


def _parts(scores, *others):
    """Split tensors of W rows alike, so that a part of the scores fits into the cache."""
    size = PART['cpu' if scores.is_cpu else 'accelerator']
    rows = max(1, size // scores.shape[1])
    return zip(*(tensor.split(rows) for tensor in (scores, *others)), strict=True)


def policy_loss(scores, targets, advantages, words):
    """Loss whose gradient is that of the expected reward, downwards.

    (REINFORCE: Williams 1992, Simple Statistical Gradient-Following Algorithms.) scores: (W, V), of
    the words of drawn captions; targets: (W,); advantages: (W,), that of the caption of each word;
    words: how many are scored, of all processes. Returns a mean over words.
    """
    losses = F.cross_entropy(scores, targets, reduction='none')
    return (losses * advantages).sum() / words
