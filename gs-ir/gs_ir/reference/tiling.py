"""Reference of :mod:`gs_ir.tiling`."""

import torch
from torch import Tensor

TILE = 16
"""Side of a screen tile in pixels."""


def tile_surfels(boxes: Tensor, depths: Tensor, width: int, height: int, capacity: int = 0) -> tuple[Tensor, Tensor]:
    """Lists of surfels per tile, front to back: see :func:`gs_ir.tiling.tile_surfels`."""
    del capacity  # the list is as long as it must be
    columns, rows = -(-width // TILE), -(-height // TILE)
    order = torch.argsort(depths, stable=True)
    low = boxes[order, :2].long() // TILE
    high = -(-boxes[order, 2:].long() // TILE)
    covered = (boxes[order, 2:] > boxes[order, :2]).all(1, keepdim=True)
    extent = (high - low) * covered
    counts = extent.prod(1)
    instances = int(counts.sum())
    rank = torch.repeat_interleave(torch.arange(len(order), device=boxes.device), counts, output_size=instances)
    local = torch.arange(instances, device=boxes.device) - (counts.cumsum(0) - counts)[rank]
    across = extent[rank, 0]
    column = low[rank, 0] + local % across.clamp(min=1)
    row = low[rank, 1] + local // across.clamp(min=1)
    tile, by_tile = torch.sort(row * columns + column, stable=True)
    offsets = torch.searchsorted(tile, torch.arange(columns * rows + 1, device=boxes.device))
    return offsets.int(), order[rank[by_tile]].int()
