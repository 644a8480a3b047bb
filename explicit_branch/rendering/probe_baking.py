"""Baking occlusion probes from the canonical mesh, by casting rays at one body part at a time."""

import logging
from dataclasses import dataclass
from math import pi, sqrt

import torch
from torch import Tensor
from torch.nn.functional import normalize

from core.spherical_harmonics import cosine_factors, eval_basis
from gs_ir.bvh import TriangleBvh, any_hit, any_hit_fan, build_bvh, closest_point, signed_distance
from gs_ir.directional import DIRECTIONS, baked_directions, pack_masks
from gs_ir.probes import ProbeVolumes
from gs_ir.sphere import fibonacci_directions

PROBES_PER_CHUNK = 16384
SURFACE_OFFSET = 2e-3
"""Metres above the surface at which a probe inside the part is evaluated."""
SMALLEST_MARK = 1e-4
"""Magnitude of the mark on a probe inside the part whose surroundings are all blocked; a normal half number."""
HORIZON = 0.05
"""Sine above the tangent plane below which a place's own part hides nothing."""
STOP_BEFORE_SURFACE = 0.99
"""Share of the way to a surface point that is searched for obstacles; the surface itself is none."""
PUBLISHED_NEAR = 0.2
"""Near plane of the reference system's bake, which loses contact shadows; for ``near``."""

_log = logging.getLogger(__name__)


def bake_probes(
    vertices: Tensor,
    faces: Tensor,
    vertex_joint: Tensor,
    parts: Tensor,
    *,
    cell: float = 0.03,
    margin: float = 0.25,
    directions: int = 256,
    max_distance: float = 1.0,
    near: float = 1e-3,
    places: int = 100_000,
) -> ProbeVolumes:
    """Cast rays from a lattice around each part at that part alone.

    A face belongs to the part of most of its vertices. A probe's visibility along ``directions`` is projected on
    spherical harmonics and convolved with the cosine lobe over pi; along 127 fixed directions it is kept as a mask. So
    are those of places on the surface itself, of their own part. A probe inside the part is evaluated just above the
    nearest point of its surface, so that interpolation across the surface passes through contact. The flesh that
    continues into a neighbouring part counts as inside for two cells, so that no seam is shaded.

    Args:
        vertices: [V, 3] canonical, metres; a closed mesh, all faces wound alike.
        faces: [F, 3] int64.
        vertex_joint: [V] int64, the joint with the largest skinning weight.
        parts: [J] int64, the part of each joint.
        cell: metres between probes.
        margin: metres around each part's box.
        directions: rays per probe for the harmonics.
        max_distance: metres; occluders farther away are ignored.
        near: metres; occluders nearer are ignored (:data:`PUBLISHED_NEAR` loses contact shadows as published).
        places: on the surface, evenly spread; 100 000 are 5 mm apart.

    Returns:
        One volume per part; 34 bytes a probe, 28 a place. Deterministic.
    """
    faces = _wound_outwards(vertices, faces)
    face_part = parts[vertex_joint[faces]].mode(1).values
    whole = build_bvh(vertices, faces)
    rays = _Rays.spherical(directions, near, max_distance, like=vertices)
    lattices = [_lattice(vertices, faces[face_part == part], cell, margin) for part in range(int(parts.max()) + 1)]
    spots, spot_normals, spot_faces = _spread(vertices, faces, places)
    spot_masks = rays.open_mask.repeat(places, 1)
    coefficients, masks = [], []
    for part, (origin, shape) in enumerate(lattices):
        part_faces = faces[face_part == part]
        probes = origin + cell * _lattice_points(shape, vertices.device).to(vertices.dtype)
        if part_faces.shape[0] == 0:
            coefficients.append(rays.open.expand(probes.shape[0], -1).half())
            masks.append(rays.open_mask.expand(probes.shape[0], -1))
            continue
        submesh = build_bvh(vertices, part_faces)
        inside = _inside_part(probes, whole, submesh, face_part == part, reach=2 * cell)
        probes[inside] = _just_outside(probes[inside], submesh)
        values = rays.visibility(submesh, probes)
        values[inside, 0] = -values[inside, 0].clamp_min(SMALLEST_MARK)
        coefficients.append(values.half())
        masks.append(pack_masks(rays.opened(submesh, probes), inside))
        own = face_part[spot_faces] == part
        spot_masks[own] = rays.own_masks(submesh, spots[own], spot_normals[own])
        _log.info("occlusion probes: part %d of %d, %d probes", part + 1, len(lattices), len(values))
    counts = torch.tensor([0] + [len(c) for c in coefficients], device=vertices.device)
    return ProbeVolumes(
        coefficients=torch.cat(coefficients),
        offsets=counts.cumsum(0),
        origins=torch.stack([origin for origin, _ in lattices]).float(),
        shapes=torch.stack([shape for _, shape in lattices]),
        cell=cell,
        masks=torch.cat(masks),
        surface_points=spots.float(),
        surface_masks=spot_masks,
    )


@dataclass(frozen=True)
class _Rays:
    """The directions of every probe, and how their hits become coefficients."""

    directions: Tensor
    """[D, 3] spherical Fibonacci points, for the harmonics."""
    weights: Tensor
    """[D, 9] coefficients that a blocked direction takes away."""
    open: Tensor
    """[9] coefficients of an unobstructed probe."""
    near: float
    far: float

    @classmethod
    def spherical(cls, count: int, near: float, far: float, *, like: Tensor) -> "_Rays":
        points = fibonacci_directions(count, like.dtype, like.device)
        weights = eval_basis(points, 2) * cosine_factors(2, points) * (4 * pi / count)
        fully_open = torch.zeros_like(weights[0])
        fully_open[0] = sqrt(4 * pi)
        return cls(points, weights, fully_open, near, far)

    @property
    def open_mask(self) -> Tensor:
        """[2] mask of an unobstructed probe."""
        everywhere = torch.ones(1, DIRECTIONS, dtype=torch.bool, device=self.directions.device)
        return pack_masks(everywhere, ~everywhere[:, 0])[0]

    def visibility(self, bvh: TriangleBvh, probes: Tensor) -> Tensor:
        """Coefficients [P, 9] at ``probes`` [P, 3]. Blocked directions are subtracted: an open probe is exactly 1."""
        chunks = []
        for chunk in probes.split(PROBES_PER_CHUNK):
            blocked = any_hit_fan(bvh, chunk, self.directions, self.near, self.far)
            chunks.append(self.open - blocked.to(self.weights.dtype) @ self.weights)
        return torch.cat(chunks)

    def opened(self, bvh: TriangleBvh, points: Tensor) -> Tensor:
        """Which of the masks' directions [P, 127] are open at ``points`` [P, 3]."""
        fans = (any_hit_fan(bvh, c, baked_directions(c), self.near, self.far) for c in points.split(PROBES_PER_CHUNK))
        return ~torch.cat(list(fans))

    def own_masks(self, bvh: TriangleBvh, places: Tensor, normals: Tensor) -> Tensor:
        """Masks [S, 2] at ``places`` [S, 3] on the surface of ``bvh``.

        The body bends at its joints, so that a direction above the surface under a pose can lie below it here: what the
        surface itself hides counts as open.
        """
        opened = self.opened(bvh, places + SURFACE_OFFSET * normals)
        below = normals @ baked_directions(normals).T < HORIZON
        return pack_masks(opened | below, torch.zeros_like(below[:, 0]))


def _wound_outwards(vertices: Tensor, faces: Tensor) -> Tensor:
    """``faces`` [F, 3], reversed if they enclose a negative volume: the sign of a distance depends on it."""
    a, b, c = vertices[faces].unbind(1)
    volume = (a * torch.linalg.cross(b, c)).sum()
    return torch.where(volume < 0, faces.flip(1), faces)


def _spread(vertices: Tensor, faces: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points on a mesh, one per equal share of its area: positions [S, 3], unit normals [S, 3], faces [S]."""
    a, b, c = vertices[faces].unbind(1)
    normals = torch.linalg.cross(b - a, c - a)
    shares = normals.norm(dim=-1).double().cumsum(0)
    index = torch.arange(count, dtype=torch.float64, device=vertices.device)
    face = torch.searchsorted(shares, (index + 0.5) * shares[-1] / count).clamp_max(len(faces) - 1)
    # A sequence of low discrepancy (Roberts 2018), folded into the triangle.
    u, v = ((0.5 + index * step) % 1 for step in (0.7548776662466927, 0.5698402909980532))
    u, v = (torch.where(u + v > 1, 1 - x, x).to(vertices.dtype)[:, None] for x in (u, v))
    points = a[face] + u * (b - a)[face] + v * (c - a)[face]
    return points, normalize(normals[face], dim=-1), face


def _lattice(vertices: Tensor, part_faces: Tensor, cell: float, margin: float) -> tuple[Tensor, Tensor]:
    """Origin [3] and shape [3] of the lattice around a part; one open cell at the origin for a part without faces."""
    if part_faces.shape[0] == 0:
        return vertices.new_zeros(3), torch.full((3,), 2, device=vertices.device)
    low, high = vertices[part_faces].reshape(-1, 3).aminmax(dim=0)
    shape = ((high - low + 2 * margin) / cell).ceil().long() + 1
    return (low + high - (shape - 1) * cell) / 2, shape


def _lattice_points(shape: Tensor, device: torch.device) -> Tensor:
    """Lattice coordinates [X Y Z, 3] (x, y, z), x running fastest."""
    z, y, x = torch.meshgrid(*(torch.arange(int(n), device=device) for n in shape.flip(0)), indexing="ij")
    return torch.stack([x, y, z], -1).reshape(-1, 3)


def _inside_part(probes: Tensor, whole: TriangleBvh, submesh: TriangleBvh, of_part: Tensor, *, reach: float) -> Tensor:
    """Which probes [P] lie inside a part.

    That is inside the closed mesh, and nearest to a face of the part (``of_part`` [F]) or at most ``reach`` from the
    part's surface on a straight way that does not leave the flesh.
    """
    corners = submesh.vertices[submesh.faces].reshape(-1, 3)
    low, high = corners.aminmax(dim=0)
    near = ((probes >= low - reach) & (probes <= high + reach)).all(1).nonzero()[:, 0]
    near = near[signed_distance(whole, probes[near]) < 0]
    points = probes[near]
    way = _nearest_on(submesh, points) - points
    connected = (way.norm(dim=-1) <= reach) & ~any_hit(whole, points, way, 0.0, STOP_BEFORE_SURFACE)
    inside = torch.zeros_like(probes[:, 0], dtype=torch.bool)
    inside[near[of_part[closest_point(whole, points).face] | connected]] = True
    return inside


def _just_outside(probes: Tensor, submesh: TriangleBvh) -> Tensor:
    """Points [P, 3] a little beyond the surface point nearest to each of ``probes`` [P, 3]."""
    surface = _nearest_on(submesh, probes)
    return surface + SURFACE_OFFSET * normalize(surface - probes, dim=-1)


def _nearest_on(mesh: TriangleBvh, points: Tensor) -> Tensor:
    """Surface points [N, 3] nearest to ``points`` [N, 3]."""
    nearest = closest_point(mesh, points)
    w1, w2 = nearest.barycentric.unbind(-1)
    weights = torch.stack([1 - w1 - w2, w1, w2], -1)[..., None]
    return (weights * mesh.vertices[mesh.faces[nearest.face]]).sum(1)
