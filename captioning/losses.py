"""What training makes smaller: another loss is a function here and an entry in LOSSES.

    total, nats = LOSSES['cross_entropy'](scored, label_smoothing=0.1)

This file is part of what identifies a run: after an edit of it, training starts a new run.
Axes: B batch, T caption length, V vocabulary, S drawn captions.
"""

import torch
import torch.nn.functional as F

IGNORED = -100    # target of a position that is not scored, as PyTorch's losses have it


def cross_entropy(scored, label_smoothing):
    """Cross-entropy with label smoothing, summed over words.

    (Szegedy et al. 2016, Rethinking the Inception Architecture for Computer Vision.)

    scored: list of (scores (B, T, V), targets (B, T), IGNORED where not scored). Returns (total,
    nats): what is trained on, and the plain cross-entropy, which is logged as the loss per word.
    """
    sums = [caption_losses(scores, targets) for scores, targets in scored]
    nats, smoothing = (sum(parts) for parts in zip(*sums, strict=True))
    return (1 - label_smoothing) * nats + label_smoothing * smoothing, nats


# Each is a function (scored, label_smoothing) -> (total, nats), as cross_entropy is; the setting
# `loss` chooses one.
LOSSES = {'cross_entropy': cross_entropy}


def caption_losses(scores, targets):
    """Scores (B, T, V) and targets (B, T) -> two sums over words.

    The first is the cross-entropy in nats, the second that with the uniform distribution over all
    words, for label smoothing.
    """
    log_probs = F.log_softmax(scores.float(), dim=-1)                           # (B, T, V)
    nats = F.nll_loss(log_probs.flatten(0, 1), targets.flatten(), ignore_index=IGNORED,
                      reduction='sum')
    uniform = -(log_probs.mean(dim=-1) * (targets != IGNORED)).sum()
    return nats, uniform


def policy_loss(scores, targets, advantages, words):
    """Loss whose gradient is that of the expected reward, downwards.

    (REINFORCE: Williams 1992, Simple Statistical Gradient-Following Algorithms.) scores: (S, T, V)
    of drawn captions; targets: (S, T); advantages: (S,); words: how many of them are scored, of all
    processes. Returns a mean over words.
    """
    losses = F.cross_entropy(scores.flatten(0, 1), targets.flatten(), ignore_index=IGNORED,
                             reduction='none')
    per_caption = losses.view_as(targets).sum(dim=1)
    return (per_caption * advantages).sum() / words


def mask_padding(captions, lengths):
    """Captions (B, T) with `lengths` (B,) -> targets (B, T).

    IGNORED stands at position 0, where the image alone predicts the start word, and in the padding.
    """
    position = torch.arange(captions.shape[1], device=captions.device)
    return captions.masked_fill((position == 0) | (position >= lengths[:, None]), IGNORED)
