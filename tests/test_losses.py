"""Losses: their sums and gradients, and which way the policy gradient goes."""

import pytest
import torch
import torch.nn.functional as F

from captioning import losses
from captioning.losses import (
    LOSSES,
    GpuCaptionLosses,
    caption_losses,
    policy_loss,
)


@pytest.mark.parametrize('part', [1, 20, 1000], ids=['row by row', 'some rows', 'at once'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_sums_and_gradients_are_those_of_pytorch(part, dtype, monkeypatch):
    monkeypatch.setattr(losses, 'PART', part)
    scores = (3 * torch.randn(9, 7)).to(dtype).requires_grad_()
    targets = torch.randint(7, (9,))
    nats, smoothing = caption_losses(scores, targets)
    (0.7 * nats + 0.3 * smoothing).backward()
    exact = scores.detach().double().requires_grad_()
    expected = F.cross_entropy(exact, targets, reduction='sum', label_smoothing=0.3)
    expected.backward()
    assert nats.dtype == torch.float32 and scores.grad.dtype == dtype
    assert torch.allclose(nats.double(), F.cross_entropy(exact, targets, reduction='sum'))
    assert torch.allclose((0.7 * nats + 0.3 * smoothing).double(), expected)
    error = 1e-6 if dtype == torch.float32 else 4e-3
    assert torch.allclose(scores.grad.double(), exact.grad, atol=error)


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('columns', [7, 16], ids=['bare', 'padded'])
def test_those_of_a_gpu_are_the_same(dtype, columns):
    """Which takes any device: of scores that AlignedLinear padded, and with rows that only pad."""
    whole = (3 * torch.randn(9, columns)).to(dtype).requires_grad_()
    targets = torch.tensor([0, 6, -1, 2, 3, -1, 4, 5, 1])
    counted = targets >= 0
    scores = 1 * whole
    scores.data[:, 7:] = -torch.inf
    nats, smoothing = GpuCaptionLosses.apply(scores, targets, 7)
    (0.7 * nats + 0.3 * smoothing).backward()
    exact = whole.detach().double().requires_grad_()
    expected = F.cross_entropy(exact[counted, :7], targets[counted], reduction='sum',
                               label_smoothing=0.3)
    expected.backward()
    error = 1e-6 if dtype == torch.float32 else 8e-3
    assert torch.allclose((0.7 * nats + 0.3 * smoothing).double(), expected, rtol=error)
    assert torch.allclose(whole.grad.double(), exact.grad, atol=error)
    assert not whole.grad[~counted].any() and not whole.grad[:, 7:].any()


def test_a_word_without_probability_is_a_number():
    scores = torch.tensor([[0.0, 300.0], [0.0, 300.0]], requires_grad=True)
    sums = GpuCaptionLosses.apply(scores, torch.tensor([0, -1]), 2)
    sum(sums).backward()
    assert all(value.isfinite() for value in sums) and scores.grad.isfinite().all()
    assert scores.grad[0].any() and not scores.grad[1].any()


def test_smoothing_is_trained_on_and_not_logged():
    scores, targets = torch.randn(20, 7), torch.randint(0, 7, (20,))
    total, nats = LOSSES['cross_entropy'](scores, targets, label_smoothing=0.3)
    assert torch.allclose(nats, F.cross_entropy(scores, targets, reduction='sum'))
    smooth = F.cross_entropy(scores, targets, reduction='sum', label_smoothing=0.3)
    assert torch.allclose(total, smooth)


def test_the_policy_gradient_makes_better_captions_likelier():
    """Two captions, of two words and of one."""
    scores = torch.zeros(3, 5, requires_grad=True)
    targets, advantages = torch.tensor([3, 1, 4]), torch.tensor([0.5, 0.5, -0.2])
    policy_loss(scores, targets, advantages, words=3).backward()
    assert scores.grad[0, 3] < 0 and scores.grad[1, 1] < 0 < scores.grad[2, 4]
    assert scores.grad[0, 3].item() == pytest.approx(-0.5 * (1 - 0.2) / 3)
