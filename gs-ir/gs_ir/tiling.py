"""Assignment of surfels to screen tiles, in drawing order."""

import torch
from torch import Tensor

from gs_ir._library import define
from gs_ir.reference import tiling as reference

TILE = reference.TILE

define(
    "tile_surfels",
    "(Tensor boxes, Tensor depths, int width, int height, int capacity=0) -> (Tensor, Tensor)",
    reference.tile_surfels,
)


@torch.library.register_fake("gs_ir::tile_surfels")
def _(boxes: Tensor, depths: Tensor, width: int, height: int, capacity: int = 0) -> tuple[Tensor, Tensor]:
    tiles = -(-width // TILE) * -(-height // TILE)
    instances = torch.library.get_ctx().new_dynamic_size()
    return boxes.new_empty(tiles + 1), boxes.new_empty(instances)


def tile_surfels(boxes: Tensor, depths: Tensor, width: int, height: int, capacity: int = 0) -> tuple[Tensor, Tensor]:
    """List, for every 16 x 16 pixel tile, the surfels whose boxes touch it, sorted by (depth, index).

    The order is that of centres, as in 3D Gaussian splatting (Kerbl et al. 2023), and deterministic.

    Args:
        boxes: [N, 4] int32 pixel boxes (x0, y0, x1, y1), half-open, inside the image; empty boxes are not listed.
        depths: [N] metres, centre depth.
        width: pixels.
        height: pixels.
        capacity: on a GPU, length of the list, so that the host need not wait for the number of instances; 0: as long
            as needed. A list that is full (the last offset equals ``capacity``) may lack surfels.

    Returns:
        tile offsets [tiles + 1] int32 (tiles in row-major order) into the surfel of each instance
        [I] int32, I at least the last offset. No gradient.
    """
    return torch.ops.gs_ir.tile_surfels(boxes, depths.detach().contiguous(), width, height, capacity)
