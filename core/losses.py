"""Losses that teacher and student share: plain functions of tensors, each a mean."""

import torch
from torch import Tensor
from torch.nn import functional


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` [..., C] or [...] where ``mask`` [...] > 0.5; 0 (with gradient) where nothing is selected."""
    weight = (mask > 0.5).to(values.dtype)
    if values.ndim > mask.ndim:
        values = values.mean(-1)
    return (values * weight).sum() / weight.sum().clamp_min(1)


def masked_l1(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute difference of [..., C] where ``mask`` [...] > 0.5."""
    return masked_mean((predicted - target).abs(), mask)


def coverage_cross_entropy(alpha: Tensor, mask: Tensor, floor: float = 1e-3) -> Tensor:
    """Binary cross-entropy of rendered coverage [...], kept ``floor`` from 0 and 1, against a mask [...] in [0, 1]."""
    return functional.binary_cross_entropy(alpha.clamp(floor, 1 - floor), mask)


def huber(values: Tensor, delta: float) -> Tensor:
    """Mean Huber function of ``values``: quadratic ``v² / (2 delta)`` within ``delta``, then ``|v| - delta / 2``."""
    size = values.abs()
    return torch.where(size <= delta, values**2 / (2 * delta), size - delta / 2).mean()
