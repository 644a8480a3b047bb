"""Reference of :mod:`gs_ir.nearest`."""

import torch
from torch import Tensor

PAIRS_PER_CHUNK = 1 << 22


def nearest_neighbours(query: Tensor, points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Brute force: all distances of a chunk of queries, then the ``k`` smallest."""
    rows = max(1, PAIRS_PER_CHUNK // max(1, points.shape[0]))
    distances = query.new_empty(query.shape[0], k)
    indices = torch.empty(query.shape[0], k, dtype=torch.int64, device=query.device)
    for first in range(0, query.shape[0], rows):
        chunk = slice(first, first + rows)
        # Differences, not |q|^2 - 2 q.p + |p|^2, which loses the small distances to cancellation.
        squared = (query[chunk, None] - points[None]).square().sum(-1)
        distances[chunk], indices[chunk] = squared.topk(k, largest=False, sorted=True)
    return distances, indices
