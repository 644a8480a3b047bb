"""Nearest neighbours in three dimensions."""

import torch
from torch import Tensor

from gs_ir._library import define
from gs_ir.reference import nearest as reference

MAX_NEIGHBOURS = 32
"""Largest k: each query keeps its list in registers."""

define("nearest_neighbours", "(Tensor query, Tensor points, int k) -> (Tensor, Tensor)", reference.nearest_neighbours)


@torch.library.register_fake("gs_ir::nearest_neighbours")
def _(query: Tensor, points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    shape = (query.shape[0], k)
    return query.new_empty(shape), query.new_empty(shape, dtype=torch.int64)


def nearest_neighbours(query: Tensor, points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the ``k`` points nearest to each query, exactly.

    Args:
        query: [N, 3].
        points: [M, 3], M >= k; same dtype and device. A query that is one of the points finds itself first.
        k: neighbours a query, 1 to 32.

    Returns:
        Squared distances [N, k], ascending, and indices [N, k] (int64) into ``points``; equal distances come in any
        order. Not differentiable: recompute distances from the indices where gradients are needed.

    Raises:
        ValueError: shapes, dtypes or ``k`` do not fit.
    """
    if query.ndim != 2 or points.ndim != 2 or query.shape[1] != 3 or points.shape[1] != 3:
        shapes = f"{tuple(query.shape)} and {tuple(points.shape)}"
        raise ValueError(f"nearest_neighbours: query [N, 3] and points [M, 3] expected, found {shapes}")
    if query.dtype != points.dtype:
        raise ValueError(f"nearest_neighbours: one dtype expected, found {query.dtype} and {points.dtype}")
    if not 1 <= k <= min(MAX_NEIGHBOURS, points.shape[0]):
        limit = f"{MAX_NEIGHBOURS} and the number of points, {points.shape[0]}"
        raise ValueError(f"nearest_neighbours: k between 1 and the smaller of {limit} expected, found {k}")
    return torch.ops.gs_ir.nearest_neighbours(query.detach().contiguous(), points.detach().contiguous(), k)
