"""Shared losses against values worked out by hand."""

import math

import pytest
import torch

from core.losses import coverage_cross_entropy, huber, masked_l1, masked_mean


def test_masked_mean_counts_selected_pixels():
    """Catches a mean over all pixels, and a division by zero that poisons gradients where nothing is selected."""
    values = torch.arange(12.0).reshape(2, 2, 3).requires_grad_()
    mask = torch.tensor([[1.0, 0.0], [0.0, 0.6]])
    assert masked_mean(values, mask).item() == pytest.approx((1 + 10) / 2)
    nothing = masked_mean(values, torch.zeros(2, 2))
    nothing.backward()
    assert nothing.item() == 0
    assert values.grad.abs().sum() == 0


def test_masked_l1():
    """Catches a sum over channels."""
    predicted, target = torch.zeros(1, 2, 3), torch.tensor([[[0.3, 0.6, 0.9], [5.0, 5.0, 5.0]]])
    assert masked_l1(predicted, target, torch.tensor([[1.0, 0.0]])).item() == pytest.approx(0.6)


def test_coverage_cross_entropy_is_finite_at_certainty():
    """Catches log(0): a fully wrong pixel costs -log(floor)."""
    alpha = torch.tensor([0.0, 1.0, 0.5])
    mask = torch.tensor([1.0, 1.0, 0.0])
    expected = (-math.log(1e-3) - math.log(1 - 1e-3) - math.log(0.5)) / 3
    assert coverage_cross_entropy(alpha, mask).item() == pytest.approx(expected, rel=1e-5)


def test_huber_agrees_with_torch():
    """Catches a jump at delta: torch's smooth_l1 with beta = delta is the same function."""
    values = torch.linspace(-0.01, 0.01, 101)
    expected = torch.nn.functional.smooth_l1_loss(values, torch.zeros(101), beta=0.002)
    assert huber(values, 0.002).item() == pytest.approx(expected.item(), rel=1e-5)
