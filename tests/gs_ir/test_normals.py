"""Carried normals and reflected harmonics against the reference and closed forms."""

import pytest
import torch
from torch.nn.functional import normalize

from gs_ir.normals import carry_normals, reflected_harmonics
from gs_ir.reference import normals as reference


def tensors(count: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Jacobians near rotations, gradients, unit normals and views."""
    generator = torch.Generator().manual_seed(count)
    jacobian = torch.eye(3, dtype=dtype) + 0.3 * torch.randn(count, 3, 3, generator=generator, dtype=dtype)
    gradient, normal, view = torch.randn(3, count, 3, generator=generator, dtype=dtype)
    return jacobian, gradient, normalize(normal, dim=-1), normalize(view, dim=-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 300])
def test_agreement_with_the_reference(count, dtype):
    """Fails when a column, a band or a factor is mistaken; worst found 2e-6 in single precision."""
    jacobian, gradient, normal, view = tensors(count, dtype)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(carry_normals(jacobian, gradient), reference.carry_normals(jacobian, gradient), **close)
    expected = reference.reflected_harmonics(normal, view)
    torch.testing.assert_close(reflected_harmonics(normal, view), expected, **close)


def test_normals_are_those_of_the_inverse_transpose():
    """Fails when normals move like tangents."""
    jacobian, gradient, *_ = tensors(50, torch.float64)
    determinant = torch.linalg.det(jacobian)
    expected = normalize((torch.linalg.inv(jacobian).mT @ gradient[..., None])[..., 0], dim=-1)
    found = carry_normals(jacobian, gradient) * determinant.sign()[:, None]
    torch.testing.assert_close(found, expected)


def test_wrong_arguments_are_named():
    """Fails when shapes that do not belong together reach a kernel."""
    jacobian, gradient, normal, view = tensors(4, torch.float64)
    with pytest.raises(ValueError, match="carry_normals"):
        carry_normals(jacobian[1:], gradient)
    with pytest.raises(ValueError, match="reflected_harmonics"):
        reflected_harmonics(normal, view[1:])
