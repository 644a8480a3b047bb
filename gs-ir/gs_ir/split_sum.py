"""The environment-BRDF table of split-sum shading: what GGX reflects of a constant light.

Plain PyTorch: computed once per process, on the CPU, in about a second.
"""

from functools import lru_cache
from math import pi

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample, normalize

CAP_SAMPLES = 32
"""Gauss-Legendre points along the height of the visible-normal cap."""
ANGLE_SAMPLES = 16
"""Midpoint samples along half its circumference (the integrand is symmetric). Largest error with both: 1.1e-3."""


@lru_cache(maxsize=4)
def split_sum_table(resolution: int = 256) -> Tensor:
    """Scale and bias of F0 (Karis 2013), integrated from the surface model of this project.

    GGX with ``alpha = roughness**2``, height-correlated Smith, Schlick: reflectance = F0 * scale + bias.

    Returns:
        [R, R, 2] float32; row = roughness, column = n.v, both at texel centres (i + 0.5) / R.
    """
    centres = (torch.arange(resolution, dtype=torch.float32) + 0.5) / resolution
    return torch.stack([_integrate(roughness, centres) for roughness in centres])


def sample_split_sum(table: Tensor, n_dot_v: Tensor, roughness: Tensor) -> Tensor:
    """Scale and bias [N, 2] by bilinear interpolation at ``n_dot_v`` [N] and ``roughness`` [N]; differentiable."""
    grid = torch.stack([2 * n_dot_v - 1, 2 * roughness - 1], -1)[None, None]
    found = grid_sample(table.permute(2, 0, 1)[None], grid, padding_mode="border", align_corners=False)
    return found[0, :, 0].T


def _integrate(roughness: Tensor, n_dot_v: Tensor) -> Tensor:
    """Scale and bias [V, 2] for view cosines [V], by quadrature over visible normals.

    With h distributed as visible normals (Dupuy and Benyoub 2023) the integrand is G2 / G1 times Fresnel.
    """
    alpha = roughness.square()
    view = torch.stack([(1 - n_dot_v.square()).sqrt(), n_dot_v], -1)[:, None, None]
    half = _visible_normals(alpha, view)
    v_dot_h = (view[..., 0] * half[..., 0] + view[..., 1] * half[..., 2]).clamp(0, 1)
    n_dot_l = (2 * v_dot_h * half[..., 2] - view[..., 1]).clamp_min(0)
    cosine, squared = view[..., 1], alpha * alpha
    root_v = (squared + (1 - squared) * cosine.square()).sqrt()
    root_l = (squared + (1 - squared) * n_dot_l.square()).sqrt()
    ratio = n_dot_l * (cosine + root_v) / (n_dot_l * root_v + cosine * root_l).clamp_min(1e-12)
    weighted = ratio * (_cap_nodes()[1] / ANGLE_SAMPLES)[:, None]
    fresnel = (1 - v_dot_h).pow(5)
    return torch.stack([(weighted * (1 - fresnel)).sum((1, 2)), (weighted * fresnel).sum((1, 2))], -1)


def _cap_nodes() -> tuple[Tensor, Tensor]:
    """Nodes in [0, 1] and weights; denser where the cap meets the lobe's long tail."""
    nodes, weights = (torch.from_numpy(a).float() for a in np.polynomial.legendre.leggauss(CAP_SAMPLES))
    rest = (1 - nodes) / 2
    return 1 - rest.square(), weights * rest


def _visible_normals(alpha: Tensor, view: Tensor) -> Tensor:
    """Quadrature normals [V, CAP_SAMPLES, ANGLE_SAMPLES, 3] for views (x, z) [V, 1, 1, 2]."""
    stretched = normalize(view * torch.stack([alpha, torch.ones_like(alpha)]), dim=-1)
    angle = pi * (torch.arange(ANGLE_SAMPLES) + 0.5) / ANGLE_SAMPLES
    height = (1 - _cap_nodes()[0][:, None]) * (1 + stretched[..., 1]) - stretched[..., 1]
    radius = (1 - height.square()).clamp_min(0).sqrt()
    x, y, z = radius * angle.cos() + stretched[..., 0], radius * angle.sin(), height + stretched[..., 1]
    return normalize(torch.stack([alpha * x, alpha * y, z.expand_as(x)], -1), dim=-1)
