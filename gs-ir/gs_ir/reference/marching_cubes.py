"""Reference of :mod:`gs_ir.marching_cubes`: the table as lists of loops, cells by indexing."""

from functools import cache

import torch
from torch import Tensor

Point = tuple[int, ...]
Edge = tuple[int, Point]
"""Axis, and the offset of the lower end."""
CORNERS: list[Point] = [(c & 1, c >> 1 & 1, c >> 2) for c in range(8)]
"""Offsets (x, y, z)."""


def marching_cubes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Vertices [V, 3] by (node, axis) and faces [F, 3] by (node, number in the table)."""
    inside = values < 0
    vertices, numbers = _vertices(values, inside)
    case = sum(
        (_shifted(inside, corner).long() << bit for bit, corner in enumerate(CORNERS)),
        values.new_zeros([max(0, n - 1) for n in values.shape], dtype=torch.int64),
    )
    table = _table().to(values.device)
    z, y, x = ((case != 0) & (case != 255)).nonzero().unbind(-1)
    rows = table[case[z, y, x]]  # [cells, 15, 4] axis and offset of the edge's owner, -1 where there is none
    at = torch.stack([x, y, z], -1)[:, None] + rows[..., 1:]
    used = rows[..., 0] >= 0
    axis, at = rows[used][:, 0], at[used]
    return vertices, numbers[at[:, 2], at[:, 1], at[:, 0], axis].reshape(-1, 3)


def _shifted(inside: Tensor, offset: Point) -> Tensor:
    """[Z - 1, Y - 1, X - 1] of one corner of every cell."""
    x, y, z = offset
    sizes = inside.shape
    return inside[z : z + max(0, sizes[0] - 1), y : y + max(0, sizes[1] - 1), x : x + max(0, sizes[2] - 1)]


def _vertices(values: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Vertices [V, 3] and the number [Z, Y, X, 3] of the vertex on the edge along each axis (if it is crossed)."""
    crossed = torch.zeros(*values.shape, 3, dtype=torch.bool, device=values.device)
    share = values.new_zeros(*values.shape, 3)
    for axis in range(3):
        dim, length = 2 - axis, values.shape[2 - axis]
        if length < 2:
            continue
        low, high = values.narrow(dim, 0, length - 1), values.narrow(dim, 1, length - 1)
        different = inside.narrow(dim, 0, length - 1) != inside.narrow(dim, 1, length - 1)
        crossed[..., axis].narrow(dim, 0, length - 1).copy_(different)
        share[..., axis].narrow(dim, 0, length - 1).copy_(low / (low - high))
    z, y, x, along = crossed.nonzero().unbind(-1)
    vertices = torch.stack([x, y, z], -1).to(values.dtype)
    vertices[torch.arange(len(along), device=values.device), along] += share[crossed]
    numbers = crossed.flatten().cumsum(0).reshape(crossed.shape) - 1
    return vertices, numbers


@cache
def _table() -> Tensor:
    """[256, 15, 4] corners of up to five triangles: axis and owner's offset (x, y, z) of the edge, -1 for none."""
    table = torch.full((256, 15, 4), -1)
    for case in range(256):
        inside = {corner for bit, corner in enumerate(CORNERS) if case >> bit & 1}
        triangles = [corner for loop in _loops(inside) for corner in _fan(loop)]
        for row, (axis, owner) in enumerate(triangles):
            table[case, row] = torch.tensor([axis, *owner])
    return table


def _loops(inside: set[Point]) -> list[list[Edge]]:
    """Closed sequences of crossed edges, each around the surface anticlockwise seen from outside."""
    following: dict[Edge, Edge] = {}
    for ring in _rings():
        for i in range(4):
            if ring[i - 1] not in inside and ring[i] in inside:
                last = next(k for k in range(i, i + 4) if ring[(k + 1) % 4] not in inside)
                following[_edge(ring[i - 1], ring[i])] = _edge(ring[last % 4], ring[(last + 1) % 4])
    loops = []
    while following:
        edge = min(following, key=_rank)
        loop = []
        while edge in following:
            loop.append(edge)
            edge = following.pop(edge)
        loops.append(loop)
    return loops


def _rings() -> list[list[Point]]:
    """The corners of the six faces, anticlockwise seen from outside the cube."""
    rings = []
    for axis in range(3):
        for side in (0, 1):
            ring = []
            for b, c in ((0, 0), (1, 0), (1, 1), (0, 1)):
                point = [0, 0, 0]
                point[axis], point[(axis + 1) % 3], point[(axis + 2) % 3] = side, b, c
                ring.append(tuple(point))
            rings.append(ring if side else ring[::-1])
    return rings


def _edge(first: Point, second: Point) -> Edge:
    axis = next(a for a in range(3) if first[a] != second[a])
    return axis, min(first, second)


def _rank(edge: Edge) -> tuple[int, int, int]:
    axis, owner = edge
    return axis, owner[(axis + 2) % 3], owner[(axis + 1) % 3]


def _fan(loop: list[Edge]) -> list[Edge]:
    """Corners of triangles around the first member whose diagonals do not lie in a face of the cube."""
    turned = [loop[i:] + loop[:i] for i in range(len(loop))]
    fan = next(t for t in turned if not any(_faces(t[0]) & _faces(other) for other in t[2:-1]))
    return [corner for k in range(1, len(fan) - 1) for corner in (fan[0], fan[k], fan[k + 1])]


def _faces(edge: Edge) -> set[tuple[int, int]]:
    axis, owner = edge
    return {(a, owner[a]) for a in range(3) if a != axis}


def mesh_parts(faces: Tensor, vertices: int) -> Tensor:
    """Smallest vertex of every vertex's part: neighbours exchange the smallest that they know until none changes."""
    parts = torch.arange(vertices, device=faces.device)
    while True:
        least = parts[faces].amin(1, keepdim=True).expand_as(faces)
        found = parts.scatter_reduce(0, faces.reshape(-1), least.reshape(-1), "amin")
        found = found[found]
        if torch.equal(found, parts):
            return parts
        parts = found
