"""Environment lights of the teacher. All are linear radiance over unit world directions."""

import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.color import luminance
from core.environment import EnvironmentMap
from core.images import read_hdr
from core.rotation import frame_from_normal
from gs_ir.scattering import FarLight
from implicit_branch.fields.encoding import HashEncoding
from implicit_branch.fields.mlp import relu_mlp

BLENDER_FROM_WORLD = (0, -1, 0, 0, 0, -1, 1, 0, 0)
"""Rotation, row by row, into Blender's panorama: z up, centre column +x, longitude running the other way round."""


class Emitter(Protocol):
    """A light at infinity that can be evaluated and importance-sampled."""

    def radiance(self, directions: Tensor) -> Tensor:
        """Linear radiance [N, 3] along unit world ``directions`` [N, 3]."""
        ...

    def mean(self) -> Tensor:
        """[3] mean radiance over all directions."""
        ...

    def sample(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Directions [N, 3] and their density [N] per solid angle from ``uniforms`` [N, 3]. No gradient."""
        ...

    def pdf(self, directions: Tensor) -> Tensor:
        """Density [N] with which :meth:`sample` returns unit ``directions`` [N, 3]. No gradient."""
        ...

    def far_light(self) -> FarLight | None:
        """The light as kernels read it, without gradient; None for one that they cannot."""
        ...


class LearnedLight(nn.Module):
    """A light that is a module; see :class:`Emitter`."""

    def radiance(self, directions: Tensor) -> Tensor:
        """Linear radiance [N, 3] along unit world ``directions`` [N, 3]."""
        raise NotImplementedError

    def mean(self) -> Tensor:
        """[3] mean radiance over all directions."""
        return self.radiance(sphere_directions(1024, next(iter([*self.parameters(), *self.buffers()])))).mean(0)

    def sample(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Directions [N, 3] and their density [N] per solid angle from ``uniforms`` [N, 3]. No gradient."""
        raise NotImplementedError

    def pdf(self, directions: Tensor) -> Tensor:
        """Density [N] with which :meth:`sample` returns unit ``directions`` [N, 3]. No gradient."""
        raise NotImplementedError

    def far_light(self) -> FarLight | None:
        """The light as kernels read it, without gradient; None for one that they cannot."""
        return None


class SphericalGaussianLight(LearnedLight):
    """L(w) = sum_k |mu_k| exp(|lambda_k| (xi_k . w - 1)), K lobes (Wang et al. 2009)."""

    def __init__(self, *, num_SGs: int = 64, mean_radiance: float = 0.4) -> None:
        """Grey lobes on a Fibonacci sphere, scaled so that the mean over all directions is ``mean_radiance``."""
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        axes = fibonacci_sphere(num_SGs)
        sharpness = 10 + (20 * torch.randn(num_SGs, generator=generator)).abs()
        strength = torch.randn(num_SGs, 1, generator=generator).abs()
        energy = (strength[:, 0] * lobe_integral(sharpness)).sum() / (4 * math.pi)
        self.axes = nn.Parameter(axes)
        self.sharpness = nn.Parameter(sharpness)
        self.amplitudes = nn.Parameter((strength * mean_radiance / energy).repeat(1, 3))

    def radiance(self, directions: Tensor) -> Tensor:
        """Linear radiance [N, 3] along unit world ``directions`` [N, 3]; differentiable."""
        axes = functional.normalize(self.axes, dim=-1)
        return torch.exp(self.sharpness.abs() * (directions @ axes.T - 1)) @ self.amplitudes.abs()

    def mean(self) -> Tensor:
        """[3] mean radiance over all directions, in closed form; differentiable."""
        return lobe_integral(self.sharpness.abs()) @ self.amplitudes.abs() / (4 * math.pi)

    def sample(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Choose a lobe by its energy with the first uniform, then a direction by its von Mises-Fisher density."""
        with torch.no_grad():
            cumulative = self._lobe_probability().cumsum(0)
            lobe = torch.searchsorted(cumulative, uniforms[:, 0].contiguous()).clamp_max(len(cumulative) - 1)
            sharpness = self.sharpness.abs()[lobe]
            height = 1 + torch.log1p(-uniforms[:, 1] * -torch.expm1(-2 * sharpness)) / sharpness
            radius, angle = (1 - height**2).clamp_min(0).sqrt(), 2 * math.pi * uniforms[:, 2]
            local = torch.stack([radius * angle.cos(), radius * angle.sin(), height], -1)
            frames = frame_from_normal(functional.normalize(self.axes, dim=-1))[lobe]
            directions = (frames @ local[..., None])[..., 0]
            return directions, self.pdf(directions)

    def pdf(self, directions: Tensor) -> Tensor:
        """Density [N] of the mixture of lobes."""
        with torch.no_grad():
            sharpness = self.sharpness.abs()
            cosines = directions @ functional.normalize(self.axes, dim=-1).T
            return torch.exp(sharpness * (cosines - 1)) @ (self._lobe_probability() / lobe_integral(sharpness))

    @torch.no_grad()
    def far_light(self) -> FarLight:
        """See :class:`Emitter`."""
        axes, sharpness = functional.normalize(self.axes, dim=-1), self.sharpness.abs()
        share = self._lobe_probability()
        density = share / lobe_integral(sharpness)
        lobes = torch.cat([axes, sharpness[:, None], self.amplitudes.abs(), density[:, None]], 1)
        return FarLight([lobes, share.cumsum(0)])

    def _lobe_probability(self) -> Tensor:
        energy = luminance(self.amplitudes.abs()) * lobe_integral(self.sharpness.abs())
        return energy / energy.sum()


class TextureLight(LearnedLight):
    """An equirectangular map: learned (softplus of a texture), or read from ``hdr_filepath`` and fixed."""

    image: Tensor
    texture: nn.Parameter | None

    def __init__(
        self,
        *,
        base_res: int = 256,
        scale: float = 0.5,
        bias: float = 0.25,
        hdr_filepath: str | Path | None = None,
        xyz2lonlat_mode: str | None = None,
    ) -> None:
        """Learned texels start uniform in [bias, bias + scale].

        Args:
            base_res: rows and columns of a learned map.
            scale: see above.
            bias: see above.
            hdr_filepath: the file of a fixed map.
            xyz2lonlat_mode: None for a world with y down, ``blender`` for a file whose light is meant with z up.
        """
        super().__init__()
        self._fixed: EnvironmentMap | None = None
        if xyz2lonlat_mode not in (None, "blender"):
            raise ValueError(f"xyz2lonlat_mode: found {xyz2lonlat_mode!r}, expected null or 'blender'")
        self.blender = xyz2lonlat_mode == "blender"
        if hdr_filepath is not None:
            self.register_buffer("image", read_hdr(hdr_filepath), persistent=False)
            self.texture = None
        else:
            generator = torch.Generator().manual_seed(0)
            start = torch.rand(base_res, base_res, 3, generator=generator) * scale + bias
            self.texture = nn.Parameter(torch.log(torch.expm1(100 * start)) / 100)

    def map(self) -> EnvironmentMap:
        """The light as an environment map; differentiable when it is learned."""
        if self.texture is None:
            # Kept, because it prepares what it is sampled by; the image changes when it moves to another device.
            if self._fixed is None or self._fixed.image is not self.image:
                self._fixed = EnvironmentMap(self.image)
            return self._fixed
        return EnvironmentMap(functional.softplus(self.texture, beta=100))

    def radiance(self, directions: Tensor) -> Tensor:
        """Linear radiance [N, 3] along unit world ``directions`` [N, 3]."""
        return self.map().eval(self._to_map(directions))

    def sample(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """By the texels' energy."""
        with torch.no_grad():
            directions, density = self.map().sample(uniforms[:, :2])
            return self._from_map(directions), density

    def pdf(self, directions: Tensor) -> Tensor:
        """Density [N] of :meth:`sample`."""
        with torch.no_grad():
            return self.map().pdf(self._to_map(directions))

    @torch.no_grad()
    def far_light(self) -> FarLight:
        """See :class:`Emitter`."""
        light = self.map().far_light()
        return replace(light, light_from_world=BLENDER_FROM_WORLD) if self.blender else light

    def _to_map(self, directions: Tensor) -> Tensor:
        # BLENDER_FROM_WORLD
        if not self.blender:
            return directions
        x, y, z = directions.unbind(-1)
        return torch.stack([-y, -z, x], -1)

    def _from_map(self, directions: Tensor) -> Tensor:
        if not self.blender:
            return directions
        x, y, z = directions.unbind(-1)
        return torch.stack([z, -x, -y], -1)


class NetworkLight(LearnedLight):
    """A hash grid on the unit sphere and a small network with softplus output."""

    def __init__(
        self, *, base_res: int = 512, n_levels: int = 16, log2_hashmap_size: int = 15, n_neurons: int = 64
    ) -> None:
        """``base_res`` is the height of the map whose texels stand for the light where it is sampled."""
        super().__init__()
        self.encoding = HashEncoding(
            n_levels=n_levels, log2_hashmap_size=log2_hashmap_size, start_level=n_levels, start_step=0
        )
        self.network = relu_mlp(self.encoding.features, 3, hidden=n_neurons, layers=1)
        self.base_res = base_res

    def radiance(self, directions: Tensor) -> Tensor:
        """Linear radiance [N, 3] along unit world ``directions`` [N, 3]."""
        return functional.softplus(self.network(self.encoding(directions)))

    def sample(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Uniform over the sphere."""
        height, angle = 1 - 2 * uniforms[:, 0], 2 * math.pi * uniforms[:, 1]
        radius = (1 - height**2).clamp_min(0).sqrt()
        directions = torch.stack([radius * angle.cos(), height, radius * angle.sin()], -1)
        return directions, self.pdf(directions)

    def pdf(self, directions: Tensor) -> Tensor:
        """1 / (4 pi)."""
        return torch.full_like(directions[:, 0], 1 / (4 * math.pi))


LIGHTS = {"envlight-SG": SphericalGaussianLight, "envlight-tensor": TextureLight, "envlight-MLP": NetworkLight}


def lobe_integral(sharpness: Tensor) -> Tensor:
    """Integral [K] over the sphere of exp(lambda (x - 1)): 2 pi (1 - exp(-2 lambda)) / lambda."""
    return 2 * math.pi * -torch.expm1(-2 * sharpness) / sharpness


def fibonacci_sphere(count: int) -> Tensor:
    """[count, 3] nearly uniform unit vectors."""
    index = torch.arange(count) + 0.5
    height, angle = 1 - 2 * index / count, math.pi * (3 - math.sqrt(5)) * index
    radius = (1 - height**2).sqrt()
    return torch.stack([radius * angle.cos(), height, radius * angle.sin()], -1)


def sphere_directions(count: int, like: Tensor) -> Tensor:
    """:func:`fibonacci_sphere` with dtype and device of ``like``; made once."""
    return _sphere_directions(count, like.dtype, like.device)


@lru_cache(maxsize=8)
def _sphere_directions(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return fibonacci_sphere(count).to(device, dtype)
