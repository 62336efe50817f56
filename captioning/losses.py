"""What training makes smaller: another loss is a function here and an entry in LOSSES.

    total, nats = LOSSES['cross_entropy'](scores, targets, label_smoothing=0.1)

This file is part of what identifies a run: after an edit of it, training starts a new run.
Axes: W scored words of a batch, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

PART = 2 ** 20    # scores at a time on a CPU: as many as its cache holds


def cross_entropy(scores, targets, label_smoothing):
    """Cross-entropy with label smoothing, summed over words.

    (Szegedy et al. 2016, Rethinking the Inception Architecture for Computer Vision.)

    scores: (W, V), in float32 or less. targets: (W,), the words that people wrote, in a CUDA graph
    also -1, where a row does not count. Returns (total, nats): what is trained on, and the plain
    cross-entropy, which is logged as the loss per word.
    """
    nats, smoothing = caption_losses(scores, targets)
    return (1 - label_smoothing) * nats + label_smoothing * smoothing, nats


# Each is a function (scores, targets, label_smoothing) -> (total, nats), as cross_entropy is; the
# setting `loss` chooses one.
LOSSES = {'cross_entropy': cross_entropy}

# Those that leave out rows whose target is -1, as steps that are recorded as CUDA graphs need.
LEAVE_OUT_PADDING = ('cross_entropy',)


def caption_losses(scores, targets):
    """Scores (W, V) and targets (W,) -> two sums over words, in float32.

    The first is the cross-entropy in nats, the second that with the uniform distribution over all
    words, for label smoothing.
    """
    if scores.is_cpu:
        return CaptionLosses.apply(scores, targets)
    whole = getattr(scores, 'whole', scores)    # of which AlignedLinear in model.py made them
    return GpuCaptionLosses.apply(whole, targets, scores.shape[1])


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
    rows = max(1, PART // scores.shape[1])
    return zip(*(tensor.split(rows) for tensor in (scores, *others)), strict=True)


class GpuCaptionLosses(torch.autograd.Function):
    """The same where memory is what takes the time: all scores at once, read twice.

    What is kept are the probabilities, in the precision of the scores; their gradient is a multiple
    of them, but for a constant and the word that was written. Rows whose target is -1 add nothing,
    nor do columns after the vocabulary of V words, which are -inf.
    """

    @staticmethod
    def forward(ctx, scores, targets, V):
        counts, words = targets >= 0, targets.clamp(min=0)[:, None]
        probabilities = scores.softmax(dim=1)
        of_words = probabilities.gather(1, words).float().squeeze(1)            # (W,)
        log_probs = of_words.clamp(min=torch.finfo(torch.float32).tiny).log()
        log_sums = scores.gather(1, words).float().squeeze(1) - log_probs
        uniform = log_sums - scores[:, :V].mean(dim=1, dtype=torch.float32)
        ctx.V = V
        ctx.save_for_backward(probabilities, words, counts)
        return -(log_probs * counts).sum(), (uniform * counts).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, of_nats, of_uniform):
        probabilities, words, counts = ctx.saved_tensors
        counts = counts[:, None].float()                                        # (W, 1)
        scale = ((of_nats + of_uniform) * counts).to(probabilities)
        constant = (-of_uniform / ctx.V * counts).to(probabilities)
        gradients = torch.addcmul(constant, probabilities, scale)
        gradients[:, ctx.V:] = 0
        gradients.scatter_add_(1, words, (-of_nats * counts).to(gradients))
        return gradients, None, None


def policy_loss(scores, targets, advantages, words):
    """Loss whose gradient is that of the expected reward, downwards.

    (REINFORCE: Williams 1992, Simple Statistical Gradient-Following Algorithms.) scores: (W, V), of
    the words of drawn captions; targets: (W,); advantages: (W,), that of the caption of each word;
    words: how many are scored, of all processes. Returns a mean over words.
    """
    losses = F.cross_entropy(scores, targets, reduction='none')
    return (losses * advantages).sum() / words
