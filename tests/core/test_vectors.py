"""Directions and lengths against autograd."""

import torch

from core.vectors import unit, unit_and_length


def test_direction_and_length_with_gradients():
    """Fails when the projection, its sign or a missing cotangent is handled wrongly; gradcheck in float64."""
    vectors = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(unit_and_length, (vectors,))
    assert torch.autograd.gradcheck(unit, (vectors,))
    assert torch.autograd.gradcheck(lambda x: unit_and_length(x)[1], (vectors,))
    torch.testing.assert_close(unit(vectors), torch.nn.functional.normalize(vectors, dim=-1))


def test_no_vector_has_no_direction():
    """Fails when the floor is missing: 0 / 0."""
    vectors = torch.zeros(2, 3, requires_grad=True)
    directions, length = unit_and_length(vectors, 1e-4)
    (gradient,) = torch.autograd.grad(directions.sum(), vectors)
    assert float(directions.detach().abs().max()) == 0
    assert float(length.detach().min()) == float(torch.tensor(1e-4))
    torch.testing.assert_close(gradient, torch.full((2, 3), 1e4))
