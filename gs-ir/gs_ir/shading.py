"""Split-sum shading (Karis 2013) of surface elements under a prefiltered light, both lobes in one operator.

diffuse = albedo (1 - metallic) E(n) / pi visibility; specular = L(r, roughness) (F0 A + B) visibility. Linear radiance.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from gs_ir._library import define, define_backward
from gs_ir.cubemap import PrefilteredLight
from gs_ir.reference import shading as reference
from gs_ir.split_sum import split_sum_table

TABLE_RESOLUTION = 128

_ELEMENTS = "Tensor normals, Tensor to_viewer, Tensor albedo, Tensor roughness, Tensor metallic, Tensor visibility"
_LIGHT = "int[] resolutions, float[] level_roughness, Tensor? light_from_world, Tensor table, int[] rules"

define("shade", f"({_ELEMENTS}, Tensor texels, *, {_LIGHT}) -> (Tensor, Tensor)", reference.shade)
define_backward(
    "shade_backward",
    f"(Tensor grad_diffuse, Tensor grad_specular, {_ELEMENTS}, Tensor texels, *, {_LIGHT}, bool fixed_light) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference.shade,
)


@torch.library.register_fake("gs_ir::shade")
def _(normals, to_viewer, albedo, *others, **light) -> tuple[Tensor, Tensor]:
    return torch.empty_like(albedo), torch.empty_like(albedo)


@dataclass(frozen=True)
class LobeRules:
    """How ambient visibility enters, and where light is read."""

    lagarde: bool = False
    """The specular lobe is dimmed by its width; else like the diffuse one."""
    multi_bounce: bool = False
    """Occluded diffuse light is brightened by what surroundings of the same albedo send back."""
    dominant: bool = True
    """Light is read at the lobe's mean direction; else at the mirror direction."""


class _Shade(torch.autograd.Function):
    """No ``register_autograd``: it takes no tensors by keyword."""

    @staticmethod
    def forward(ctx, light: dict, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Both lobes of elements and texels, in the operator's order."""
        tensors = tuple(x.contiguous() for x in tensors)
        ctx.light = light
        ctx.save_for_backward(*tensors)
        return torch.ops.gs_ir.shade(*tensors, **light)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_diffuse: Tensor, grad_specular: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of elements and texels; the rotation and the table are constants."""
        grads = (grad_diffuse.contiguous(), grad_specular.contiguous())
        fixed = not ctx.needs_input_grad[-1]
        found = torch.ops.gs_ir.shade_backward(*grads, *ctx.saved_tensors, **ctx.light, fixed_light=fixed)
        return None, *(g if needed else None for g, needed in zip(found, ctx.needs_input_grad[1:], strict=True))


def shade(
    normals: Tensor,
    to_viewer: Tensor,
    *,
    albedo: Tensor,
    roughness: Tensor,
    metallic: Tensor,
    visibility: Tensor | None,
    light: PrefilteredLight,
    rules: LobeRules,
) -> tuple[Tensor, Tensor]:
    """Diffuse and specular light [N, 3] that is reflected to the viewer, linear radiance.

    Differentiable once in everything but the light's rotation (piecewise: clamps, and the cells of the lookups).

    Args:
        normals: [N, 3] unit, world; used as given.
        to_viewer: [N, 3] unit, world.
        albedo: [N, 3] linear.
        roughness: [N] perceptual; ``ggx_alpha = roughness**2``.
        metallic: [N].
        visibility: [N] ambient, 1 = open; None: everything is open.
        light: prefiltered environment of at least two levels.
        rules: use of visibility, direction of the lookup.

    Raises:
        ValueError: shapes disagree, or the light has one level only.
    """
    count = albedo.shape[0]
    visibility = albedo.new_empty(0) if visibility is None else visibility
    elements = (normals, to_viewer, albedo, roughness, metallic, visibility)
    if any(x.shape != (count, 3) for x in elements[:3]) or any(x.shape != (count,) for x in elements[3:5]):
        raise ValueError(f"shade: vectors [N, 3] and numbers [N] expected, found {[tuple(x.shape) for x in elements]}")
    if visibility.shape not in ((count,), (0,)):
        raise ValueError(f"shade: visibility of {count} elements expected, found {tuple(visibility.shape)}")
    if len(light.mips) < 2:
        raise ValueError("shade: a light of at least two levels expected, found one")
    settings = {
        "resolutions": [m.shape[1] for m in light.mips],
        "level_roughness": light.roughness,
        "light_from_world": None if light.light_from_world is None else light.light_from_world.contiguous(),
        "table": split_sum(albedo.dtype, albedo.device),
        "rules": [int(rules.lagarde), int(rules.multi_bounce), int(rules.dominant)],
    }
    return _Shade.apply(settings, *elements, light.texels())


@lru_cache(maxsize=8)
def split_sum(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The split-sum table [R, R, 2] that shading reads; no inference tensor even where first needed in that mode."""
    with torch.inference_mode(False):
        return split_sum_table(TABLE_RESOLUTION).to(device, dtype)
