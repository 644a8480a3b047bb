"""CUDA kernels of packed sums."""

import pytest
import torch

from gs_ir.packed import accumulate
from gs_ir.reference import packed as reference
from tests.gs_ir.cuda.agreement import assert_agree


@pytest.mark.parametrize("rays", [0, 1, 700])
def test_accumulate(rays):
    """Fails when a ray's samples are missed or the adjoint of a term is wrong; worst difference seen 4e-6."""
    generator = torch.Generator().manual_seed(rays)
    counts = torch.randint(0, 40, (rays,), generator=generator)
    packed_info = torch.stack([counts.cumsum(0) - counts, counts], 1)
    samples = int(counts.sum())
    weights = torch.rand(samples, generator=generator).requires_grad_()
    values = torch.randn(samples, 5, generator=generator).requires_grad_()
    assert_agree(accumulate, (weights, values, packed_info), reference=reference.accumulate, rtol=1e-5, atol=1e-5)
