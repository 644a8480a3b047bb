"""Real spherical harmonics up to band 4: the basis and the cosine lobe's factors."""

from functools import lru_cache

import torch
from torch import Tensor

from gs_ir.reference import spherical_harmonics

COSINE_LOBE = (1.0, 2 / 3, 1 / 4, 0.0, -1 / 24)
"""Factor per band that convolves with the clamped cosine divided by pi (Ramamoorthi and Hanrahan 2001, eq. 9)."""


def eval_basis(directions: Tensor, degree: int) -> Tensor:
    """Orthonormal real basis along unit directions; differentiable.

    Args:
        directions: [..., 3] unit vectors.
        degree: highest band, 0 to 4.

    Returns:
        [..., (degree + 1)**2], band by band, m from -l to l (band 1 is y, z, x); no Condon-Shortley sign.

    Raises:
        ValueError: ``degree`` outside 0 to 4.
    """
    if not 0 <= degree <= spherical_harmonics.MAX_DEGREE:
        raise ValueError(f"eval_basis: degree 0 to {spherical_harmonics.MAX_DEGREE} expected, found {degree}")
    return spherical_harmonics.basis(directions, degree)


def eval_basis_cubic(directions: Tensor, degree: int) -> Tensor:
    """As :func:`eval_basis` of ``degree`` 0 to 3, in few operators: products of three of (1, x, y, z) times a matrix.

    Equal to rounding, with its derivative along the sphere; faster where launches cost more than arithmetic.
    """
    products = _triple_products(directions.reshape(-1, 3))
    factors = _cubic_factors(degree, directions.dtype, directions.device)
    return (products @ factors).reshape(*directions.shape[:-1], factors.shape[1])


def _triple_products(directions: Tensor) -> Tensor:
    """[N, 64]"""
    linear = torch.nn.functional.pad(directions, (1, 0), value=1.0)
    quadratic = (linear[:, :, None] * linear[:, None]).flatten(1)
    return (quadratic[:, :, None] * linear[:, None]).flatten(1)


@lru_cache(maxsize=8)
def _cubic_factors(degree: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[64, (degree + 1)**2], the smallest factors that give the basis on the sphere; kept for each device."""
    with torch.inference_mode(False):
        generator = torch.Generator().manual_seed(0)
        points = torch.randn(256, 3, dtype=torch.float64, generator=generator)
        points = torch.nn.functional.normalize(points, dim=-1)
        factors = torch.linalg.pinv(_triple_products(points), rtol=1e-10) @ eval_basis(points, degree)
        return factors.to(dtype).to(device)


def cosine_factors(degree: int, like: Tensor) -> Tensor:
    """:data:`COSINE_LOBE` repeated over each band, [(degree + 1)**2], with dtype and device of ``like``.

    Radiance coefficients times these are the coefficients of irradiance / pi.
    """
    return like.new_tensor([COSINE_LOBE[band] for band in range(degree + 1) for _ in range(2 * band + 1)])


def project(values: Tensor, directions: Tensor, solid_angles: Tensor, degree: int) -> Tensor:
    """Coefficients [(degree + 1)**2, C] of a function given as quadrature.

    Args:
        values: [N, C] function values.
        directions: [N, 3] unit vectors.
        solid_angles: [N] steradians; sum to 4 pi.
        degree: highest band, 0 to 4.
    """
    return torch.einsum("nk,n,nc->kc", eval_basis(directions, degree), solid_angles, values)
