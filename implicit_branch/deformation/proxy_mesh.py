"""Triangle meshes that stand in for the field: extraction, and tracing of the posed mesh."""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from core.errors import InputError
from gs_ir.bvh import Hits, TriangleBvh, any_hit, build_bvh, closest_hit, refit_bvh
from gs_ir.marching_cubes import marching_cubes, mesh_parts
from implicit_branch.deformation.forest import replicate, shifts
from implicit_branch.deformation.weight_volume import lattice

COARSENING = 4
"""Fine cells along an edge of the coarse lattice that finds the surface."""
SMALLEST_PART = 0.01
"""Connected parts with fewer than this share of the triangles are floaters."""
CHUNK = 2**18
REACH = 3.0
"""Metres around the mean of its vertices that hold a body."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh in canonical space."""

    vertices: Tensor
    """[V, 3] metres."""
    faces: Tensor
    """[F, 3] int64, counter-clockwise seen from outside."""

    @cached_property
    def tree(self) -> TriangleBvh:
        """The tree around the vertices. Triangles keep their neighbours in every pose, so it fits all of them."""
        return build_bvh(self.vertices, self.faces)


@lru_cache(maxsize=4)
def _forest(mesh: Mesh, copies: int) -> TriangleBvh:
    return replicate(mesh.tree, copies)


@torch.no_grad()
def extract_mesh(distance, box: Tensor, resolution: int, chunk: int = CHUNK) -> Mesh:
    """Zero level set of a signed distance by marching cubes, evaluated only near the surface, on the device of ``box``.

    A lattice four times coarser is evaluated first; fine nodes farther from the surface than a coarse cell's diagonal
    keep its interpolated value, whose sign is all that matters there.

    Args:
        distance: function from points [N, 3] to signed distances [N], metres.
        box: [2, 3] region to search.
        resolution: fine cells along the longest side.
        chunk: points evaluated at once.

    Raises:
        InputError: the field has no surface in ``box``.
    """
    low, high = box.tolist()
    sides = [end - begin for begin, end in zip(low, high, strict=True)]
    coarse_nodes = lattice(box, max(sides) / resolution * COARSENING)
    coarse = _evaluate(distance, coarse_nodes.reshape(-1, 3), chunk).reshape(coarse_nodes.shape[:3])
    shape = [COARSENING * (n - 1) + 1 for n in coarse.shape]
    field = torch.nn.functional.interpolate(coarse[None, None], shape, mode="trilinear", align_corners=True)[0, 0]
    cell = [side / (n - 1) for side, n in zip(sides, reversed(shape), strict=True)]
    spacing = box.new_tensor(cell)
    near = (field.abs() < 1.2 * COARSENING * math.hypot(*cell)).nonzero()
    field[near.unbind(-1)] = _evaluate(distance, box[0] + near.flip(-1) * spacing, chunk)
    vertices, faces = marching_cubes(field)
    if len(faces) == 0:
        raise InputError("canonical mesh", found="a distance field without a surface", expected="a trained teacher",
                         next_step="Train longer, or check masks and poses.")  # fmt: skip
    vertices, faces = _without_floaters(vertices, faces)
    return Mesh(torch.addcmul(box[0], vertices, spacing), faces)


def _evaluate(distance, points: Tensor, chunk: int) -> Tensor:
    return torch.cat([distance(part) for part in points.split(chunk)])


def _without_floaters(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """The mesh without its small parts; the largest one stays in any case."""
    part = mesh_parts(faces, len(vertices))
    sizes = torch.zeros_like(part).index_add_(0, part[faces[:, 0]], torch.ones_like(faces[:, 0]))
    kept = (sizes >= (SMALLEST_PART * len(faces))) | (sizes == sizes.amax())
    kept = kept[part]
    number = kept.cumsum(0) - 1
    return vertices[kept], number[faces[kept[faces[:, 0]]]]


class ProxyTracer:
    """Visibility and first hits on a canonical mesh posed in B frames; rays of all frames are traced together."""

    def __init__(self, mesh: Mesh, vertices_world: Tensor) -> None:
        """Args: ``vertices_world`` [B, V, 3] of ``mesh`` in every frame."""
        self.mesh, self.vertices = mesh, vertices_world
        # Every frame is traced around its own mean: coordinates stay small wherever the body walks.
        self._centres = vertices_world.mean(1)
        self._moves = shifts(len(vertices_world), vertices_world) - self._centres

    def visible(self, origins: Tensor, directions: Tensor, frame_index: Tensor, *, near: float, far: float) -> Tensor:
        """[R] bool: nothing between ``near`` and ``far`` metres along world rays [R, 3] of frames [R].

        Rays start within ``REACH`` of the body and end within twice that, as other frames' bodies stand beyond.
        """
        return ~any_hit(self._tree, *self._moved(origins, directions, frame_index), near, far)

    def first_hit(self, origins: Tensor, directions: Tensor, frame_index: Tensor, *, near: float, far: float) -> Hits:
        """The first triangle along rays as for :meth:`visible`; frame b counts its faces from b F: :attr:`faces`."""
        return closest_hit(self._tree, *self._moved(origins, directions, frame_index), near, far)

    def entry(self, origins: Tensor, directions: Tensor, frame_index: Tensor) -> Tensor:
        """Depth [R] in metres where world rays [R, 3] from anywhere enter the mesh of their frame, inf if they miss."""
        towards = self._centres[frame_index] - origins
        start = ((towards * directions).sum(-1) - REACH).clamp_min(0)
        begin = torch.addcmul(origins, start[:, None], directions)
        return start + self.first_hit(begin, directions, frame_index, near=0.0, far=2 * REACH).t

    @property
    def faces(self) -> Tensor:
        """[B * F, 3] int64 corners of the faces of all frames, as indices into the vertices [B * V, 3] of all."""
        return self._tree.faces

    def _moved(self, origins: Tensor, directions: Tensor, frame_index: Tensor) -> tuple[Tensor, Tensor]:
        moves = self._moves if len(self._moves) == 1 else self._moves[frame_index]
        return origins + moves, directions

    @cached_property
    def _tree(self) -> TriangleBvh:
        forest = _forest(self.mesh, len(self.vertices))
        return refit_bvh(forest, (self.vertices + self._moves[:, None]).flatten(0, 1))
