"""Colour conversion: fields and lights are linear, images are sRGB (IEC 61966-2-1). The only place that converts."""

from functools import lru_cache

import torch
from torch import Tensor

LUMINANCE = (0.212671, 0.715160, 0.072169)
"""Weights of linear red, green and blue in luminance (Rec. 709)."""


def linear_to_srgb(linear: Tensor) -> Tensor:
    """Encode linear radiance [...] to sRGB [...]. Not clamped above 1, so over-exposed values keep their gradient."""
    # The floor keeps the power's gradient finite where the straight piece is selected.
    curve = 1.055 * linear.clamp_min(0.0031308).pow(1 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, curve)


def srgb_to_linear(srgb: Tensor) -> Tensor:
    """Decode sRGB [...] in [0, 1] to linear radiance [...]."""
    curve = ((srgb.clamp_min(0.04045) + 0.055) / 1.055).pow(2.4)
    return torch.where(srgb <= 0.04045, srgb / 12.92, curve)


def composite(linear_premultiplied: Tensor, alpha: Tensor, background: Tensor | float) -> Tensor:
    """Linear premultiplied colour [..., 3] over a linear ``background`` with coverage ``alpha`` [...]."""
    return linear_premultiplied + (1 - alpha[..., None]) * background


def luminance(linear: Tensor) -> Tensor:
    """Luminance [...] of linear RGB [..., 3]."""
    return linear @ _luminance_weights(linear.dtype, linear.device)


@lru_cache(maxsize=8)
def _luminance_weights(dtype: torch.dtype, device: torch.device) -> Tensor:
    # Copied to a device once: each copy from the host waits for it.
    with torch.inference_mode(False):
        return torch.tensor(LUMINANCE, dtype=dtype, device=device)
