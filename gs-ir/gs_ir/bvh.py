"""Bounding volume hierarchy over triangles: ray queries, closest points, signed distance.

Nodes have eight children and leaves hold blocks of four triangles, both structure-of-arrays, so that one node or block
is one round of vector instructions on a CPU. Nodes are stored breadth first: children lie behind their parent and a
level is contiguous, so refitting sweeps levels from the last to the first.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from gs_ir._library import define
from gs_ir.reference import bvh as reference

_TREE = "Tensor[] bvh"
_RAYS = "Tensor origins, Tensor directions, float t_min, float t_max"
define("build_bvh", "(Tensor vertices, Tensor faces) -> (Tensor, Tensor, Tensor)", reference.build_bvh)
define(
    "refit_bvh",
    "(Tensor vertices, Tensor faces, Tensor node_children, Tensor block_faces, int[] level_offsets)"
    " -> (Tensor, Tensor)",
    reference.refit_bvh,
)
define("any_hit", f"({_TREE}, {_RAYS}) -> Tensor", reference.any_hit)
define("any_hit_fan", f"({_TREE}, {_RAYS}) -> Tensor", reference.any_hit_fan)
define("closest_hit", f"({_TREE}, {_RAYS}) -> (Tensor, Tensor, Tensor)", reference.closest_hit)
define("closest_point", f"({_TREE}, Tensor points) -> (Tensor, Tensor, Tensor)", reference.closest_point)


@dataclass(frozen=True)
class TriangleBvh:
    """A mesh and the tree over its triangles."""

    vertices: Tensor
    """[V, 3]."""
    faces: Tensor
    """[F, 3] int64."""
    node_boxes: Tensor
    """[N, 6, 8] box of each child: low x y z, high x y z; inverted where there is no child."""
    node_children: Tensor
    """[N, 8] int32: a node when >= 0, block -1 - c when negative, -2^31 when there is none."""
    block_vertices: Tensor
    """[L, 9, 4] corners of the block's triangles (3 corner + axis); NaN in unused slots."""
    block_faces: Tensor
    """[L, 4] int32, -1 in unused slots."""
    level_offsets: tuple[int, ...]
    """First node of each level, root first, and the number of nodes."""

    @property
    def tensors(self) -> list[Tensor]:
        """What the operators take, in their order."""
        return [
            self.vertices, self.faces, self.node_boxes, self.node_children, self.block_vertices, self.block_faces
        ]  # fmt: skip

    @cached_property
    def pseudo_normals(self) -> Tensor:
        """[F, 7, 3] normals of a face's interior, corners 0 1 2 and edges 01 12 20 (Baerentzen and Aanaes 2005).

        Unnormalised: only the sign of a dot product is read from them.
        """
        corners = self.vertices[self.faces]
        normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals = torch.nn.functional.normalize(normals, dim=-1, eps=1e-30)
        sides = torch.nn.functional.normalize(corners.roll(-1, 1) - corners, dim=-1, eps=1e-30)
        angles = torch.acos((-sides * sides.roll(1, 1)).sum(-1).clamp(-1, 1))
        at_vertices = torch.zeros_like(self.vertices)
        at_vertices.index_add_(0, self.faces.reshape(-1), (angles[..., None] * normals[:, None]).reshape(-1, 3))
        ends = torch.stack([self.faces, self.faces.roll(-1, 1)], -1).sort(-1).values
        keys = ends[..., 0] * max(1, self.vertices.shape[0]) + ends[..., 1]
        unique, edges = torch.unique(keys, return_inverse=True)
        at_edges = normals.new_zeros(unique.shape[0], 3)
        at_edges.index_add_(0, edges.reshape(-1), normals.repeat_interleave(3, 0))
        return torch.cat([normals[:, None], at_vertices[self.faces], at_edges[edges]], 1)


@dataclass(frozen=True)
class Hits:
    """Nearest intersections of R rays."""

    t: Tensor
    """[R] in units of the direction's length; inf where nothing is hit."""
    face: Tensor
    """[R] int64, -1 where nothing is hit."""
    barycentric: Tensor
    """[R, 2] weights of the face's vertices 1 and 2 (vertex 0 has the rest)."""


@dataclass(frozen=True)
class ClosestPoints:
    """Surface points nearest to N points."""

    distance: Tensor
    """[N] unsigned; inf for a mesh without faces."""
    face: Tensor
    """[N] int64, -1 for a mesh without faces."""
    barycentric: Tensor
    """[N, 2] weights of the face's vertices 1 and 2, exactly 0 or 1 on edges and corners."""


@torch.library.register_fake("gs_ir::any_hit")
def _(bvh: list[Tensor], origins: Tensor, directions: Tensor, t_min: float, t_max: float) -> Tensor:
    return origins.new_empty(origins.shape[0], dtype=torch.bool)


@torch.library.register_fake("gs_ir::any_hit_fan")
def _(bvh: list[Tensor], origins: Tensor, directions: Tensor, t_min: float, t_max: float) -> Tensor:
    return origins.new_empty(origins.shape[0], directions.shape[0], dtype=torch.bool)


@torch.library.register_fake("gs_ir::closest_hit")
def _(bvh: list[Tensor], origins: Tensor, directions: Tensor, t_min: float, t_max: float) -> tuple[Tensor, ...]:
    rays = origins.shape[0]
    return origins.new_empty(rays), origins.new_empty(rays, dtype=torch.int64), origins.new_empty(rays, 2)


@torch.library.register_fake("gs_ir::closest_point")
def _(bvh: list[Tensor], points: Tensor) -> tuple[Tensor, ...]:
    count = points.shape[0]
    return points.new_empty(count), points.new_empty(count, dtype=torch.int64), points.new_empty(count, 2)


def build_bvh(vertices: Tensor, faces: Tensor) -> TriangleBvh:
    """Build the tree: binned surface-area heuristic (Wald 2007), collapsed to eight children a node.

    Args:
        vertices: [V, 3] float32 or float64, any length unit.
        faces: [F, 3] int64; F may be 0. Degenerate triangles are allowed and never hit.

    Raises:
        ValueError: shapes disagree.
        IndexError: a face names a vertex that does not exist.
    """
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        shapes = f"{tuple(vertices.shape)} and {tuple(faces.shape)}"
        raise ValueError(f"build_bvh: vertices [V, 3] and faces [F, 3] expected, found {shapes}")
    vertices, faces = vertices.detach().contiguous(), faces.contiguous()
    children, block_faces, offsets = torch.ops.gs_ir.build_bvh(vertices, faces)
    levels = tuple(offsets.tolist())
    boxes, block_vertices = torch.ops.gs_ir.refit_bvh(vertices, faces, children, block_faces, levels)
    return TriangleBvh(vertices, faces, boxes, children, block_vertices, block_faces, levels)


def refit_bvh(bvh: TriangleBvh, vertices: Tensor) -> TriangleBvh:
    """The same tree around moved vertices [V, 3]; exact answers, slower the more the mesh was deformed.

    Raises:
        ValueError: the number of vertices changed.
    """
    if vertices.shape != bvh.vertices.shape:
        found = tuple(vertices.shape)
        raise ValueError(f"refit_bvh: vertices {tuple(bvh.vertices.shape)} expected, found {found}")
    vertices = vertices.detach().contiguous()
    node_boxes, block_vertices = torch.ops.gs_ir.refit_bvh(
        vertices, bvh.faces, bvh.node_children, bvh.block_faces, bvh.level_offsets
    )
    return replace(bvh, vertices=vertices, node_boxes=node_boxes, block_vertices=block_vertices)


def any_hit(bvh: TriangleBvh, origins: Tensor, directions: Tensor, t_min: float, t_max: float) -> Tensor:
    """Whether rays meet a triangle, from either side, with t_min < t < t_max.

    Args:
        bvh: the mesh.
        origins: [R, 3].
        directions: [R, 3], any non-zero length; t is in units of it. Rays with NaN or a zero direction hit nothing.
        t_min: guards against the surface that the ray starts on.
        t_max: inf for no limit.

    Returns:
        [R] bool. Rays through an edge shared by two triangles do not slip between them.

    Raises:
        ValueError: shapes or dtypes disagree.
    """
    _check_rays("any_hit", bvh, origins, directions)
    rays = origins.detach().contiguous(), directions.detach().contiguous()
    return torch.ops.gs_ir.any_hit(bvh.tensors, *rays, t_min, t_max)


def any_hit_fan(bvh: TriangleBvh, origins: Tensor, directions: Tensor, t_min: float, t_max: float) -> Tensor:
    """:func:`any_hit` along each of ``directions`` [D, 3] from each of ``origins`` [P, 3].

    On a GPU neighbours in ``directions`` are traced side by side: fastest where they point alike.

    Returns:
        [P, D] bool.

    Raises:
        ValueError: shapes or dtypes disagree.
    """
    _check_points("any_hit_fan", bvh, origins)
    _check_points("any_hit_fan", bvh, directions)
    rays = origins.detach().contiguous(), directions.detach().contiguous()
    return torch.ops.gs_ir.any_hit_fan(bvh.tensors, *rays, t_min, t_max)


def closest_hit(bvh: TriangleBvh, origins: Tensor, directions: Tensor, t_min: float, t_max: float) -> Hits:
    """The nearest intersections; arguments and errors as in :func:`any_hit`. Not differentiable."""
    _check_rays("closest_hit", bvh, origins, directions)
    rays = origins.detach().contiguous(), directions.detach().contiguous()
    return Hits(*torch.ops.gs_ir.closest_hit(bvh.tensors, *rays, t_min, t_max))


def closest_point(bvh: TriangleBvh, points: Tensor) -> ClosestPoints:
    """The surface points nearest to ``points`` [N, 3]. Not differentiable: rebuild from face and weights.

    Raises:
        ValueError: shapes or dtypes disagree.
    """
    _check_points("closest_point", bvh, points)
    return ClosestPoints(*torch.ops.gs_ir.closest_point(bvh.tensors, points.detach().contiguous()))


def signed_distance(bvh: TriangleBvh, points: Tensor) -> Tensor:
    """Distance [N] to a closed mesh, negative inside (outward winding), +inf for a mesh without faces.

    The sign is that of the offset against the angle-weighted pseudo-normal of the nearest face, edge or vertex
    (Baerentzen and Aanaes 2005), which is exact for closed meshes whose faces share vertices.

    Raises:
        ValueError: shapes or dtypes disagree.
    """
    nearest = closest_point(bvh, points)
    if bvh.faces.shape[0] == 0:
        return nearest.distance
    w1, w2 = nearest.barycentric.unbind(-1)
    weights = torch.stack([1 - w1 - w2, w1, w2], -1)
    surface = (weights[..., None] * bvh.vertices[bvh.faces[nearest.face]]).sum(1)
    normal = bvh.pseudo_normals[nearest.face, _feature(w1, w2)]
    inside = ((points.detach() - surface) * normal).sum(-1) < 0
    return torch.where(inside, -nearest.distance, nearest.distance)


def _feature(w1: Tensor, w2: Tensor) -> Tensor:
    """Row of :attr:`TriangleBvh.pseudo_normals` [N]: 0 interior, 1-3 corners, 4-6 edges 01 12 20."""
    w0_is_zero = w1 + w2 >= 1
    edge = torch.where(w2 == 0, 4, torch.where(w1 == 0, 6, torch.where(w0_is_zero, 5, 0)))
    corner = torch.where(w1 >= 1, 2, torch.where(w2 >= 1, 3, 1))
    return torch.where((w1 + w2 == 0) | (w1 >= 1) | (w2 >= 1), corner, edge)


def _check_points(name: str, bvh: TriangleBvh, points: Tensor) -> None:
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype != bvh.vertices.dtype:
        expected = f"[N, 3] {bvh.vertices.dtype}"
        raise ValueError(f"{name}: {expected} expected, found {tuple(points.shape)} {points.dtype}")


def _check_rays(name: str, bvh: TriangleBvh, origins: Tensor, directions: Tensor) -> None:
    _check_points(name, bvh, origins)
    _check_points(name, bvh, directions)
    if origins.shape != directions.shape:
        found = f"{tuple(origins.shape)} and {tuple(directions.shape)}"
        raise ValueError(f"{name}: as many origins as directions expected, found {found}")
