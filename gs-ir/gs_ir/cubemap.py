"""Cube maps of radiance: geometry, seamless lookup, and prefiltering for split-sum shading.

Faces are ordered +x, -x, +y, -y, +z, -z as in OpenGL; texel (row, column) of a face has t down and s to the right:
+x (1, -t, -s), -x (-1, -t, s), +y (s, 1, t), -y (s, -1, -t), +z (s, -t, 1), -z (-s, -t, -1).
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, cos, log2, sin

import torch
from torch import Tensor

from gs_ir._library import define, define_backward
from gs_ir.equirect import shrink
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

define(
    "sample_cubemap",
    "(Tensor texels, int[] resolutions, Tensor directions, Tensor lod) -> Tensor",
    reference.sample_cubemap,
)
define_backward(
    "sample_cubemap_backward",
    "(Tensor grad, Tensor texels, int[] resolutions, Tensor directions, Tensor lod) -> (Tensor, Tensor, Tensor)",
    reference.sample_cubemap,
)
define("border_cubemap", "(Tensor texels, int[] resolutions) -> Tensor", reference.border_cubemap)
define(
    "sample_bordered",
    "(Tensor texels, int[] resolutions, Tensor directions, Tensor lod) -> Tensor",
    reference.sample_bordered,
)
define(
    "convolve_ggx",
    "(Tensor values, int resolution, float alpha, float min_cosine, Tensor? before=None, Tensor? after=None) -> Tensor",
    reference.convolve_ggx,
)
define("shrink_equirect", "(Tensor image, int factor) -> Tensor", shrink)
define_backward("shrink_equirect_backward", "(Tensor grad, Tensor image, int factor) -> Tensor", shrink)
define(
    "resample_equirect", "(Tensor image, Tensor solid_angles, int resolution) -> Tensor", reference.resample_equirect
)
define_backward(
    "resample_equirect_backward",
    "(Tensor grad, Tensor image, Tensor solid_angles, int resolution) -> (Tensor, Tensor)",
    reference.resample_equirect,
)


@torch.library.register_fake("gs_ir::sample_cubemap")
def _(texels, resolutions, directions, lod) -> Tensor:
    return texels.new_empty(directions.shape[0], texels.shape[1])


@torch.library.register_fake("gs_ir::convolve_ggx")
def _(values, resolution, alpha, min_cosine, before=None, after=None) -> Tensor:
    return values.new_empty(6, resolution, resolution, values.shape[-1])


@torch.library.register_fake("gs_ir::shrink_equirect")
def _(image, factor) -> Tensor:
    return image.new_empty(image.shape[0] // factor, image.shape[1] // factor, 3)


@torch.library.register_fake("gs_ir::resample_equirect")
def _(image, solid_angles, resolution) -> Tensor:
    return image.new_empty(6, resolution, resolution, 3)


def _save_sample(ctx, inputs, output) -> None:
    texels, ctx.resolutions, directions, lod = inputs
    ctx.save_for_backward(texels, directions, lod)


def _backward_sample(ctx, grad: Tensor) -> tuple[Tensor, None, Tensor, Tensor]:
    texels, directions, lod = ctx.saved_tensors
    backward = torch.ops.gs_ir.sample_cubemap_backward
    grads = backward(grad.contiguous(), texels, ctx.resolutions, directions, lod)
    return grads[0], None, grads[1], grads[2]


def _save_convolve(ctx, inputs, output) -> None:
    values, _, ctx.alpha, ctx.min_cosine, before, after = inputs
    ctx.resolution = values.shape[1]
    ctx.save_for_backward(before, after)


def _backward_convolve(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    # The weight depends on the angle between two texels only, so the transposed operator is the operator itself.
    before, after = ctx.saved_tensors
    convolve = torch.ops.gs_ir.convolve_ggx
    return convolve(grad.contiguous(), ctx.resolution, ctx.alpha, ctx.min_cosine, after, before), *[None] * 5


def _save_shrink(ctx, inputs, output) -> None:
    image, ctx.factor = inputs
    ctx.save_for_backward(image)


def _backward_shrink(ctx, grad: Tensor) -> tuple[Tensor, None]:
    return torch.ops.gs_ir.shrink_equirect_backward(grad.contiguous(), *ctx.saved_tensors, ctx.factor), None


def _save_resample(ctx, inputs, output) -> None:
    image, solid_angles, ctx.resolution = inputs
    ctx.save_for_backward(image, solid_angles)


def _backward_resample(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
    backward = torch.ops.gs_ir.resample_equirect_backward
    return backward(grad.contiguous(), *ctx.saved_tensors, ctx.resolution)[0], None, None


torch.library.register_autograd("gs_ir::sample_cubemap", _backward_sample, setup_context=_save_sample)
torch.library.register_autograd("gs_ir::convolve_ggx", _backward_convolve, setup_context=_save_convolve)
torch.library.register_autograd("gs_ir::shrink_equirect", _backward_shrink, setup_context=_save_shrink)
torch.library.register_autograd("gs_ir::resample_equirect", _backward_resample, setup_context=_save_resample)


@dataclass(frozen=True)
class PrefilteredLight:
    """A light prepared for split-sum shading (Karis 2013)."""

    mips: list[Tensor]
    """[6, r, r, 3] each: linear radiance averaged over the GGX lobe of one roughness."""
    roughness: list[float]
    """Perceptual roughness of each level, ascending; the last one is 1, whose lobe is the cosine lobe."""
    irradiance_sh: Tensor
    """[9, 3] real spherical-harmonic coefficients of irradiance / pi (a constant light L gives L), for kernels that
    cannot afford a lookup. Mean error under outdoor images 2 to 25 %, against 0.5 % of :meth:`irradiance`."""
    light_from_world: Tensor | None = None
    """[3, 3] rotation that takes world directions to the light's own frame; None: they agree."""

    def irradiance(self, normals: Tensor) -> Tensor:
        """Irradiance / pi [N, 3] on world ``normals`` [N, 3], from the level of roughness 1; differentiable."""
        return sample_cubemap(self.mips[-1:], self._local(normals), torch.zeros_like(normals[:, 0]))

    def radiance(self, directions: Tensor, roughness: Tensor) -> Tensor:
        """Prefiltered radiance [N, 3] along world ``directions`` [N, 3] for ``roughness`` [N]; differentiable."""
        return sample_cubemap(self.mips, self._local(directions), self.lod(roughness))

    def rotated(self, angle: float) -> "PrefilteredLight":
        """The same light turned by ``angle`` radians about world +y (+z moves to +x); nothing is filtered again."""
        cosine, sine = cos(angle), sin(angle)
        still, along, across = _turn_parts(self.irradiance_sh.dtype, self.irradiance_sh.device)
        turn = torch.add(still, along, alpha=cosine).add(across, alpha=sine)
        return replace(self, light_from_world=turn if self.light_from_world is None else self.light_from_world @ turn)

    def bordered(self) -> Tensor:
        """All levels [sum 6 (r + 2)^2, 4] for kernels of frames: rgb and 0, every face widened by a border of one texel
        from its neighbours, so that bilinear interpolation inside a widened face is the seamless lookup. No gradient.
        """
        texels = torch.cat([m.detach().reshape(-1, 3) for m in self.mips])
        return torch.ops.gs_ir.border_cubemap(texels, [m.shape[1] for m in self.mips])

    def _local(self, directions: Tensor) -> Tensor:
        return directions if self.light_from_world is None else directions @ self.light_from_world.T

    def lod(self, roughness: Tensor) -> Tensor:
        """Level of detail [...] whose interpolated roughness is ``roughness`` [...]; clamped to the levels."""
        knots = _constant(tuple(self.roughness), roughness.dtype, roughness.device)
        clamped = roughness.clamp(self.roughness[0], self.roughness[-1])
        lower = (torch.searchsorted(knots, clamped.detach().contiguous(), right=True) - 1).clamp(0, len(knots) - 2)
        return lower + (clamped - knots[lower]) / (knots[lower + 1] - knots[lower])

    def to(self, device: torch.device | str) -> "PrefilteredLight":
        """The same light with its tensors on ``device``."""
        turn = None if self.light_from_world is None else self.light_from_world.to(device)
        mips = [m.to(device) for m in self.mips]
        return replace(self, mips=mips, irradiance_sh=self.irradiance_sh.to(device), light_from_world=turn)


def texel_directions(
    resolution: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """Unit directions [6, R, R, 3] of the texel centres."""
    return reference.texel_directions(resolution, dtype, torch.device(device))


def texel_solid_angles(
    resolution: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """Exact solid angles [R, R] in steradians, equal for all faces; six times their sum is 4 pi."""
    return reference.texel_solid_angles(resolution, dtype, torch.device(device))


def equirect_to_cubemap(image: Tensor, resolution: int, samples: int = 4) -> Tensor:
    """Resample an equirectangular light.

    Large images are first averaged down by solid angle, then each texel is the solid-angle mean of ``samples`` **2
    bilinear lookups, so that a small sun keeps its energy (within 3 %, except within a few texels of the poles).

    Args:
        image: [H, W, 3] linear radiance, orientation of :mod:`gs_ir.equirect`.
        resolution: texels along an edge of a face.
        samples: lookups along an edge of a texel.

    Returns:
        [6, R, R, 3]; differentiable in ``image``.

    Raises:
        ValueError: the image is not [H, W, 3].
    """
    if image.ndim != 3 or image.shape[-1] != 3:
        raise ValueError(f"equirect_to_cubemap: an image [H, W, 3] expected, found {tuple(image.shape)}")
    factor = max(1, image.shape[1] // (4 * resolution))
    while image.shape[0] % factor or image.shape[1] % factor:
        factor -= 1
    image = torch.ops.gs_ir.shrink_equirect(image.contiguous(), factor) if factor > 1 else image.contiguous()
    weights = _solid_angles(resolution * samples, image.dtype, image.device)
    return torch.ops.gs_ir.resample_equirect(image, weights, resolution)


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
    cone that holds 99 % of the lobe (the published rule). The weights are exact texel solid angles and are normalised by
    their sum, so a constant light is reproduced.

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
    pyramid = {resolution: cubemap.contiguous()}
    mips = [_filter_level(pyramid, target, roughness) for target, roughness in levels]
    return PrefilteredLight(mips, [roughness for _, roughness in levels], _irradiance(pyramid))


def sample_cubemap(mips: list[Tensor], directions: Tensor, lod: Tensor) -> Tensor:
    """Radiance by trilinear interpolation that is continuous across the edges of the cube.

    Args:
        mips: levels [6, r, r, C] of any resolutions.
        directions: [N, 3], any length above 0.
        lod: [N] level of detail, 0 = ``mips[0]``; clamped to the levels.

    Returns:
        [N, C]. Differentiable in the texels, the directions (piecewise: the interpolant is not smooth at texel
        centres' grid lines) and ``lod``.

    Raises:
        ValueError: shapes disagree.
    """
    if directions.ndim != 2 or directions.shape[1] != 3 or lod.shape != directions.shape[:1]:
        shapes = f"{tuple(directions.shape)} and {tuple(lod.shape)}"
        raise ValueError(f"sample_cubemap: directions [N, 3] and lod [N] expected, found {shapes}")
    texels = torch.cat([m.reshape(-1, m.shape[-1]) for m in mips])
    clamped = lod.clamp(0, len(mips) - 1).contiguous()
    return torch.ops.gs_ir.sample_cubemap(texels, [m.shape[1] for m in mips], directions.contiguous(), clamped)


def _resolution_of_lobe(roughness: float) -> int:
    """The power of two whose texels are about half as wide as the lobe's half width at half maximum."""
    return 2 ** ceil(log2(2 / roughness**2) - 0.3)


def _min_cosine(alpha: float) -> float:
    """Cosine between axis and rim of the cone that holds LOBE_FRACTION of the lobe, at least 0."""
    tangent_squared = alpha**2 * LOBE_FRACTION / (1 - LOBE_FRACTION)
    return max((1 - tangent_squared) / (1 + tangent_squared), 0.0)


def _filter_level(pyramid: dict[int, Tensor], target: int, roughness: float) -> Tensor:
    source = _pyramid_level(pyramid, max(SMALLEST_LEVEL, _resolution_of_lobe(roughness)))
    key = (source.shape[1], source.dtype, source.device)
    alpha = roughness**2
    scale = _inverse_lobe_sum(target, alpha, *key)
    return torch.ops.gs_ir.convolve_ggx(source, target, alpha, _min_cosine(alpha), _cube_solid_angles(*key), scale)


def _pyramid_level(pyramid: dict[int, Tensor], resolution: int) -> Tensor:
    """The level of ``resolution``, or the finest; missing ones are added to ``pyramid``, whose smallest key descends.

    A GPU so starts on the costly finest level before the coarse ones are made.
    """
    while min(pyramid) > resolution:
        finest = min(pyramid)
        pyramid[finest // 2] = reference.parent_level(pyramid[finest])
    return pyramid[min(resolution, max(pyramid))]


# Constants below are kept for each device: making them anew would copy from the host, which waits for the device.
# They are no inference tensors even where first needed in inference mode, because training may need them later.


@lru_cache(maxsize=32)
def _constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


@lru_cache(maxsize=32)
def _turn_parts(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices [3, 3] that 1, the cosine and the sine contribute to the inverse of a turn about +y."""
    with torch.inference_mode(False):
        still = torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=dtype, device=device)
        along = torch.tensor([[1, 0, 0], [0, 0, 0], [0, 0, 1]], dtype=dtype, device=device)
        across = torch.tensor([[0, 0, -1], [0, 0, 0], [1, 0, 0]], dtype=dtype, device=device)
    return still, along, across


@lru_cache(maxsize=32)
def _solid_angles(resolution: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return texel_solid_angles(resolution, dtype=dtype, device=device)


@lru_cache(maxsize=32)
def _cube_solid_angles(resolution: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[6, R, R, 1]"""
    with torch.inference_mode(False):
        return _solid_angles(resolution, dtype, device).expand(6, resolution, resolution)[..., None].contiguous()


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
