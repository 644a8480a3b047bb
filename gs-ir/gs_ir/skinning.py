"""Linear blend skinning through a volume of blended transforms.

Blending is linear, so interpolating transforms that were blended at lattice points equals blending with interpolated
skinning weights; one lookup of 12 channels replaces one of 24 weights and the blend. The volume is channel last and x
is the fastest axis: the eight corners of a cell are four contiguous runs of memory.
"""

import math

import torch
from torch import Tensor

from gs_ir._library import define
from gs_ir.reference import skinning as reference

_ARGUMENTS = "Tensor points, Tensor volume, Tensor box, Tensor frame_index"
define("sample_transforms", f"({_ARGUMENTS}) -> Tensor", reference.sample_transforms)
# Two operators, so that the gradient of the (large) volume is paid for only when it is wanted.
define(
    "sample_transforms_backward_points",
    f"(Tensor grad, {_ARGUMENTS}) -> Tensor",
    reference.sample_transforms_backward_points,
)
define(
    "sample_transforms_backward_volume",
    f"(Tensor grad, {_ARGUMENTS}) -> Tensor",
    reference.sample_transforms_backward_volume,
)


@torch.library.register_fake("gs_ir::sample_transforms")
def _(points: Tensor, volume: Tensor, box: Tensor, frame_index: Tensor) -> Tensor:
    return points.new_empty(points.shape[0], 3, 4)


@torch.library.register_fake("gs_ir::sample_transforms_backward_points")
def _(grad: Tensor, points: Tensor, volume: Tensor, box: Tensor, frame_index: Tensor) -> Tensor:
    return torch.empty_like(points)


@torch.library.register_fake("gs_ir::sample_transforms_backward_volume")
def _(grad: Tensor, points: Tensor, volume: Tensor, box: Tensor, frame_index: Tensor) -> Tensor:
    return torch.empty_like(volume)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    grad, saved = grad.contiguous(), ctx.saved_tensors
    to_points, to_volume = ctx.needs_input_grad[:2]
    grad_points = torch.ops.gs_ir.sample_transforms_backward_points(grad, *saved) if to_points else None
    grad_volume = torch.ops.gs_ir.sample_transforms_backward_volume(grad, *saved) if to_volume else None
    return grad_points, grad_volume, None, None


torch.library.register_autograd("gs_ir::sample_transforms", _backward, setup_context=_save)


def blend_transforms(weight_volume: Tensor, bone_transforms: Tensor) -> Tensor:
    """Blend bone transforms at every lattice point: T = sum_j w_j A_j.

    Args:
        weight_volume: [Z, Y, X, J] skinning weights, summing to 1 over J.
        bone_transforms: [B, J, 4, 4] canonical to posed, last row (0, 0, 0, 1).

    Returns:
        [B, Z, Y, X, 12]: the upper 3 x 4 of the blended transforms, row by row. Differentiable in both.

    Raises:
        ValueError: the number of bones differs.
    """
    bones = weight_volume.shape[-1]
    if bone_transforms.ndim != 4 or bone_transforms.shape[1:] != (bones, 4, 4):
        found = tuple(bone_transforms.shape)
        raise ValueError(f"blend_transforms: bone_transforms [B, {bones}, 4, 4] expected, found {found}")
    rows = bone_transforms[:, :, :3].reshape(-1, bones, 12)
    blended = weight_volume.reshape(-1, bones) @ rows
    return blended.reshape(-1, *weight_volume.shape[:3], 12)


def check_volume(volume: Tensor, box: Tensor) -> None:
    """Raise ValueError unless ``volume`` is [B, Z, Y, X, 12], at least two points an axis, and ``box`` [2, 3].

    A frame of the volume has fewer than 2**31 numbers: the kernels index it with 32 bits.
    """
    if volume.ndim != 5 or volume.shape[-1] != 12 or min(volume.shape[1:4]) < 2:
        raise ValueError(f"volume [B, Z >= 2, Y >= 2, X >= 2, 12] expected, found {tuple(volume.shape)}")
    if math.prod(volume.shape[1:]) >= 2**31:
        raise ValueError(f"volume: fewer than 2**31 numbers a frame expected, found {tuple(volume.shape)}")
    if box.shape != (2, 3):
        raise ValueError(f"box [2, 3] expected, found {tuple(box.shape)}")


def sample_transforms(points: Tensor, volume: Tensor, box: Tensor, frame_index: Tensor) -> Tensor:
    """Interpolate blended transforms at canonical points (trilinear, corners aligned, clamped at the border).

    Args:
        points: [N, 3] canonical, metres.
        volume: [B, Z, Y, X, 12] from :func:`blend_transforms`.
        box: [2, 3] canonical positions of the first and last lattice point, x y z.
        frame_index: [N] int64, the volume of each point, in [0, B).

    Returns:
        [N, 3, 4] canonical to posed. Differentiable in ``points`` (zero along an axis clamped at the border) and in
        ``volume``, not in ``box``.

    Raises:
        ValueError: shapes disagree.
    """
    check_volume(volume, box)
    if points.ndim != 2 or points.shape[1] != 3 or frame_index.shape != points.shape[:1]:
        shapes = f"{tuple(points.shape)} and {tuple(frame_index.shape)}"
        raise ValueError(f"sample_transforms: points [N, 3] and frame_index [N] expected, found {shapes}")
    tensors = (points, volume, box, frame_index)
    return torch.ops.gs_ir.sample_transforms(*(t.contiguous() for t in tensors))
