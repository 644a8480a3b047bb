"""Nearest neighbours against all distances."""

import pytest
import torch

from gs_ir.nearest import nearest_neighbours
from gs_ir.reference import nearest as reference


def _expected(query, points, k):
    return torch.cdist(query.double(), points.double()).square().topk(k, largest=False).values


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "k"), [(1, 1), (7, 7), (8, 3), (9, 9), (1000, 1), (1000, 32), (5000, 8)])
def test_equals_all_distances(dtype, count, k):
    """Fails when a subtree is pruned that holds a neighbour, at any fill of the buckets."""
    generator = torch.Generator().manual_seed(count + k)
    points = torch.randn(count, 3, generator=generator, dtype=dtype)
    query = 1.5 * torch.randn(500, 3, generator=generator, dtype=dtype)
    squared, indices = nearest_neighbours(query, points, k)
    torch.testing.assert_close(squared.double(), _expected(query, points, k), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((query[:, None] - points[indices]).square().sum(-1), squared)
    assert (indices.sort(1).values.diff(dim=1) > 0).all(), "a neighbour is listed twice"


def test_reference_equals_all_distances():
    """Fails when the chunks of the reference leave out rows."""
    points, query = torch.rand(3000, 3), torch.rand(4000, 3)
    squared, indices = reference.nearest_neighbours(query, points, 3)
    torch.testing.assert_close(squared.double(), _expected(query, points, 3), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close((query[:, None] - points[indices]).square().sum(-1), squared)


def test_neighbouring_queries_share_their_bound_safely():
    """Fails when the bound carried over from the previous query is too tight: on lattices, far away, after jumps."""
    line = torch.linspace(-2, 2, 20)
    lattice = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)
    query = torch.cat([lattice, lattice * 50, lattice[torch.randperm(len(lattice))]])
    points = torch.rand(2000, 3)
    squared, _ = nearest_neighbours(query, points, 5)
    torch.testing.assert_close(squared.double(), _expected(query, points, 5), rtol=1e-4, atol=1e-6)


def test_nan_query_does_not_spoil_the_next():
    """Fails when the bound of a NaN query is carried over."""
    query = torch.rand(64, 3)
    query[10] = torch.nan
    points = torch.rand(100, 3)
    keep = torch.arange(64) != 10
    squared, _ = nearest_neighbours(query, points, 4)
    torch.testing.assert_close(squared[keep].double(), _expected(query[keep], points, 4), rtol=1e-4, atol=1e-6)


def test_nan_and_infinite_points_are_never_found():
    """Fails when NaN breaks the order that the tree is built with."""
    points = torch.rand(300, 3)
    points[::3] = torch.nan
    points[1::3] = torch.inf
    _, indices = nearest_neighbours(torch.rand(50, 3), points, 4)
    assert (indices % 3 == 2).all()


def test_coincident_points():
    """Fails when a split at equal coordinates loses points."""
    points = torch.zeros(100, 3)
    squared, indices = nearest_neighbours(torch.zeros(1, 3), points, 32)
    assert not squared.any()
    assert indices.unique().numel() == 32


def test_points_find_themselves():
    """Fails when the distance of a point to itself is rounded away from zero."""
    points = torch.rand(500, 3) + 100
    squared, indices = nearest_neighbours(points, points, 1)
    assert not squared.any()
    assert torch.equal(indices[:, 0], torch.arange(500))


def test_without_queries():
    """No queries give empty lists of the right shape."""
    squared, indices = nearest_neighbours(torch.empty(0, 3), torch.rand(5, 3), 2)
    assert squared.shape == indices.shape == (0, 2)
    assert indices.dtype == torch.int64


@pytest.mark.parametrize("k", [0, 6, 33])
def test_impossible_k_is_refused(k):
    """Fails when more neighbours are promised than there are points or registers."""
    with pytest.raises(ValueError, match="k between 1 and"):
        nearest_neighbours(torch.rand(2, 3), torch.rand(40 if k == 33 else 5, 3), k)


def test_wrong_shapes_are_refused():
    """Fails when 2D points or mixed precisions are taken silently."""
    with pytest.raises(ValueError, match=r"\[N, 3\]"):
        nearest_neighbours(torch.rand(2, 2), torch.rand(5, 2), 1)
    with pytest.raises(ValueError, match="dtype"):
        nearest_neighbours(torch.rand(2, 3), torch.rand(5, 3).double(), 1)
