"""Losses: what is scored and what is not, and which way the policy gradient goes."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from captioning.losses import IGNORED, LOSSES, caption_losses, mask_padding, policy_loss


def test_padding_and_start_get_no_gradient():
    scores = torch.randn(2, 5, 7, requires_grad=True)
    targets = torch.tensor([[-100, 3, 4, 1, -100], [-100, 6, 1, -100, -100]])
    nats, smoothing = caption_losses(scores, targets)
    (nats + smoothing).backward()
    assert torch.equal(scores.grad.abs().sum(-1) > 0, targets != IGNORED)
    flat = scores.flatten(0, 1), targets.flatten()
    assert torch.allclose(nats, cross_entropy(*flat, reduction='sum'))
    smooth = cross_entropy(*flat, reduction='sum', label_smoothing=0.3)
    assert torch.allclose(0.7 * nats + 0.3 * smoothing, smooth)


def test_the_loss_is_the_sum_over_groups():
    """Of length groups: how a batch is split makes no difference, and smoothing is not logged."""
    scores, targets = torch.randn(4, 5, 7), torch.randint(0, 7, (4, 5))
    total, nats = LOSSES['cross_entropy']([(scores[:1], targets[:1]), (scores[1:], targets[1:])],
                                          label_smoothing=0.3)
    flat = scores.flatten(0, 1), targets.flatten()
    assert torch.allclose(nats, cross_entropy(*flat, reduction='sum'))
    smooth = cross_entropy(*flat, reduction='sum', label_smoothing=0.3)
    assert torch.allclose(total, smooth)


def test_targets_leave_out_the_start_word_and_the_padding():
    captions = torch.tensor([[0, 5, 6, 1, 1], [0, 7, 1, 1, 1]])
    targets = mask_padding(captions, torch.tensor([4, 3]))
    assert targets.tolist() == [[-100, 5, 6, 1, -100], [-100, 7, 1, -100, -100]]


def test_the_policy_gradient_makes_better_captions_likelier():
    scores = torch.zeros(2, 3, 5, requires_grad=True)
    targets = torch.tensor([[-100, 3, 1], [-100, 4, -100]])
    policy_loss(scores, targets, torch.tensor([0.5, -0.2]), words=3).backward()
    assert scores.grad[0, 1, 3] < 0 and scores.grad[0, 2, 1] < 0 < scores.grad[1, 1, 4]
    assert torch.equal(scores.grad.abs().sum(-1) > 0, targets != IGNORED)
    assert scores.grad[0, 1, 3].item() == pytest.approx(-0.5 * (1 - 0.2) / 3)
