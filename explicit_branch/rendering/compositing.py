"""From premultiplied radiance to the picture that is seen."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from core.color import composite, linear_to_srgb


def srgb_picture(radiance: Tensor, alpha: Tensor, background: float) -> Tensor:
    """``radiance`` [H, W, 3], linear and premultiplied by ``alpha`` [H, W], over a grey ``background``, in sRGB.

    Clamped to [0, 1] in linear light. Differentiable once, in a third of the steps that autograd takes.
    """
    return _Picture.apply(radiance, alpha, background)


class _Picture(torch.autograd.Function):
    @staticmethod
    def forward(ctx, radiance: Tensor, alpha: Tensor, background: float) -> Tensor:
        linear = composite(radiance, alpha, background)
        ctx.save_for_backward(linear)
        ctx.background = background
        return linear_to_srgb(linear.clamp(0, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (linear,) = ctx.saved_tensors
        # The slope of core.color.linear_to_srgb; the straight piece has its own, outside [0, 1] there is none.
        slope = linear.clamp_min(0.0031308).pow_(1 / 2.4 - 1).mul_(1.055 / 2.4)
        slope = torch.where(linear <= 0.0031308, 12.92, slope)
        grad_radiance = torch.where((linear >= 0) & (linear <= 1), grad * slope, 0)
        return grad_radiance, grad_radiance.sum(-1).mul_(-ctx.background), None
