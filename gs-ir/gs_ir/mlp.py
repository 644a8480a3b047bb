"""Small networks of 64-wide layers, each pass in one kernel.

On a GPU the layers run on tensor cores. Every float32 operand is split into two bfloat16 numbers and products are
accumulated in float32, so values and gradients by the inputs are right to about 1e-5 of their terms. Only for
gradients of weights and biases are the factors rounded to bfloat16, an error that averages out over the points.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gs_ir._library import define
from gs_ir.reference import mlp as reference

WIDTH = 64
MAX_PARTS, MAX_INPUTS, MAX_OUTPUTS, MAX_SDF_INPUTS = 4, 96, 16, 48

define("mlp", "(Tensor[] parts, Tensor[] layers, bool smooth) -> Tensor", reference.mlp)
define(
    "mlp_backward",
    "(Tensor grad, Tensor[] parts, Tensor[] layers, bool smooth, bool[4] wanted) -> Tensor[]",
    reference.mlp_backward,
)
define(
    "sdf_mlp",
    "(Tensor coordinates, Tensor features, Tensor jacobian, Tensor[] layers, float scale) -> (Tensor, Tensor)",
    reference.sdf_mlp,
)
define(
    "sdf_mlp_backward",
    "(Tensor grad_outputs, Tensor grad_gradient, Tensor coordinates, Tensor features, Tensor jacobian,"
    " Tensor[] layers, *, float scale) -> Tensor[]",
    reference.sdf_mlp_backward,
)


def fits(layers: Sequence[Tensor], parts: int = 1) -> bool:
    """Whether the kernels take a network of ``layers`` (weights and biases in turn) on so many input tensors.

    They take one or two hidden layers of 64, at most 96 inputs and 16 outputs, of float32; on a GPU, one with bfloat16
    tensor cores whose shared memory holds the layers in both directions.
    """
    weights = layers[::2]
    shapes = [tuple(w.shape) for w in weights[1:-1]]
    first, last = weights[0], weights[-1]
    if parts > MAX_PARTS or len(weights) not in (2, 3) or any(s != (WIDTH, WIDTH) for s in shapes):
        return False
    if first.shape[0] != WIDTH or first.shape[1] > MAX_INPUTS or last.shape[0] > MAX_OUTPUTS:
        return False
    if any(x.dtype != torch.float32 for x in layers):
        return False
    return not first.is_cuda or _shared_bytes(first.shape[1], len(weights) - 1) <= _shared_memory(first.device)


def mlp(parts: Sequence[Tensor], layers: Sequence[Tensor], *, smooth: bool) -> Tensor:
    """Outputs of a network whose inputs are several tensors side by side.

    Args:
        parts: up to four tensors [N, K_i], the first layer's inputs in order.
        layers: weight [64, sum K_i] and bias [64] of the first layer, those of a second one ([64, 64]) if there is
            one, and weight [O, 64] and bias [O] of the output, O <= 16.
        smooth: activations are softplus(100 x) / 100, else ReLU.

    Returns:
        [N, O], differentiable once in parts and layers.

    Raises:
        ValueError: the kernels do not take such a network; see :func:`fits`.
    """
    _check(layers, parts)
    return _Mlp.apply(smooth, len(parts), *parts, *layers)


def sdf_mlp(
    coordinates: Tensor, features: Tensor, jacobian: Tensor, layers: Sequence[Tensor], *, scale: float
) -> tuple[Tensor, Tensor]:
    """Outputs of a softplus network of one hidden layer, and the spatial gradient of the first output.

    With a = W1 [coordinates, features] + b1 and v = W1^T (w2 * sigmoid(100 a)), w2 the first row of the output layer,
    the gradient is ``scale`` v[:3] + J^T v[3:].

    Args:
        coordinates: [N, 3]
        features: [N, D], at most 45.
        jacobian: [N, D, 3] of the features by the point.
        layers: weight [64, 3 + D] and bias [64], then weight [O, 64] and bias [O] with O <= 16.
        scale: derivative of a coordinate by the point.

    Returns:
        outputs [N, O] and gradient [N, 3], both differentiable once in all tensors.

    Raises:
        ValueError: the kernels do not take such a network.
    """
    parts = (coordinates, features)
    _check(layers, parts)
    if len(layers) != 4 or layers[0].shape[1] > MAX_SDF_INPUTS or jacobian.shape != (*features.shape, 3):
        raise ValueError(f"sdf_mlp: one hidden layer and jacobian [N, D, 3] expected, found {tuple(jacobian.shape)}")
    return _SdfMlp.apply(scale, coordinates, features, jacobian, *layers)


class _Mlp(torch.autograd.Function):
    """The operators ``mlp`` and ``mlp_backward``."""

    @staticmethod
    def forward(ctx, smooth: bool, count: int, *tensors: Tensor) -> Tensor:
        tensors = tuple(x.detach().contiguous() for x in tensors)
        ctx.save_for_backward(*tensors)
        ctx.smooth, ctx.count = smooth, count
        return torch.ops.gs_ir.mlp(tensors[:count], tensors[count:], smooth)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        tensors, count = ctx.saved_tensors, ctx.count
        wanted = ctx.needs_input_grad[2:]
        of_parts = [i < count and wanted[i] for i in range(MAX_PARTS)]
        found = torch.ops.gs_ir.mlp_backward(grad.contiguous(), tensors[:count], tensors[count:], ctx.smooth, of_parts)
        return None, None, *(g if w else None for g, w in zip(found, wanted, strict=True))


class _SdfMlp(torch.autograd.Function):
    """The operators ``sdf_mlp`` and ``sdf_mlp_backward``."""

    @staticmethod
    def forward(ctx, scale: float, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        tensors = tuple(x.detach().contiguous() for x in tensors)
        ctx.save_for_backward(*tensors)
        ctx.scale = scale
        return torch.ops.gs_ir.sdf_mlp(*tensors[:3], tensors[3:], scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_outputs: Tensor, grad_gradient: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        cotangents = grad_outputs.contiguous(), grad_gradient.contiguous()
        found = torch.ops.gs_ir.sdf_mlp_backward(*cotangents, *tensors[:3], tensors[3:], scale=ctx.scale)
        return None, *(g if w else None for g, w in zip(found, ctx.needs_input_grad[1:], strict=True))


def _check(layers: Sequence[Tensor], parts: Sequence[Tensor]) -> None:
    columns = sum(x.shape[1] for x in parts)
    if columns != layers[0].shape[1] or not fits(layers, len(parts)) or any(x.dtype != torch.float32 for x in parts):
        shapes = [tuple(x.shape) for x in layers]
        raise ValueError(
            f"mlp: float32 and one or two hidden layers of {WIDTH} expected, found {shapes} on {columns} columns"
        )
    for weight, bias in zip(layers[::2], layers[1::2], strict=True):
        if bias.shape != weight.shape[:1]:
            raise ValueError(f"mlp: bias {tuple(weight.shape[:1])} expected, found {tuple(bias.shape)}")
    if any(len(x) != len(parts[0]) for x in parts):
        raise ValueError(f"mlp: parts of as many rows expected, found {[len(x) for x in parts]}")


def _shared_bytes(inputs: int, hidden_layers: int) -> int:
    """Shared memory of the backward kernels: BackwardLayout in csrc/mlp_backward.cuh."""
    steps = (inputs + 15) // 16
    weights = 512 * (16 * steps + 8 + 64 * (hidden_layers == 2))
    by_row, by_column = 512 * (16 * steps + 8), 2 * 136 * (WIDTH + max(WIDTH, 16 * steps))
    return weights + 4 * (2 * WIDTH + MAX_OUTPUTS) + max(by_row, by_column)


@lru_cache
def _shared_memory(device: torch.device) -> int:
    """Bytes that a block may have; none where there are no bfloat16 tensor cores."""
    properties = torch.cuda.get_device_properties(device)
    # Not in PyTorch's annotations, and absent from older versions: then what every such device has.
    return getattr(properties, "shared_memory_per_block_optin", 99 * 1024) if properties.major >= 8 else 0
