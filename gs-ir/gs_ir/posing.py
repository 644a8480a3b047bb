"""Surfels at rest to surfels under a pose and before a camera, in one operator."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gs_ir._library import define
from gs_ir.reference import posing as reference
from gs_ir.reference.posing import NORMAL_RULES

_INPUTS = (
    "Tensor positions, Tensor log_scales, Tensor quaternions, Tensor opacity_logits, Tensor weights, Tensor bones, "
    "Tensor camera_from_world, Tensor intrinsics, *, int normals, bool area_opacity, float samples"
)
_OUTPUTS = 9
_CONSTANTS = 4
"""Last inputs, which get no gradient."""


def _backward_default(gradients, *inputs, **rules) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs[:-_CONSTANTS]]
        outputs = reference.pose_surfels(*leaves, *inputs[-_CONSTANTS:], **rules)
        given = [(o, g) for o, g in zip(outputs, gradients, strict=True) if g is not None]
        values, directions = zip(*given, strict=True)
        return torch.autograd.grad(values, leaves, directions, materialize_grads=True)


define("pose_surfels", f"({_INPUTS}) -> ({', '.join(['Tensor'] * _OUTPUTS)})", reference.pose_surfels)
define(
    "pose_surfels_backward", f"(Tensor?[] gradients, {_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)", _backward_default
)


@torch.library.register_fake("gs_ir::pose_surfels")
def _(positions, *_, **__):
    count = positions.shape[0]
    return *(positions.new_empty(count, 3) for _ in range(7)), positions.new_empty(count, 1), positions.new_empty(count)


def _save(ctx, inputs, keyword_only_inputs, output) -> None:
    ctx.save_for_backward(*inputs)
    ctx.rules = keyword_only_inputs
    ctx.set_materialize_grads(False)


def _backward(ctx, *gradients):
    if all(g is None for g in gradients):
        return (None,) * len(ctx.saved_tensors)
    rows = [None if g is None else g.contiguous() for g in gradients]
    found = torch.ops.gs_ir.pose_surfels_backward(rows, *ctx.saved_tensors, **ctx.rules)
    return *found, *[None] * _CONSTANTS


torch.library.register_autograd("gs_ir::pose_surfels", _backward, setup_context=_save)


@dataclass(frozen=True)
class PosingRules:
    """How surfels are turned to the viewer, and what becomes of their opacity."""

    normals: str = "visible"
    """``visible``: bent into the viewer's hemisphere. ``published``: flipped when n.v < -0.3. ``given``: unchanged."""
    area_opacity: bool = True
    """Whether a disc smaller than the screen filter loses opacity in proportion, and one seen from behind fades."""
    samples: int = 1
    """Raster samples per pixel of the camera and axis."""

    def __post_init__(self) -> None:
        if self.normals not in NORMAL_RULES:
            raise ValueError(f"PosingRules: normals {' | '.join(NORMAL_RULES)} expected, found {self.normals!r}")


@dataclass(frozen=True)
class SeenSurfels:
    """N surfels in world space, as one camera sees them."""

    centers: Tensor
    """[N, 3] metres."""
    tangents_u: Tensor
    """[N, 3]; length = standard deviation in metres."""
    tangents_v: Tensor
    """[N, 3]."""
    normals: Tensor
    """[N, 3] unit, outward."""
    normals_canonical: Tensor
    """[N, 3] unit, outward, in canonical space."""
    to_viewer: Tensor
    """[N, 3] unit, from each surfel to the camera."""
    normals_to_viewer: Tensor
    """[N, 3] unit, turned to the viewer by ``PosingRules.normals``."""
    cosine: Tensor
    """[N, 1] of the outward normal and ``to_viewer``."""
    opacities: Tensor
    """[N] as drawn."""


def pose_surfels(
    positions: Tensor,
    log_scales: Tensor,
    quaternions: Tensor,
    opacity_logits: Tensor,
    *,
    weights: Tensor,
    bones: Tensor,
    camera_from_world: Tensor,
    intrinsics: Tensor,
    rules: PosingRules,
) -> SeenSurfels:
    """Pose surfels by linear blend skinning and look at them.

    Centre and tangents are transformed by the blended matrix itself, so a surfel stays in the plane that the
    deformation gives it, and its normal is the cross product of its posed tangents.

    Args:
        positions: [N, 3] metres, canonical space.
        log_scales: [N, 2] log of the two standard deviations in metres.
        quaternions: [N, 4] wxyz, of any length; the rotation's columns are tangent u, tangent v and normal.
        opacity_logits: [N].
        weights: [N, J] skinning weights.
        bones: [J, 3, 4] canonical to world.
        camera_from_world: [4, 4] rigid transform.
        intrinsics: [3, 3] pixels.
        rules: see ``PosingRules``.

    Returns:
        Differentiable in the surfels' attributes, and in ``weights`` and ``bones``. Where one of these two wants a
        gradient (learned skinning, learned poses), the reference in PyTorch runs in place of the kernels.

    Raises:
        ValueError: shapes disagree.
    """
    tensors = positions, log_scales, quaternions, opacity_logits, weights, bones, camera_from_world, intrinsics
    _check_shapes(*tensors)
    learned = torch.is_grad_enabled() and (weights.requires_grad or bones.requires_grad)
    pose = reference.pose_surfels if learned else torch.ops.gs_ir.pose_surfels
    outputs = pose(
        *(x.contiguous() for x in tensors),
        normals=NORMAL_RULES.index(rules.normals),
        area_opacity=rules.area_opacity,
        samples=float(rules.samples**2),
    )
    return SeenSurfels(*outputs)


def _check_shapes(*tensors: Tensor) -> None:
    found = [tuple(x.shape) for x in tensors]
    count, joints = tensors[0].shape[0], tensors[5].shape[0]
    expected = [(count, 3), (count, 2), (count, 4), (count,), (count, joints), (joints, 3, 4), (4, 4), (3, 3)]
    if found != expected:
        raise ValueError(f"pose_surfels: shapes {expected} expected, found {found}")
