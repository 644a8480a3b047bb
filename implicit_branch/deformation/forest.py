"""One ray-tracing tree over several copies of a mesh, so that the rays of all frames are traced together."""

from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from gs_ir.bvh import TriangleBvh, build_bvh

WIDTH = 8
"""Children of a node."""
DEEPEST = 9
"""Levels that a traversal has room for."""
NO_CHILD = -(2**31)
SPACING = 16.0
"""Metres between the copies: more than any body or ray is long, little enough for float32."""


def shifts(copies: int, like: Tensor) -> Tensor:
    """[copies, 3] where each copy stands, metres; rays of a copy's frame are moved by it."""
    offsets = torch.zeros(copies, 3, dtype=like.dtype, device=like.device)
    offsets[:, 0] = SPACING * torch.arange(copies, dtype=like.dtype, device=like.device)
    return offsets


def replicate(tree: TriangleBvh, copies: int) -> TriangleBvh:
    """``copies`` of ``tree`` under common nodes; vertices and faces are listed copy after copy.

    Boxes and corners are not set: refit it to the vertices [copies * V, 3] of all copies, moved by :func:`shifts`.
    """
    sizes = [end - begin for begin, end in zip(tree.level_offsets[:-1], tree.level_offsets[1:], strict=True)]
    above: list[int] = []
    while (above[0] if above else copies) > 1:
        above.insert(0, -(-(above[0] if above else copies) // WIDTH))
    faces = torch.cat([tree.faces + copy * len(tree.vertices) for copy in range(copies)])
    if len(above) + len(sizes) > DEEPEST:
        apart = (tree.vertices + shifts(copies, tree.vertices)[:, None]).flatten(0, 1)
        return build_bvh(apart, faces)
    offsets = tuple(accumulate([*above, *(copies * size for size in sizes)], initial=0))
    return replace(
        tree,
        vertices=tree.vertices.repeat(copies, 1),
        faces=faces,
        node_children=_children(tree, copies, above, sizes, offsets),
        block_faces=_blocks(tree, copies),
        level_offsets=offsets,
    )


def _children(tree: TriangleBvh, copies: int, above: list[int], sizes: list[int], offsets: tuple[int, ...]) -> Tensor:
    device = tree.node_children.device
    first = torch.tensor(offsets[len(above) : len(above) + len(sizes)], device=device)
    size, begin = torch.tensor(sizes, device=device), torch.tensor(tree.level_offsets[:-1], device=device)
    level = torch.repeat_interleave(torch.arange(len(sizes), device=device), size)
    copy = torch.arange(copies, device=device)[:, None]
    # Node i of level l and copy b becomes first[l] + b size[l] + i - begin[l]: levels stay contiguous.
    moved = (first - begin)[level] + torch.arange(len(level), device=device) + copy * size[level]
    children = tree.node_children.long()
    nodes = moved[:, children.clamp_min(0)]
    blocks = children - copy[..., None] * len(tree.block_faces)
    of_copies = torch.where(children >= 0, nodes, torch.where(children > NO_CHILD, blocks, NO_CHILD))
    result = torch.empty(offsets[-1], WIDTH, dtype=torch.int64, device=device)
    result[moved] = of_copies
    for k, count in enumerate(above):
        below = above[k + 1] if k + 1 < len(above) else copies
        number = torch.arange(count * WIDTH, device=device).reshape(count, WIDTH)
        result[offsets[k] : offsets[k] + count] = torch.where(number < below, offsets[k + 1] + number, NO_CHILD)
    return result.to(torch.int32)


def _blocks(tree: TriangleBvh, copies: int) -> Tensor:
    copy = torch.arange(copies, device=tree.block_faces.device, dtype=torch.int32)[:, None, None]
    moved = tree.block_faces + copy * len(tree.faces)
    return torch.where(tree.block_faces >= 0, moved, -1).flatten(0, 1)
