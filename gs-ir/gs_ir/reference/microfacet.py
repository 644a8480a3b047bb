"""Lambert plus GGX, see ``csrc/include/gs_ir/microfacet.h``; vectors [N, 3], everything else [N]."""

from math import pi
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gs_ir.reference.shading import MIN_GGX_ALPHA, base_reflectance, ggx_alpha

MIN_COSINE = 1e-6


class ScatterPoint(NamedTuple):
    """Points that scatter light towards ``view``."""

    normal: Tensor
    view: Tensor
    albedo: Tensor
    roughness: Tensor
    metallic: Tensor

    @classmethod
    def of(cls, surface: Tensor, view: Tensor) -> "ScatterPoint":
        """From rows ``surface`` [N, 8]."""
        return cls(surface[:, :3], view, surface[:, 3:6], surface[:, 6], surface[:, 7])


def dot(a: Tensor, b: Tensor) -> Tensor:
    """[N]"""
    return (a * b).sum(-1)


def above(p: ScatterPoint, light: Tensor) -> Tensor:
    """[N] bool: the viewer and the light are on the normal's side."""
    return (dot(p.normal, p.view) > MIN_COSINE) & (dot(p.normal, light) > MIN_COSINE)


def to_world(normal: Tensor, local: Tensor) -> Tensor:
    """``local`` [N, 3] in the frame about ``normal`` (Duff et al. 2017)."""
    tangent, bitangent = _tangents(normal)
    return tangent * local[:, :1] + bitangent * local[:, 1:2] + normal * local[:, 2:]


def at_height(z: Tensor, turn: Tensor) -> Tensor:
    """Points of the unit sphere at polar height ``z``."""
    radius, angle = (1 - z * z).clamp_min(0).sqrt(), 2 * pi * turn
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], -1)


def lobes_cosine(p: ScatterPoint, light: Tensor) -> tuple[Tensor, Tensor]:
    """Reflectance times n.l of the diffuse lobe of albedo 1 [N], and of the specular one [N, 3]."""
    seen = above(p, light)
    n_dot_v, n_dot_l = (dot(p.normal, d).clamp_min(MIN_COSINE) for d in (p.view, light))
    half, squared = normalize(p.view + light, dim=-1), ggx_alpha(p.roughness).square()
    smith = n_dot_l * (n_dot_v**2 * (1 - squared) + squared).sqrt()
    smith = smith + n_dot_v * (n_dot_l**2 * (1 - squared) + squared).sqrt()
    shape = torch.where(seen, _distribution(p, half) * n_dot_l * 0.5 / smith, 0)
    return torch.where(seen, n_dot_l / pi, 0), shape[:, None] * _fresnel(p, dot(p.view, half))


def scattered_cosine(p: ScatterPoint, diffuse: Tensor, specular: Tensor) -> Tensor:
    """Both lobes with the body's colour [N, 3]."""
    return p.albedo * ((1 - p.metallic) * diffuse)[:, None] + specular


def sample_cosine(normal: Tensor, u0: Tensor, u1: Tensor) -> Tensor:
    """Density n.l / pi."""
    radius, angle = u0.sqrt(), 2 * pi * u1
    return to_world(normal, torch.stack([radius * angle.cos(), radius * angle.sin(), (1 - u0).clamp_min(0).sqrt()], -1))


def pdf_cosine(p: ScatterPoint, light: Tensor) -> Tensor:
    """n.l / pi"""
    return dot(p.normal, light).clamp_min(0) / pi


def sample_lobes(p: ScatterPoint, u0: Tensor, u1: Tensor, u2: Tensor) -> Tensor:
    """Directions by either lobe; the last uniform chooses."""
    alpha, frame = ggx_alpha(p.roughness)[:, None], (*_tangents(p.normal), p.normal)
    view = torch.stack([dot(axis, p.view) for axis in frame], -1)
    stretched = normalize(torch.cat([alpha * view[:, :2], view[:, 2:]], -1), dim=-1)
    cap = at_height((1 - u0) * (1 + stretched[:, 2]) - stretched[:, 2], u1) + stretched
    half = normalize(torch.cat([alpha * cap[:, :2], cap[:, 2:]], -1), dim=-1)
    glossy = to_world(p.normal, 2 * dot(view, half)[:, None] * half - view)
    return torch.where((u2 < _specular_probability(p))[:, None], glossy, sample_cosine(p.normal, u0, u1))


def pdf_lobes(p: ScatterPoint, light: Tensor) -> Tensor:
    """Density of :func:`sample_lobes`."""
    squared, n_dot_v = ggx_alpha(p.roughness).square(), dot(p.normal, p.view).clamp_min(MIN_COSINE)
    masking = 2 / (n_dot_v + (squared + (1 - squared) * n_dot_v**2).sqrt())
    glossy = masking * _distribution(p, normalize(p.view + light, dim=-1)) / 4
    return torch.lerp(pdf_cosine(p, light), glossy, _specular_probability(p))


def _tangents(normal: Tensor) -> tuple[Tensor, Tensor]:
    x, y, z = normal.unbind(-1)
    sign = torch.where(z >= 0, 1.0, -1.0).to(z)
    a = -1 / (sign + z)
    b = x * y * a
    return torch.stack([1 + sign * x * x * a, sign * b, -sign * x], -1), torch.stack([b, sign + y * y * a, -y], -1)


def _distribution(p: ScatterPoint, half: Tensor) -> Tensor:
    cosine, squared = dot(p.normal, half), ggx_alpha(p.roughness).square()
    sine = torch.linalg.cross(p.normal, half)
    spread = (dot(sine, sine) + squared * cosine * cosine).clamp_min(0.1 * MIN_GGX_ALPHA**2)
    return torch.where(cosine > 0, squared / (pi * spread * spread), 0)


def _fresnel(p: ScatterPoint, cosine: Tensor) -> Tensor:
    f0 = base_reflectance(p.albedo, p.metallic)
    return f0 + (1 - f0) * (1 - cosine.clamp(0, 1)).pow(5)[:, None]


def _luminance(linear: Tensor) -> Tensor:
    return 0.212671 * linear[:, 0] + 0.715160 * linear[:, 1] + 0.072169 * linear[:, 2]


def _specular_probability(p: ScatterPoint) -> Tensor:
    n_dot_v = dot(p.normal, p.view)
    specular = _luminance(_fresnel(p, n_dot_v))
    diffuse = (1 - p.metallic) * _luminance(p.albedo)
    return torch.where(n_dot_v > MIN_COSINE, specular / (specular + diffuse), 0)
