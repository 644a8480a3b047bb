"""Prefiltering of cube maps for split-sum shading: GGX lobes of several roughnesses, and the cosine lobe.

The source texels of a level are those of a pyramid whose resolution suits the lobe.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, log2

import torch
from torch import Tensor

from gs_ir.cubemap import PrefilteredLight, solid_angles, texel_directions, texel_solid_angles
from gs_ir.reference import cubemap as reference
from gs_ir.reference.spherical_harmonics import basis

LOBE_FRACTION = 0.99
"""Share of the GGX normals inside the cone that prefiltering visits."""
SMALLEST_LEVEL = 16
HALVINGS = 4
"""Levels of the pyramid that one call of ``cubemap_pyramid`` makes at most."""
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
    if levels is not None and levels[-1][1] != 1.0:
        raise ValueError(f"prefilter: the last level must have roughness 1, found {levels[-1][1]}")
    plan = _plan(resolution, None if levels is None else tuple(levels), cubemap.dtype, cubemap.device)
    learned = cubemap.requires_grad and torch.is_grad_enabled()
    *mips, irradiance_sh = _Prefilter.apply(cubemap, plan) if learned else _filtered(cubemap, plan)
    return PrefilteredLight(mips, list(plan.roughness), irradiance_sh, source=cubemap.detach())


def _resolution_of_lobe(roughness: float) -> int:
    """The power of two whose texels are about half as wide as the lobe's half width at half maximum."""
    return 2 ** ceil(log2(2 / roughness**2) - 0.3)


def _min_cosine(alpha: float) -> float:
    """Cosine between axis and rim of the cone that holds LOBE_FRACTION of the lobe, at least 0."""
    tangent_squared = alpha**2 * LOBE_FRACTION / (1 - LOBE_FRACTION)
    return max((1 - tangent_squared) / (1 + tangent_squared), 0.0)


@dataclass(frozen=True)
class _Plan:
    """How the levels of a cube map are filtered; all lists have an entry for each level."""

    resolution: int
    """Of the cube map."""
    sources: list[int]
    """Resolution of the level of the pyramid that each is filtered from."""
    targets: list[int]
    roughness: list[float]
    alphas: list[float]
    min_cosines: list[float]
    weights: list[Tensor]
    """Solid angles of the sources."""
    scales: list[Tensor]
    """1 / sum of the weights around each texel."""
    projection: Tensor
    """Matrix [9, 6 r r] from the texels of the level ``harmonics_source`` to harmonics."""
    harmonics_source: int

    @property
    def pyramid(self) -> list[int]:
        """Resolutions of the pyramid, fine to coarse."""
        halvings = int(log2(self.resolution / min(*self.sources, self.harmonics_source)))
        return [self.resolution >> i for i in range(halvings + 1)]


def _filtered(cubemap: Tensor, plan: _Plan) -> tuple[Tensor, ...]:
    """Levels [6, r, r, 3] and harmonics [9, 3] of ``cubemap`` [6, R, R, 3]; no gradient."""
    with torch._C._AutoDispatchBelowAutograd():  # nothing in here needs a node of its own
        pyramid = _pyramid(cubemap.contiguous(), plan.pyramid)
        values = [pyramid[source] for source in plan.sources]
        mips = torch.ops.gs_ir.convolve_levels(
            values, plan.targets, plan.alphas, plan.min_cosines, plan.weights, plan.scales
        )
        return *mips, plan.projection @ pyramid[plan.harmonics_source].reshape(-1, 3)


def _pyramid(cubemap: Tensor, resolutions: list[int]) -> dict[int, Tensor]:
    levels = [cubemap]
    while len(levels) < len(resolutions):
        finest = levels[-1]
        halvings = min(len(resolutions) - len(levels), HALVINGS)
        angles = solid_angles(finest.shape[1], finest.dtype, finest.device)
        levels += torch.ops.gs_ir.cubemap_pyramid(finest, angles, halvings)
    return dict(zip(resolutions, levels, strict=True))


class _Prefilter(torch.autograd.Function):
    """All levels and the harmonics in one node: on a GPU the bookkeeping of a node for each costs more than they do."""

    @staticmethod
    def forward(ctx, cubemap: Tensor, plan: _Plan) -> tuple[Tensor, ...]:
        """As ``_filtered``."""
        ctx.plan = plan
        ctx.set_materialize_grads(False)
        return _filtered(cubemap, plan)

    @staticmethod
    def backward(ctx, *grads: Tensor | None) -> tuple[Tensor | None, None]:
        """Cotangent of the cube map: that of every level of the pyramid, handed on from coarse to fine."""
        plan = ctx.plan
        collected: dict[int, Tensor] = {}
        used = [i for i, grad in enumerate(grads[:-1]) if grad is not None]
        # The weight depends on the angle between two texels only, so the transposed operator is the operator itself.
        arguments = [plan.sources, plan.alphas, plan.min_cosines, plan.scales, plan.weights]
        chosen = [[values[i] for i in used] for values in arguments]
        adjoints = torch.ops.gs_ir.convolve_levels([_contiguous(grads[i]) for i in used], *chosen)
        for i, adjoint in zip(used, adjoints, strict=True):
            _add(collected, plan.sources[i], adjoint)
        if grads[-1] is not None:
            source = plan.harmonics_source
            _add(collected, source, (plan.projection.T @ grads[-1]).reshape(6, source, source, 3))
        for resolution in reversed(plan.pyramid[1:]):
            if resolution in collected:
                _add(collected, 2 * resolution, reference.adj_parent_level(collected[resolution]))
        return collected.get(plan.resolution), None


def _contiguous(grad: Tensor | None) -> Tensor:
    assert grad is not None
    return grad.contiguous()


def _add(collected: dict[int, Tensor], resolution: int, grad: Tensor) -> None:
    collected[resolution] = collected[resolution] + grad if resolution in collected else grad


# Constants are kept for each device: making them anew would copy from the host, which waits for the device. They are
# no inference tensors even where first needed in inference mode, because training may need them later.


@lru_cache(maxsize=32)
def _plan(
    resolution: int, levels: tuple[tuple[int, float], ...] | None, dtype: torch.dtype, device: torch.device
) -> _Plan:
    targets, roughness = (list(x) for x in zip(*(levels or default_levels(resolution)), strict=True))
    sources = [min(resolution, max(SMALLEST_LEVEL, _resolution_of_lobe(r))) for r in roughness]
    alphas = [r**2 for r in roughness]
    harmonics_source = min(resolution, IRRADIANCE_RESOLUTION)
    return _Plan(
        resolution=resolution,
        sources=sources,
        targets=targets,
        roughness=roughness,
        alphas=alphas,
        min_cosines=[_min_cosine(alpha) for alpha in alphas],
        weights=[_cube_solid_angles(source, dtype, device) for source in sources],
        scales=[
            _inverse_lobe_sum(target, alpha, source, dtype, device)
            for target, alpha, source in zip(targets, alphas, sources, strict=True)
        ],
        projection=_irradiance_projection(harmonics_source, dtype, device),
        harmonics_source=harmonics_source,
    )


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
