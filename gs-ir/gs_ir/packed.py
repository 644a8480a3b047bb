"""Reductions over the samples of a ray.

Samples of all rays lie one after another; ``packed_info`` [R, 2] (int64) holds each ray's first sample and count, in
ascending order without gaps. Rows behind the last ray's samples belong to no ray.
"""

import torch
from torch import Tensor

from gs_ir._library import define, define_backward
from gs_ir.reference import packed as reference

define("accumulate", "(Tensor weights, Tensor values, Tensor packed_info) -> Tensor", reference.accumulate)
define_backward(
    "accumulate_backward",
    "(Tensor grad, Tensor weights, Tensor values, Tensor packed_info) -> (Tensor, Tensor)",
    reference.accumulate,
)


@torch.library.register_fake("gs_ir::accumulate")
def _(weights: Tensor, values: Tensor, packed_info: Tensor) -> Tensor:
    return values.new_empty(packed_info.shape[0], values.shape[1])


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    return *torch.ops.gs_ir.accumulate_backward(grad.contiguous(), *ctx.saved_tensors), None


torch.library.register_autograd("gs_ir::accumulate", _backward, setup_context=_save)


def accumulate(weights: Tensor, values: Tensor, packed_info: Tensor) -> Tensor:
    """Composite values along rays: C_r = sum_i w_i v_i (Max 1995, eq. 9 in discrete form).

    Args:
        weights: [S] compositing weights T_i alpha_i.
        values: [S, C] what is composited, any unit.
        packed_info: [R, 2] int64, first sample and count of each ray.

    Returns:
        [R, C]; zero for rays without samples. Differentiable in ``weights`` and ``values``.

    Raises:
        ValueError: shapes disagree.
    """
    if weights.ndim != 1 or values.ndim != 2 or values.shape[0] != weights.shape[0]:
        shapes = f"{tuple(weights.shape)} and {tuple(values.shape)}"
        raise ValueError(f"accumulate: weights [S] and values [S, C] expected, found {shapes}")
    return torch.ops.gs_ir.accumulate(weights.contiguous(), values.contiguous(), packed_info)
