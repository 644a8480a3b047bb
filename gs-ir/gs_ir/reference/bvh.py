"""Reference of :mod:`gs_ir.bvh`: queries by brute force over all triangles, a tree of Morton-sorted triangles.

The queries do not look at the tree, so they are an oracle for both building and traversal.
"""

import torch
from torch import Tensor

WIDTH = 8
"""Children a node."""
BLOCK = 4
"""Triangles a leaf block."""
EMPTY = -(1 << 31)
"""Child slot without a child."""
PAIRS_PER_CHUNK = 1 << 20
MORTON_BITS = 10


def build_bvh(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Complete tree over blocks of four triangles in Morton order (Lauterbach et al. 2009).

    Returns:
        node_children [N, 8] int32, block_faces [L, 4] int32, level_offsets [D + 1] int64; see
        :class:`gs_ir.bvh.TriangleBvh`.
    """
    order = _morton_order(vertices, faces).int()
    blocks = max(1, -(-order.shape[0] // BLOCK))
    block_faces = order.new_full((blocks * BLOCK,), -1)
    block_faces[: order.shape[0]] = order
    counts = [blocks]
    while counts[0] > 1 or len(counts) == 1:
        counts.insert(0, -(-counts[0] // WIDTH))
    offsets = [0]
    for count in counts[:-1]:
        offsets.append(offsets[-1] + count)
    children = order.new_full((offsets[-1], WIDTH), EMPTY)
    for level, count in enumerate(counts[1:]):
        indices = torch.arange(count, dtype=torch.int32, device=order.device)
        inner = level + 2 < len(counts)
        flat = children[offsets[level] : offsets[level + 1]].view(-1)
        flat[:count] = indices + offsets[level + 1] if inner else -1 - indices
    return children, block_faces.reshape(blocks, BLOCK), torch.tensor(offsets)


def _morton_order(vertices: Tensor, faces: Tensor) -> Tensor:
    if faces.shape[0] == 0:
        return faces.new_zeros(0)
    centres = vertices[faces].mean(1)
    low, high = centres.amin(0), centres.amax(0)
    cells = ((centres - low) / (high - low).clamp(min=1e-12) * (2**MORTON_BITS - 1)).long()
    code = torch.zeros_like(cells[:, 0])
    for bit in range(MORTON_BITS):
        for axis in range(3):
            code |= ((cells[:, axis] >> bit) & 1) << (3 * bit + axis)
    return torch.sort(code, stable=True).indices


def refit_bvh(
    vertices: Tensor, faces: Tensor, node_children: Tensor, block_faces: Tensor, level_offsets: list[int]
) -> tuple[Tensor, Tensor]:
    """Node boxes and block vertices for moved ``vertices``, from the deepest level up."""
    padding = block_faces < 0
    if faces.shape[0] == 0:
        corners = vertices.new_zeros(*block_faces.shape, 3, 3)
    else:
        corners = vertices[faces[block_faces.long().clamp(min=0)]]
    block_vertices = corners.masked_fill(padding[..., None, None], torch.nan)
    block_vertices = block_vertices.permute(0, 2, 3, 1).reshape(-1, 9, BLOCK).contiguous()
    masked = padding[..., None]
    block_low = corners.amin(2).masked_fill(masked, torch.inf).amin(1)
    block_high = corners.amax(2).masked_fill(masked, -torch.inf).amax(1)
    node_boxes = vertices.new_empty(node_children.shape[0], 6, WIDTH)
    # Boxes of what a child refers to: blocks, then nodes, then "no child" (an inverted box, which nothing meets).
    nodes, blocks = node_children.shape[0], block_faces.shape[0]
    low = torch.cat([block_low, vertices.new_full((nodes + 1, 3), torch.inf)])
    high = torch.cat([block_high, vertices.new_full((nodes + 1, 3), -torch.inf)])
    children = node_children.long()
    target = torch.where(children < 0, -1 - children, blocks + children)
    target = torch.where(children == EMPTY, blocks + nodes, target)
    for first, last in reversed(list(zip(level_offsets[:-1], level_offsets[1:]))):
        node_boxes[first:last, :3] = low[target[first:last]].transpose(1, 2)
        node_boxes[first:last, 3:] = high[target[first:last]].transpose(1, 2)
        low[blocks + first : blocks + last] = node_boxes[first:last, :3].amin(2)
        high[blocks + first : blocks + last] = node_boxes[first:last, 3:].amax(2)
    return node_boxes, block_vertices


def _chunks(rows: int, faces: int) -> list[slice]:
    size = max(1, PAIRS_PER_CHUNK // max(1, faces))
    return [slice(first, first + size) for first in range(0, rows, size)]


def _intersect(corners: Tensor, origins: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """All pairs: t [R, F] (inf: no hit) and weights of vertices 1 and 2 [R, F, 2].

    The weights are the volumes spanned by the ray and each edge. An edge has the same volume, up to its sign, in both
    of its triangles, so accepting zero up to rounding leaves no gap between them.
    """
    a, b, c = (corners[None, :, i] - origins[:, None] for i in range(3))
    along = directions[:, None]
    volumes = torch.stack([(along * torch.linalg.cross(q, p)).sum(-1) for p, q in ((b, c), (c, a), (a, b))], -1)
    sizes = along.norm(dim=-1) * torch.stack([p.norm(dim=-1) * q.norm(dim=-1) for p, q in ((b, c), (c, a), (a, b))])
    slack = 4 * torch.finfo(volumes.dtype).eps * sizes.movedim(0, -1)
    determinant = volumes.sum(-1)
    hit = (volumes >= -slack).all(-1) | (volumes <= slack).all(-1)
    hit &= determinant.abs() > slack.sum(-1)
    weights = volumes / determinant[..., None]
    point = weights[..., :1] * a + weights[..., 1:2] * b + weights[..., 2:] * c
    t = (point * along).sum(-1) / along.square().sum(-1)
    return torch.where(hit & t.isfinite(), t, torch.inf), weights[..., 1:]


def closest_hit(
    bvh: list[Tensor], origins: Tensor, directions: Tensor, t_min: float, t_max: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest intersection of each ray with t_min < t < t_max."""
    vertices, faces = bvh[:2]
    t = origins.new_full(origins.shape[:1], torch.inf)
    face = torch.full(origins.shape[:1], -1, dtype=torch.int64, device=origins.device)
    barycentric = origins.new_zeros(origins.shape[0], 2)
    if faces.shape[0] == 0:
        return t, face, barycentric
    for rows in _chunks(origins.shape[0], faces.shape[0]):
        distance, weights = _intersect(vertices[faces], origins[rows], directions[rows])
        distance = torch.where((distance > t_min) & (distance < t_max), distance, torch.inf)
        t[rows], nearest = distance.min(1)
        chosen = weights[torch.arange(weights.shape[0], device=nearest.device), nearest]
        hit = t[rows].isfinite()
        face[rows] = torch.where(hit, nearest, -1)
        barycentric[rows] = torch.where(hit[:, None], chosen, torch.zeros_like(chosen))
    return t, face, barycentric


def any_hit(bvh: list[Tensor], origins: Tensor, directions: Tensor, t_min: float, t_max: float) -> Tensor:
    """Whether each ray meets a triangle with t_min < t < t_max."""
    return closest_hit(bvh, origins, directions, t_min, t_max)[1] >= 0


def any_hit_fan(bvh: list[Tensor], origins: Tensor, directions: Tensor, t_min: float, t_max: float) -> Tensor:
    """:func:`any_hit` [P, D] for every pair of an origin [P, 3] and a direction [D, 3]."""
    count = directions.shape[0]
    rays = origins.repeat_interleave(count, 0), directions.repeat(origins.shape[0], 1)
    return any_hit(bvh, *rays, t_min, t_max).reshape(origins.shape[0], count)


def closest_point(bvh: list[Tensor], points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distance, face and weights of vertices 1 and 2 of the surface point nearest to each point."""
    vertices, faces = bvh[:2]
    distance = points.new_full(points.shape[:1], torch.inf)
    face = torch.full(points.shape[:1], -1, dtype=torch.int64, device=points.device)
    barycentric = points.new_zeros(points.shape[0], 2)
    if faces.shape[0] == 0:
        return distance, face, barycentric
    for rows in _chunks(points.shape[0], faces.shape[0]):
        squared, weights = _closest_on_triangles(vertices[faces], points[rows])
        nearest_squared, face[rows] = squared.min(1)
        distance[rows] = nearest_squared.sqrt()
        barycentric[rows] = weights[torch.arange(weights.shape[0], device=points.device), face[rows]]
    return distance, face, barycentric


def _closest_on_triangles(corners: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distances [N, F] and weights [N, F, 2]: the plane's foot point if inside, or the best of three edges."""
    edge1, edge2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    offset = points[:, None] - corners[:, 0]
    d11, d12, d22 = (edge1 * edge1).sum(-1), (edge1 * edge2).sum(-1), (edge2 * edge2).sum(-1)
    b1, b2 = (offset * edge1).sum(-1), (offset * edge2).sum(-1)
    determinant = d11 * d22 - d12 * d12
    foot = torch.stack([(d22 * b1 - d12 * b2) / determinant, (d11 * b2 - d12 * b1) / determinant], -1)
    inside = (foot > 0).all(-1) & (foot.sum(-1) < 1) & (determinant > 0)
    candidates = [torch.where(inside[..., None], foot, torch.zeros_like(foot))]
    for start, end in ((0, 1), (1, 2), (2, 0)):
        edge = corners[:, end] - corners[:, start]
        along = ((points[:, None] - corners[:, start]) * edge).sum(-1) / (edge * edge).sum(-1).clamp(min=1e-30)
        along = along.clamp(0, 1)
        weights = points.new_zeros(*along.shape, 3)
        weights[..., start], weights[..., end] = 1 - along, along
        candidates.append(weights[..., 1:])
    stacked = torch.stack(candidates, 2)
    reached = stacked[..., :1] * edge1[None, :, None] + stacked[..., 1:] * edge2[None, :, None]
    # a triangle with a NaN corner is nowhere
    squared, which = (reached - offset[:, :, None]).square().sum(-1).nan_to_num(nan=torch.inf).min(2)
    return squared, stacked.gather(2, which[..., None, None].expand(-1, -1, 1, 2))[:, :, 0]
