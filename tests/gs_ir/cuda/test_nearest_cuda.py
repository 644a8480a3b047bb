"""CUDA kernels of nearest neighbours. Squared distances are sums of three products: expected worst relative difference
2e-7 in float32.
"""

import pytest
import torch

from gs_ir.nearest import nearest_neighbours
from gs_ir.reference import nearest as reference
from tests.gs_ir.cuda.agreement import assert_agree

TOLERANCE = {torch.float32: {"rtol": 1e-6, "atol": 1e-9}, torch.float64: {"rtol": 1e-14, "atol": 1e-18}}


def _clouds(queries: int, count: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A dense cluster in a thin cloud, which a curve of cubes of one size resolves badly."""
    generator = torch.Generator().manual_seed(count)
    points = torch.randn(count, 3, generator=generator, dtype=dtype)
    points[count // 2 :] = 3 + 1e-3 * points[count // 2 :]
    query = torch.randn(queries, 3, generator=generator, dtype=dtype)
    query[queries // 2 :] = points[torch.randint(count, (queries - queries // 2,), generator=generator)]
    return query, points


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("queries", "count", "k"), [(1, 1, 1), (7, 7, 7), (130, 8, 3), (0, 9, 2), (500, 9, 9)])
def test_few_points(queries, count, k, dtype):
    """Fails when an unused slot is found, or a box of a shallow tree is wrong."""
    assert_agree(
        nearest_neighbours,
        (*_clouds(queries, count, dtype), k),
        reference=reference.nearest_neighbours,
        **TOLERANCE[dtype],
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "k"), [(1000, 1), (5000, 4), (6890, 7), (20_000, 11), (50_000, 32)])
def test_distances(count, k, dtype):
    """Fails when a subtree is pruned that holds a neighbour, or a list loses its order (every capacity is used)."""
    query, points = _clouds(1500, count, dtype)
    expected, _ = nearest_neighbours(query, points, k)
    squared, indices = nearest_neighbours(query.cuda(), points.cuda(), k)
    torch.testing.assert_close(squared.cpu(), expected, **TOLERANCE[dtype])
    assert indices.dtype == torch.int64
    again = (query[:, None] - points[indices.cpu()]).square().sum(-1)
    torch.testing.assert_close(squared.cpu(), again, **TOLERANCE[dtype])
    assert (indices.sort(1).values.diff(dim=1) > 0).all(), "a neighbour is listed twice"


def test_coincident_points():
    """Fails when points in one cell of the curve are lost or the curve's extent of zero divides."""
    points = torch.ones(5000, 3, device="cuda")
    squared, indices = nearest_neighbours(points[:300], points, 32)
    assert not squared.any()
    assert (indices.sort(1).values.diff(dim=1) > 0).all()


def test_points_find_themselves():
    """Fails when the distance of a point to itself is rounded away from zero."""
    points = torch.rand(3000, 3).cuda() + 100
    squared, indices = nearest_neighbours(points, points, 1)
    assert not squared.any()
    torch.testing.assert_close(points[indices[:, 0]], points, rtol=0, atol=0)


def test_broken_points_are_never_found():
    """Fails when NaN or infinity spoil the boxes or the curve of the others."""
    query, points = _clouds(400, 9000, torch.float32)
    points[::3] = torch.nan
    points[1::3] = torch.inf
    expected, _ = nearest_neighbours(query, points, 4)
    squared, indices = nearest_neighbours(query.cuda(), points.cuda(), 4)
    finite = query.isfinite().all(1)
    assert (indices[finite.cuda()] % 3 == 2).all()
    torch.testing.assert_close(squared.cpu()[finite], expected[finite], **TOLERANCE[torch.float32])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_broken_queries_find_nothing(bad):
    """Fails when a broken query scans every bucket or reports a point."""
    query = torch.rand(64, 3)
    query[10, 1] = bad
    squared, indices = nearest_neighbours(query.cuda(), torch.rand(100, 3).cuda(), 4)
    assert (indices[10] == -1).all()
    assert torch.isinf(squared[10]).all()
    assert (indices[:10] >= 0).all()
