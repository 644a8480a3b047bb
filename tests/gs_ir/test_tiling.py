"""Tile lists against brute force."""

import pytest
import torch

from gs_ir.reference import tiling as reference
from gs_ir.tiling import TILE, tile_surfels

WIDTH, HEIGHT = 70, 37


def _boxes(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor([WIDTH, HEIGHT])
    corner = (torch.rand(count, 2, generator=generator) * size).int()
    extent = torch.randint(0, 40, (count, 2), generator=generator)  # some are empty
    return torch.cat([corner, torch.minimum(corner + extent, size)], 1).int()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_tile_lists_its_surfels_by_depth_and_index(dtype):
    """Fails when a tile misses a surfel, lists one twice, or breaks ties of depth by anything but the index."""
    boxes = _boxes(300)
    depths = (torch.rand(300, generator=torch.Generator().manual_seed(1)) * 20).round().to(dtype) / 7 + 0.2
    offsets, members = tile_surfels(boxes, depths, WIDTH, HEIGHT)
    columns, rows = -(-WIDTH // TILE), -(-HEIGHT // TILE)
    assert offsets.shape == (columns * rows + 1,)
    for tile in range(columns * rows):
        left, top = tile % columns * TILE, tile // columns * TILE
        expected = [
            i
            for i, (x0, y0, x1, y1) in enumerate(boxes.tolist())
            if x0 < min(x1, left + TILE) and x1 > left and y0 < min(y1, top + TILE) and y1 > top
        ]
        expected.sort(key=lambda i: (depths[i].item(), i))
        assert members[offsets[tile] : offsets[tile + 1]].tolist() == expected


def test_native_equals_reference():
    """Fails when a backend orders instances differently."""
    boxes, depths = _boxes(500, seed=2), torch.rand(500, generator=torch.Generator().manual_seed(3))
    for found, expected in zip(
        tile_surfels(boxes, depths, WIDTH, HEIGHT), reference.tile_surfels(boxes, depths, WIDTH, HEIGHT), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_all_boxes_empty():
    """Nothing visible gives empty lists."""
    offsets, members = tile_surfels(torch.zeros(4, 4, dtype=torch.int32), torch.ones(4), WIDTH, HEIGHT)
    assert not offsets.any()
    assert members.numel() == 0
