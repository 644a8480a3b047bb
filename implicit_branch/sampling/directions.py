"""Stratified directions about surface points."""

import math
from functools import lru_cache

import torch
from torch import Tensor


def strata(count: int) -> tuple[int, int]:
    """Rows and columns of the grid of ``count`` cells that is closest to 1 : 2 (columns cover the azimuth)."""
    rows = max(1, round(math.sqrt(count / 2)))
    while count % rows:
        rows -= 1
    return rows, count // rows


def stratified_uniforms(pixels: int, count: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
    """[pixels, count, 2] points, one in each cell of a grid over the unit square, in a random order per pixel.

    The order decouples the cells from whatever else is stratified over the same ``count`` draws, for example depth.
    Without a generator the cells' centres are returned, in the same order for every pixel.
    """
    corner, size = _cells(count, like.dtype, like.device)
    if generator is None:
        order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).to(like.device)
        return ((corner[order] + 0.5) / size).expand(pixels, count, 2)
    # A random start and an odd-free stride would leave structure; sorting random keys is a true permutation.
    order = torch.rand(pixels, count, generator=generator, device=like.device).argsort(1)
    jitter = torch.rand(pixels, count, 2, generator=generator, device=like.device, dtype=like.dtype)
    return (corner[order] + jitter) / size


@lru_cache(maxsize=8)
def _cells(count: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column [count, 2] of every cell, and the numbers [2] of both."""
    rows, columns = strata(count)
    with torch.inference_mode(False):
        cell = torch.arange(count, device=device)
        corner = torch.stack([cell // columns, cell % columns], -1).to(dtype)
        return corner, torch.tensor([rows, columns], dtype=dtype, device=device)
