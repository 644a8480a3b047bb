"""Prefiltering of cube maps for split-sum shading: GGX lobes of several roughnesses, and the cosine lobe.

The source texels of a level are those of a pyramid whose resolution suits the lobe.
"""

from functools import lru_cache
from math import ceil, log2

import torch
from torch import Tensor

from gs_ir.cubemap import PrefilteredLight, texel_directions, texel_solid_angles
from gs_ir.reference import cubemap as reference
from gs_ir.reference.spherical_harmonics import basis

LOBE_FRACTION = 0.99
"""Share of the GGX normals inside the cone that prefiltering visits."""
SMALLEST_LEVEL = 16
FINE_ROUGHNESS = (0.08, 0.185, 0.29, 0.395, 0.5)
COARSE_ROUGHNESS = (0.65, 0.8, 1.0)
IRRADIANCE_RESOLUTION = 64
"""Texels along an edge of the level that is projected onto harmonics: their quadrature is exact to 1e-4 there."""
IRRADIANCE_FACTORS = (1.0, 2 / 3, 2 / 3, 2 / 3, 0.25, 0.25, 0.25, 0.25, 0.25)


def default_levels(resolution: int) -> list[tuple[int, float]]:
    """Resolution and roughness of each prefiltered level for a base ``resolution`` (a power of two, at least 16).

    Roughness up to 0.5 follows the published spacing; beyond it two more levels replace the published jump to 1.
    A level is no finer than its lobe needs.
    """
    fine = [
        (max(SMALLEST_LEVEL, min(resolution >> i, _resolution_of_lobe(roughness))), roughness)
        for i, roughness in enumerate(FINE_ROUGHNESS)
    ]
    return [(min(r, resolution), roughness) for r, roughness in fine + [(SMALLEST_LEVEL, r) for r in COARSE_ROUGHNESS]]


def published_levels(resolution: int) -> list[tuple[int, float]]:
    """The reference system's levels: a pyramid down to 16, roughness 0.08 to 0.5, and 1 at the end."""
    count = max(int(log2(resolution / SMALLEST_LEVEL)) + 1, 2)
    steps = max(count - 2, 1)
    roughness = [0.08 + 0.42 * i / steps for i in range(count - 1)] + [1.0]
    return [(max(resolution >> i, SMALLEST_LEVEL), value) for i, value in enumerate(roughness)]


def prefilter(cubemap: Tensor, levels: list[tuple[int, float]] | None = None) -> PrefilteredLight:
    """Convolve a cube map with GGX lobes and with the cosine lobe.

    Level of roughness r: the mean of L weighted by n.l D(h), n = v = r (Karis 2013), ``ggx_alpha = r**2``, over the
    cone that holds 99 % of the lobe (the published rule). The weights are exact texel solid angles, normalised by their
    sum, so a constant light is reproduced.

    Args:
        cubemap: [6, R, R, 3] linear radiance; R a power of two, at least 16.
        levels: resolution and roughness of each level, ending with roughness 1; :func:`default_levels` when not given.

    Returns:
        The prefiltered light; differentiable in ``cubemap``, deterministic.

    Raises:
        ValueError: wrong shape or resolution, or a last level of another roughness.
    """
    resolution = cubemap.shape[1]
    if cubemap.ndim != 4 or cubemap.shape[0] != 6 or cubemap.shape[2] != resolution:
        raise ValueError(f"prefilter: a cube map [6, R, R, 3] expected, found {tuple(cubemap.shape)}")
    if resolution < SMALLEST_LEVEL or resolution & (resolution - 1):
        raise ValueError(f"prefilter: a power of two of at least {SMALLEST_LEVEL} expected, found R = {resolution}")
    levels = default_levels(resolution) if levels is None else levels
    if levels[-1][1] != 1.0:
        raise ValueError(f"prefilter: the last level must have roughness 1, found {levels[-1][1]}")
    *mips, irradiance_sh = _Prefilter.apply(cubemap, levels)
    return PrefilteredLight(mips, [roughness for _, roughness in levels], irradiance_sh, source=cubemap.detach())


def _resolution_of_lobe(roughness: float) -> int:
    """The power of two whose texels are about half as wide as the lobe's half width at half maximum."""
    return 2 ** ceil(log2(2 / roughness**2) - 0.3)


def _min_cosine(alpha: float) -> float:
    """Cosine between axis and rim of the cone that holds LOBE_FRACTION of the lobe, at least 0."""
    tangent_squared = alpha**2 * LOBE_FRACTION / (1 - LOBE_FRACTION)
    return max((1 - tangent_squared) / (1 + tangent_squared), 0.0)


class _Prefilter(torch.autograd.Function):
    """All levels and the harmonics in one node: on a GPU the bookkeeping of a node for each costs more than they do."""

    @staticmethod
    def forward(ctx, cubemap: Tensor, levels: list[tuple[int, float]]) -> tuple[Tensor, ...]:
        """Levels [6, r, r, 3] and harmonics [9, 3] of ``cubemap`` [6, R, R, 3]."""
        pyramid = {cubemap.shape[1]: cubemap.contiguous()}
        with torch._C._AutoDispatchBelowAutograd():  # nothing in here needs a node of its own
            mips = [_filter_level(pyramid, target, roughness) for target, roughness in levels]
            harmonics = _irradiance(pyramid)
        ctx.levels, ctx.resolutions = levels, sorted(pyramid)
        ctx.set_materialize_grads(False)
        return *mips, harmonics

    @staticmethod
    def backward(ctx, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        """Cotangent of the cube map: that of every level of the pyramid, handed on from coarse to fine."""
        finest = ctx.resolutions[-1]
        collected: dict[int, Tensor] = {}
        for (_, roughness), grad in zip(ctx.levels, grads):
            if grad is not None:
                source = min(finest, _source_resolution(roughness))
                _add(collected, source, _adj_filter_level(grad, source, roughness))
        if grads[-1] is not None:
            source = min(finest, IRRADIANCE_RESOLUTION)
            projection = _irradiance_projection(source, grads[-1].dtype, grads[-1].device)
            _add(collected, source, (projection.T @ grads[-1]).reshape(6, source, source, 3))
        for resolution in ctx.resolutions[:-1]:
            if resolution in collected:
                _add(collected, 2 * resolution, reference.adj_parent_level(collected[resolution]))
        return collected.get(finest), None


def _add(collected: dict[int, Tensor], resolution: int, grad: Tensor) -> None:
    collected[resolution] = collected[resolution] + grad if resolution in collected else grad


def _source_resolution(roughness: float) -> int:
    """Resolution of the pyramid's level that a level of ``roughness`` is filtered from, if the pyramid has it."""
    return max(SMALLEST_LEVEL, _resolution_of_lobe(roughness))


def _filter_level(pyramid: dict[int, Tensor], target: int, roughness: float) -> Tensor:
    source = _pyramid_level(pyramid, _source_resolution(roughness))
    key = (source.shape[1], source.dtype, source.device)
    alpha = roughness**2
    scale = _inverse_lobe_sum(target, alpha, *key)
    return torch.ops.gs_ir.convolve_ggx(source, target, alpha, _min_cosine(alpha), _cube_solid_angles(*key), scale)


def _adj_filter_level(grad: Tensor, source: int, roughness: float) -> Tensor:
    # The weight depends on the angle between two texels only, so the transposed operator is the operator itself.
    key = (source, grad.dtype, grad.device)
    alpha = roughness**2
    scale = _inverse_lobe_sum(grad.shape[1], alpha, *key)
    convolve = torch.ops.gs_ir.convolve_ggx
    return convolve(grad.contiguous(), source, alpha, _min_cosine(alpha), scale, _cube_solid_angles(*key))


def _pyramid_level(pyramid: dict[int, Tensor], resolution: int) -> Tensor:
    """The level of ``resolution``, or the finest; missing ones are added to ``pyramid``, whose smallest key descends.

    A GPU so starts on the costly finest level before the coarse ones are made.
    """
    while min(pyramid) > resolution:
        finest = min(pyramid)
        pyramid[finest // 2] = reference.parent_level(pyramid[finest])
    return pyramid[min(resolution, max(pyramid))]


# Constants are kept for each device: making them anew would copy from the host, which waits for the device. They are
# no inference tensors even where first needed in inference mode, because training may need them later.


@lru_cache(maxsize=32)
def _cube_solid_angles(resolution: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[6, R, R, 1]"""
    with torch.inference_mode(False):
        angles = texel_solid_angles(resolution, dtype=dtype, device=device)
        return angles.expand(6, resolution, resolution)[..., None].contiguous()


@lru_cache(maxsize=64)
def _inverse_lobe_sum(target: int, alpha: float, source: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """1 / sum of the weights, [6, R, R, 1], of each texel."""
    with torch.inference_mode(False):
        weights = _cube_solid_angles(source, dtype, device)
        return torch.ops.gs_ir.convolve_ggx(weights, target, alpha, _min_cosine(alpha)).reciprocal()


@lru_cache(maxsize=8)
def _irradiance_projection(resolution: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Matrix [9, 6 R R] from texels to coefficients of irradiance / pi."""
    with torch.inference_mode(False):
        directions = texel_directions(resolution, dtype=torch.float64, device=device).reshape(-1, 3)
        weights = _cube_solid_angles(resolution, torch.float64, device).reshape(-1, 1)
        factors = weights.new_tensor(IRRADIANCE_FACTORS)
        return (basis(directions, 2) * weights * factors).T.to(dtype).contiguous()


def _irradiance(pyramid: dict[int, Tensor]) -> Tensor:
    texels = _pyramid_level(pyramid, IRRADIANCE_RESOLUTION)
    return _irradiance_projection(texels.shape[1], texels.dtype, texels.device) @ texels.reshape(-1, 3)
