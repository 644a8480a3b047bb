"""CUDA kernels of carried normals and reflected harmonics."""

import pytest
import torch

from gs_ir.normals import carry_normals, reflected_harmonics
from gs_ir.reference import normals as reference
from tests.gs_ir.cuda.agreement import assert_agree
from tests.gs_ir.test_normals import tensors

TOLERANCES = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.float64: {"rtol": 1e-12, "atol": 1e-12}}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 255, 1000])
def test_normals(count, dtype):
    """Fails when a row is left out or a column mistaken; worst expected 2e-6."""
    jacobian, gradient, normal, view = tensors(count, dtype)
    assert_agree(carry_normals, (jacobian, gradient), reference=reference.carry_normals, **TOLERANCES[dtype])
    assert_agree(reflected_harmonics, (normal, view), reference=reference.reflected_harmonics, **TOLERANCES[dtype])
