"""Lengths and directions of vectors, with few operators in the backward pass."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def unit_and_length(vectors: Tensor, floor: float = 1e-12) -> tuple[Tensor, Tensor]:
    """``vectors`` [..., D] divided by their length, and the length [..., 1], which is at least ``floor``.

    Differentiable once; where the floor acts, the length gets no useful gradient.
    """
    return _UnitAndLength.apply(vectors, floor)


def unit(vectors: Tensor, floor: float = 1e-12) -> Tensor:
    """Directions of ``vectors`` [..., D]: ``torch.nn.functional.normalize`` over the last dimension."""
    return unit_and_length(vectors, floor)[0]


class _UnitAndLength(torch.autograd.Function):
    """With u = x / |x|: dL/dx = (g_u - u (u . g_u - |x| g_l)) / |x|. Autograd's own takes three times as many steps."""

    @staticmethod
    def forward(ctx, vectors: Tensor, floor: float) -> tuple[Tensor, Tensor]:
        length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_min_(floor)
        directions = vectors / length
        ctx.save_for_backward(directions, length)
        ctx.set_materialize_grads(False)
        return directions, length

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_unit: Tensor | None, grad_length: Tensor | None):
        directions, length = ctx.saved_tensors
        if grad_unit is None:
            return None if grad_length is None else directions * grad_length, None
        along = (directions * grad_unit).sum(-1, keepdim=True)
        if grad_length is not None:
            along = torch.addcmul(along, length, grad_length, value=-1)
        return torch.addcmul(grad_unit, directions, along, value=-1).div_(length), None
