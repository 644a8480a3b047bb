"""Compositing along packed rays: native against reference, adjoint against finite differences."""

import torch

import gs_ir
from gs_ir.marching import render_weights
from gs_ir.packed import accumulate
from gs_ir.reference import marching as marching_reference
from gs_ir.reference import packed as reference


def _rays(generator: torch.Generator, dtype=torch.float64):
    counts = torch.tensor([3, 0, 1, 7, 0, 4])
    packed_info = torch.stack([counts.cumsum(0) - counts, counts], 1)
    samples = int(counts.sum())
    weights = torch.rand(samples, generator=generator, dtype=dtype)
    values = torch.randn(samples, 3, generator=generator, dtype=dtype)
    return weights, values, packed_info


def test_accumulate_equals_reference():
    """Fails when a ray's first sample or count is misread."""
    inputs = _rays(torch.Generator().manual_seed(0))
    torch.testing.assert_close(gs_ir.accumulate(*inputs), reference.accumulate(*inputs))


def test_accumulate_gradcheck():
    """Fails when the adjoint swaps weight and value."""
    weights, values, packed_info = _rays(torch.Generator().manual_seed(1))
    weights.requires_grad_(), values.requires_grad_()
    assert torch.autograd.gradcheck(lambda w, v: gs_ir.accumulate(w, v, packed_info), (weights, values))


def test_accumulate_without_samples():
    """Rays that meet nothing return zeros, not garbage."""
    out = gs_ir.accumulate(torch.empty(0), torch.empty(0, 3), torch.zeros(5, 2, dtype=torch.int64))
    assert out.shape == (5, 3)
    assert not out.any()


def test_rows_of_no_ray_get_no_gradient():
    """Fails when what lies behind the last ray's samples reaches a composite or gets an undefined gradient."""
    packed_info = torch.tensor([[0, 3], [3, 0], [3, 2]])
    alphas = torch.rand(9, dtype=torch.float64, requires_grad=True)
    values = torch.rand(9, 2, dtype=torch.float64, requires_grad=True)
    for weigh in (render_weights, marching_reference.render_weights):
        composed = accumulate(weigh(alphas, packed_info), values, packed_info)
        gradients = torch.autograd.grad(composed.sum(), (alphas, values))
        assert all(not g[5:].any() and g[:5].any() for g in gradients)
        short = accumulate(weigh(alphas[:5], packed_info), values[:5], packed_info)
        torch.testing.assert_close(composed, short)
