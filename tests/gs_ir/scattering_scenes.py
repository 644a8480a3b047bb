"""Rays, surfaces and lights for tests of gs_ir.scattering."""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

from core.environment import EnvironmentMap
from gs_ir.bvh import Hits
from gs_ir.marching import RaySamples
from gs_ir.reference.marching import pack
from gs_ir.reference.packed import ray_of_sample
from gs_ir.scattering import FarLight, surface_rows

TURNED = (0.0, -1.0, 0.0, 0.0, 0.0, -1.0, 1.0, 0.0, 0.0)
"""Rotation of a light with z up."""
LIGHTS = ("map", "turned map", "gaussians")


def surfaces(count: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows [N, 8] of all kinds of material, and directions [N, 3] to viewers, a few of them behind the surface."""
    generator = torch.Generator().manual_seed(seed)
    normal = normalize(torch.randn(count, 3, generator=generator, dtype=dtype), dim=-1)
    view = normalize(normal + 0.9 * normalize(torch.randn(count, 3, generator=generator, dtype=dtype), dim=-1), dim=-1)
    view[::13] *= -1
    values = torch.rand(count, 5, generator=generator, dtype=dtype)
    return surface_rows(normal, 0.05 + 0.9 * values[:, :3], 0.05 + 0.95 * values[:, 3], values[:, 4].round()), view


def far_light(name: str, dtype: torch.dtype) -> FarLight:
    """One of ``LIGHTS``."""
    generator = torch.Generator().manual_seed(5)
    if name == "gaussians":
        sharpness = torch.tensor([2.0, 9.0, 40.0], dtype=dtype)
        axes = normalize(torch.randn(3, 3, generator=generator, dtype=dtype), dim=-1)
        amplitude = torch.rand(3, 3, generator=generator, dtype=dtype)
        integral = 2 * math.pi * -torch.expm1(-2 * sharpness) / sharpness
        energy = amplitude.mean(1) * integral
        share = energy / energy.sum()
        lobes = torch.cat([axes, sharpness[:, None], amplitude, (share / integral)[:, None]], 1)
        return FarLight([lobes, share.cumsum(0)])
    image = torch.rand(12, 22, 3, generator=generator, dtype=dtype) ** 3
    image[3, 7] = 40.0
    cells = EnvironmentMap(image)._distribution
    tensors = [image, cells.row_cdf, cells.column_cdf, cells.density]
    return FarLight(tensors, TURNED) if name == "turned map" else FarLight(tensors)


def ray_samples(rays: int, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """Fields of intervals with gaps, weights that sum to less or more than one, depth limits; some rays are empty."""
    generator = torch.Generator().manual_seed(rays)
    packed_info = pack(torch.randint(0, 12, (rays,), generator=generator))
    total = int(packed_info[:, 1].sum())
    edges = 1 + torch.rand(2 * total, generator=generator, dtype=dtype).cumsum(0) / 100
    weights = 0.3 * torch.rand(total, generator=generator, dtype=dtype)
    limit = torch.where(torch.rand(rays, generator=generator) < 0.5, torch.inf, 1.5).to(dtype)
    fields = edges[::2].contiguous(), edges[1::2].contiguous(), ray_of_sample(packed_info, total), packed_info
    return fields, weights, limit


def scene(rays: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, RaySamples, Tensor, Tensor, Tensor]:
    """Origins, directions, samples, weights, limits and surface rows of rays."""
    fields, weights, limit = ray_samples(rays, dtype)
    generator = torch.Generator().manual_seed(rays + 1)
    directions = normalize(torch.randn(rays, 3, generator=generator, dtype=dtype), dim=-1)
    origins = torch.randn(rays, 3, generator=generator, dtype=dtype)
    surface, view = surfaces(len(weights), dtype, seed=2)
    # The surfaces look at their rays, by the same angles.
    eye = -directions[fields[2]]
    surface[:, :3] = normalize(eye + surface[:, :3] * (view * surface[:, :3]).sum(-1, keepdim=True).sign(), dim=-1)
    return origins, directions, RaySamples(*fields), weights, limit, surface


def hit_scene(count: int, dtype: torch.dtype) -> tuple[Tensor, Hits, Tensor, dict[str, Tensor]]:
    """Two thirds of N rays hit a mesh in three poses; numbers of those that do, all hits, directions, the mesh."""
    generator = torch.Generator().manual_seed(count)
    canonical = torch.randn(9, 3, generator=generator, dtype=dtype)
    vertices = torch.cat([canonical + shift for shift in (0.0, 5.0, 9.0)])
    one = torch.stack([torch.randperm(9, generator=generator)[:3] for _ in range(7)])
    faces = torch.cat([one + 9 * copy for copy in range(3)])
    face = torch.randint(-7, 21, (count,), generator=generator).clamp_min(-1)
    barycentric = torch.rand(count, 2, generator=generator, dtype=dtype) / 2
    directions = normalize(torch.randn(count, 3, generator=generator, dtype=dtype), dim=-1)
    hits = Hits(torch.where(face < 0, torch.inf, 1.0).to(dtype), face, barycentric)
    mesh = {"faces": faces, "vertices": vertices, "canonical": canonical}
    return (face >= 0).nonzero()[:, 0], hits, directions, mesh
