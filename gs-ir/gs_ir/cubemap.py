"""Cube maps of radiance: geometry, seamless lookup, and the prefiltered light of split-sum shading.

Faces are ordered +x, -x, +y, -y, +z, -z as in OpenGL; texel (row, column) of a face has t down and s to the right:
+x (1, -t, -s), -x (-1, -t, s), +y (s, 1, t), -y (s, -1, -t), +z (s, -t, 1), -z (-s, -t, -1).
"""

from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import cos, sin

import torch
from torch import Tensor

from gs_ir._library import define, define_backward
from gs_ir.equirect import shrink
from gs_ir.light_cells import LightCells, light_cells
from gs_ir.reference import cubemap as reference

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
# As many of each as there are levels. On a GPU the first one, the costliest, hides the others.
define(
    "convolve_levels",
    "(Tensor[] values, int[] resolutions, float[] alphas, float[] min_cosines, Tensor[] before, Tensor[] after)"
    " -> Tensor[]",
    lambda *arguments: [torch.ops.gs_ir.convolve_ggx(*level) for level in zip(*arguments, strict=True)],
)
define("cubemap_pyramid", "(Tensor texels, Tensor solid_angles, int halvings) -> Tensor[]", reference.cubemap_pyramid)
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


@torch.library.register_fake("gs_ir::convolve_levels")
def _(values, resolutions, alphas, min_cosines, before, after) -> list[Tensor]:
    return [x.new_empty(6, r, r, x.shape[-1]) for x, r in zip(values, resolutions, strict=True)]


@torch.library.register_fake("gs_ir::cubemap_pyramid")
def _(texels, solid_angles, halvings) -> list[Tensor]:
    sizes = [texels.shape[1] >> i for i in range(1, halvings + 1)]
    return [texels.new_empty(6, r, r, 3) for r in sizes]


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
    source: Tensor | None = None
    """[6, R, R, 3] linear radiance that was filtered, for :meth:`cells`; no gradient."""
    _cells: dict[str, LightCells] = field(default_factory=dict, repr=False, compare=False)

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

    def cells(self) -> LightCells:
        """The light as distant lamps in world space, for directional occlusion. No gradient.

        Raises:
            ValueError: as for :meth:`own_cells`.
        """
        return self.own_cells().turned(self.light_from_world)

    def own_cells(self) -> LightCells:
        """The light as distant lamps in its own frame; gathered once, for all turns. No gradient.

        Raises:
            ValueError: the light does not know what it was filtered from.
        """
        if self.source is None:
            raise ValueError("light: directional occlusion needs the unfiltered cube map; use gs_ir.prefilter")
        if not self._cells:
            self._cells["own frame"] = light_cells(self.source)
        return self._cells["own frame"]

    def texels(self) -> Tensor:
        """All levels one after another, [sum 6 r r, 3]; differentiable."""
        return torch.cat([m.reshape(-1, 3) for m in self.mips])

    def bordered(self) -> Tensor:
        """All levels [sum 6 (r + 2)^2, 4] for kernels of frames: rgb and 0, every face widened by a border of one texel
        from its neighbours, so that bilinear interpolation inside a widened face is the seamless lookup. No gradient.
        """
        return torch.ops.gs_ir.border_cubemap(self.texels().detach(), [m.shape[1] for m in self.mips])

    def _local(self, directions: Tensor) -> Tensor:
        return directions if self.light_from_world is None else directions @ self.light_from_world.T

    def lod(self, roughness: Tensor) -> Tensor:
        """Level of detail [...] whose interpolated roughness is ``roughness`` [...]; clamped to the levels."""
        return reference.level_of_roughness(roughness, tuple(self.roughness))

    def to(self, device: torch.device | str) -> "PrefilteredLight":
        """The same light with its tensors on ``device``."""
        turn = None if self.light_from_world is None else self.light_from_world.to(device)
        return replace(
            self,
            mips=[m.to(device) for m in self.mips],
            irradiance_sh=self.irradiance_sh.to(device),
            light_from_world=turn,
            source=None if self.source is None else self.source.to(device),
            _cells={},
        )


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
    weights = solid_angles(resolution * samples, image.dtype, image.device)
    learned = image.requires_grad and torch.is_grad_enabled()
    with nullcontext() if learned else torch._C._AutoDispatchBelowAutograd():  # the operators' autograd is in Python
        image = torch.ops.gs_ir.shrink_equirect(image.contiguous(), factor) if factor > 1 else image.contiguous()
        return torch.ops.gs_ir.resample_equirect(image, weights, resolution)


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


# Constants below are kept for each device: making them anew would copy from the host, which waits for the device.
# They are no inference tensors even where first needed in inference mode, because training may need them later.


@lru_cache(maxsize=32)
def _turn_parts(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Matrices [3, 3] that 1, the cosine and the sine contribute to the inverse of a turn about +y."""
    with torch.inference_mode(False):
        still = torch.tensor([[0, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=dtype, device=device)
        along = torch.tensor([[1, 0, 0], [0, 0, 0], [0, 0, 1]], dtype=dtype, device=device)
        across = torch.tensor([[0, 0, -1], [0, 0, 0], [1, 0, 0]], dtype=dtype, device=device)
    return still, along, across


@lru_cache(maxsize=32)
def solid_angles(resolution: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``texel_solid_angles``, kept."""
    with torch.inference_mode(False):
        return texel_solid_angles(resolution, dtype=dtype, device=device)
