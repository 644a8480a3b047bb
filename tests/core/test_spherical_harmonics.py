"""Spherical harmonics: orthonormality and the cosine lobe's factors, against quadrature."""

import numpy as np
import pytest
import torch
from torch import Tensor

from core.spherical_harmonics import cosine_factors, eval_basis, project


def _quadrature() -> tuple[Tensor, Tensor]:
    """Gauss-Legendre in z, equal steps in longitude: exact for polynomials up to degree 15. Points and weights."""
    z, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(8))
    longitude = 2 * torch.pi * torch.arange(16, dtype=torch.float64) / 16
    radius = (1 - z * z).sqrt()[:, None]
    points = torch.stack([radius * longitude.cos(), radius * longitude.sin(), z[:, None].expand(8, 16)], -1)
    return points.reshape(-1, 3), (weights[:, None] * (2 * torch.pi / 16)).expand(8, 16).reshape(-1)


def test_orthonormal() -> None:
    """Fails on any wrong constant, sign or repeated function among the 25."""
    points, weights = _quadrature()
    basis = eval_basis(points, 4)
    torch.testing.assert_close(basis.T @ (weights[:, None] * basis), torch.eye(25, dtype=torch.float64))


def test_bands_are_complete() -> None:
    """Fails when a function sits in the wrong band: sum of squares over band l is (2l + 1) / (4 pi) everywhere."""
    raw = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = eval_basis(torch.nn.functional.normalize(raw, dim=-1), 4)
    for band in range(5):
        total = basis[:, band**2 : (band + 1) ** 2].square().sum(1)
        torch.testing.assert_close(total, torch.full_like(total, (2 * band + 1) / (4 * torch.pi)))


def test_cosine_factors_convolve() -> None:
    """Fails when a factor is wrong: a light of one band, lit surface by quadrature over its hemisphere.

    Measured worst error 6e-4 of the light's maximum, from the kink at the horizon.
    """
    n = 400
    z = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    longitude = 2 * torch.pi * torch.arange(64, dtype=torch.float64) / 64
    radius = (1 - z * z).sqrt()[:, None]
    local = torch.stack([radius * longitude.cos(), radius * longitude.sin(), z[:, None].expand(n, 64)], -1)
    normal = torch.nn.functional.normalize(torch.tensor([0.3, 0.5, -0.8], dtype=torch.float64), dim=0)
    frame = torch.linalg.qr(torch.stack([normal, *torch.eye(3, dtype=torch.float64)[:2]], 1)).Q
    frame = torch.stack([frame[:, 1], frame[:, 2], normal], 1)
    cosine_weight = (z[:, None] * (2 * torch.pi / 64 / n) / torch.pi).expand(n, 64)
    lit = (eval_basis(local @ frame.T, 4) * cosine_weight[..., None]).sum((0, 1))
    torch.testing.assert_close(lit, eval_basis(normal, 4) * cosine_factors(4, normal), atol=1e-3, rtol=0)


def test_projection_reconstructs() -> None:
    """Fails when values and weights are paired wrongly: a polynomial of degree 4 returns."""
    points, weights = _quadrature()
    values = torch.stack([points[:, 0] * points[:, 1] ** 3, 2 + points[:, 2]], -1)
    coefficients = project(values, points, weights, 4)
    torch.testing.assert_close(eval_basis(points, 4) @ coefficients, values)


@pytest.mark.parametrize("degree", [-1, 5])
def test_degree_out_of_range(degree: int) -> None:
    """Fails when an unsupported band is cut off in silence."""
    with pytest.raises(ValueError, match="degree 0 to 4"):
        eval_basis(torch.zeros(1, 3), degree)
