"""The environment-BRDF table of split-sum shading: what GGX reflects of a constant light.

Computed once per process with NumPy on one thread: 0.2 s for 128 x 128 entries.
"""

from functools import lru_cache
from math import pi

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

CAP_SAMPLES = 32
"""Gauss-Legendre points along the height of the visible-normal cap."""
ANGLE_SAMPLES = 16
"""Midpoint samples along half its circumference (the integrand is symmetric). Largest error with both: 1.1e-3."""
COLUMNS_PER_PIECE = 32
"""View cosines integrated at once, so that the arrays stay in the cache."""


@lru_cache(maxsize=4)
def split_sum_table(resolution: int = 256) -> Tensor:
    """Scale and bias of F0 (Karis 2013), integrated from the surface model of this project.

    GGX with ``alpha = roughness**2``, height-correlated Smith, Schlick: reflectance = F0 * scale + bias.

    Returns:
        [R, R, 2] float32; row = roughness, column = n.v, both at texel centres (i + 0.5) / R.
    """
    centres = (np.arange(resolution, dtype=np.float32) + np.float32(0.5)) / np.float32(resolution)
    pieces = np.split(centres, range(COLUMNS_PER_PIECE, resolution, COLUMNS_PER_PIECE))
    rows = [np.concatenate([_integrate(roughness, piece) for piece in pieces]) for roughness in centres]
    return torch.from_numpy(np.stack(rows))


def sample_split_sum(table: Tensor, n_dot_v: Tensor, roughness: Tensor) -> Tensor:
    """Scale and bias [N, 2] by bilinear interpolation at ``n_dot_v`` [N] and ``roughness`` [N]; differentiable."""
    grid = torch.stack([2 * n_dot_v - 1, 2 * roughness - 1], -1)[None, None]
    found = grid_sample(table.permute(2, 0, 1)[None], grid, padding_mode="border", align_corners=False)
    return found[0, :, 0].T


def _integrate(roughness: np.float32, n_dot_v: np.ndarray) -> np.ndarray:
    """Scale and bias [V, 2] for view cosines [V], by quadrature over visible normals.

    With h distributed as visible normals (Dupuy and Benyoub 2023) the integrand is G2 / G1 times Fresnel.
    """
    alpha, squared = roughness**2, roughness**4
    view_z = n_dot_v[:, None, None]
    view_x = np.sqrt(1 - view_z * view_z)
    half_x, half_z = _visible_normals(alpha, view_x, view_z)
    v_dot_h = np.clip(view_x * half_x + view_z * half_z, 0, 1)
    n_dot_l = np.maximum(2 * v_dot_h * half_z - view_z, 0)
    root_v = np.sqrt(squared + (1 - squared) * view_z * view_z)
    root_l = np.sqrt(squared + (1 - squared) * n_dot_l * n_dot_l)
    ratio = n_dot_l * (view_z + root_v) / np.maximum(n_dot_l * root_v + view_z * root_l, np.float32(1e-12))
    weighted = ratio * (_cap_nodes()[1] / np.float32(ANGLE_SAMPLES))[:, None]
    miss = 1 - v_dot_h
    bias = (weighted * (miss * miss) ** 2 * miss).sum((1, 2))
    return np.stack([weighted.sum((1, 2)) - bias, bias], -1)


@lru_cache(maxsize=1)
def _cap_nodes() -> tuple[np.ndarray, np.ndarray]:
    """Nodes in [0, 1] and weights; denser where the cap meets the lobe's long tail."""
    nodes, weights = np.polynomial.legendre.leggauss(CAP_SAMPLES)
    rest = (1 - nodes) / 2
    return (1 - rest**2).astype(np.float32), (weights * rest).astype(np.float32)


def _visible_normals(alpha: np.float32, view_x: np.ndarray, view_z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x and z [V, CAP_SAMPLES, ANGLE_SAMPLES] of the quadrature normals for views (x, 0, z) [V, 1, 1]."""
    length = np.sqrt(alpha * alpha * view_x * view_x + view_z * view_z)
    top_x, top_z = alpha * view_x / length, view_z / length
    angle = (pi * (np.arange(ANGLE_SAMPLES) + 0.5) / ANGLE_SAMPLES).astype(np.float32)
    height = (1 - _cap_nodes()[0][:, None]) * (1 + top_z) - top_z
    radius = np.sqrt(np.maximum(1 - height * height, 0))
    x, y, z = alpha * (radius * np.cos(angle) + top_x), alpha * radius * np.sin(angle), height + top_z
    length = np.sqrt(x * x + y * y + z * z)
    return x / length, z / length
