"""Surface elements under a small light, for tests of shading on any device."""

from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gs_ir.cubemap import PrefilteredLight
from gs_ir.reference import shading as reference
from gs_ir.shading import LobeRules, shade, split_sum

F64 = torch.float64
SIZES, KNOTS = [8, 4, 4], [0.2, 0.55, 1.0]
RULES = list(product((False, True), repeat=3))
"""lagarde, multi_bounce, dominant."""


def scene(count: int, dtype: torch.dtype, *, open_sky: bool = False, special: bool = True) -> tuple[Tensor, ...]:
    """Leaves: elements and texels, in the operator's order; no visibility under an open sky.

    Special elements face away (a third of them), are mirrors or closed.
    """
    generator = torch.Generator().manual_seed(count)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=F64)

    normals, noise = (normalize(torch.randn(count, 3, generator=generator, dtype=F64), dim=-1) for _ in range(2))
    to_viewer = normalize(normals + 0.9 * noise, dim=-1)
    roughness, visibility = 0.05 + 0.9 * uniform(count), 0.05 + 0.9 * uniform(count)
    if special:
        normals[: count // 3] *= -1
        roughness[1:4], visibility[2:6] = 0.0, 0.0
    elements = (
        normals,
        to_viewer,
        uniform(count, 3),
        roughness,
        uniform(count),
        visibility[: 0 if open_sky else count],
    )
    texels = uniform(sum(6 * r * r for r in SIZES), 3)
    return tuple(x.to(dtype).requires_grad_() for x in (*elements, texels))


def turn_of(like: Tensor) -> Tensor:
    """[3, 3] an orthogonal matrix."""
    noise = torch.randn(3, 3, generator=torch.Generator().manual_seed(7), dtype=F64)
    return torch.linalg.qr(noise)[0].to(like)


def shade_natively(*inputs: Tensor, rules: tuple[bool, ...], turned: bool) -> tuple[Tensor, Tensor]:
    """Both lobes by the public function; ``inputs`` of :func:`scene`."""
    normals, to_viewer, albedo, roughness, metallic, visibility, texels = inputs
    levels = texels.split([6 * r * r for r in SIZES])
    light = PrefilteredLight(
        [x.reshape(6, r, r, 3) for x, r in zip(levels, SIZES, strict=True)],
        KNOTS,
        texels.new_zeros(9, 3),
        light_from_world=turn_of(texels) if turned else None,
    )
    return shade(
        normals,
        to_viewer,
        albedo=albedo,
        roughness=roughness,
        metallic=metallic,
        visibility=visibility if len(visibility) else None,
        light=light,
        rules=LobeRules(*rules),
    )


def shade_by_reference(*inputs: Tensor, rules: tuple[bool, ...], turned: bool) -> tuple[Tensor, Tensor]:
    """Both lobes in PyTorch."""
    texels = inputs[-1]
    return reference.shade(
        *inputs,
        resolutions=SIZES,
        level_roughness=KNOTS,
        light_from_world=turn_of(texels) if turned else None,
        table=split_sum(texels.dtype, texels.device),
        rules=[int(rule) for rule in rules],
    )
