"""Real spherical harmonics up to band 4: the basis and the cosine lobe's factors."""

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
