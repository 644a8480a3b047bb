"""Occlusion probes of a subject: baking from the canonical mesh, storage, query under a pose."""

import logging
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from math import pi, sqrt
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.errors import InputError
from core.spherical_harmonics import cosine_factors, eval_basis
from gs_ir.bvh import TriangleBvh, any_hit, build_bvh, closest_point, signed_distance
from gs_ir.probes import ProbeVolumes, query_other_probes, query_own_probes

SCHEMA = 1
KIND = "occlusion-probes"
PROBES_PER_CHUNK = 4096
SURFACE_OFFSET = 2e-3
"""Metres above the surface at which a probe inside the part is evaluated."""
SMALLEST_MARK = 1e-4
"""Magnitude of the mark on a probe inside the part whose surroundings are all blocked; a normal half number."""
STOP_BEFORE_SURFACE = 0.99
"""Share of the way to a surface point that is searched for obstacles; the surface itself is none."""
PUBLISHED_NEAR = 0.2
"""Near plane of the reference system's bake, which loses contact shadows; for ``near``."""

_log = logging.getLogger(__name__)


class Occlusion(str, Enum):
    """Which shadows relighting knows."""

    NONE = "none"
    AMBIENT = "ambient"
    """One visibility per point and normal, shared by all lights."""
    DIRECTIONAL = "directional"
    """Visibility per direction."""

    @classmethod
    def parse(cls, name: str) -> "Occlusion":
        """The mode called ``name``.

        Raises:
            InputError: unknown, or not available yet.
        """
        available = [mode.value for mode in cls if mode is not cls.DIRECTIONAL]
        if name not in available:
            directional = name == cls.DIRECTIONAL.value
            raise InputError(
                "occlusion",
                found=f"{name!r}" + (", which is not available yet" if directional else ""),
                expected=" or ".join(available),
                next_step="Use occlusion=ambient.",
            )
        return cls(name)


@dataclass(frozen=True)
class OcclusionProbes:
    """The probes of one subject."""

    volumes: ProbeVolumes

    def query(
        self,
        points: Tensor,
        normals: Tensor,
        *,
        own_part: Tensor,
        points_canonical: Tensor,
        normals_canonical: Tensor,
        part_from_world: Tensor,
        published: bool = False,
    ) -> Tensor:
        """Ambient visibility [N] in [0, 1] of surface points under a pose. No gradient.

        Args:
            points: [N, 3] world, metres.
            normals: [N, 3] unit, world, facing the viewer.
            own_part: [N] int64.
            points_canonical: [N, 3] canonical, metres.
            normals_canonical: [N, 3] unit, canonical, outward.
            part_from_world: [K, 3, 4] rigid transforms from world to canonical space, one per part.
            published: interpolate other parts by the reference system's rule.
        """
        own = query_own_probes(self.volumes, points_canonical, normals_canonical, own_part)
        return own * query_other_probes(self.volumes, points, normals, own_part, part_from_world, published=published)

    def to(self, device: torch.device | str) -> "OcclusionProbes":
        """The same probes on ``device``."""
        return OcclusionProbes(self.volumes.to(device))

    def state(self) -> dict:
        """Tensors and plain values, for a checkpoint."""
        volumes = self.volumes
        tensors = {name: getattr(volumes, name).cpu() for name in _FIELDS}
        return {"schema": SCHEMA, "kind": KIND, "cell": volumes.cell, **tensors}

    @classmethod
    def from_state(cls, state: Mapping, source: str | Path = "occlusion probes") -> "OcclusionProbes":
        """Rebuild from :meth:`state`.

        Raises:
            InputError: another kind of content, another schema, or arrays that do not belong together.
        """
        problem = _problem(state)
        if problem:
            raise InputError(
                source,
                found=problem,
                expected=f"{KIND} of schema {SCHEMA}",
                next_step="Bake the probes again from the canonical mesh.",
            )
        tensors = {name: torch.as_tensor(state[name]) for name in _FIELDS}
        return cls(ProbeVolumes(**tensors, cell=float(state["cell"])))


_FIELDS = ("coefficients", "offsets", "origins", "shapes")


def save_probes(volumes: ProbeVolumes, path: str | Path) -> None:
    """Write ``volumes`` as a compressed npz file, atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(value) for name, value in OcclusionProbes(volumes).state().items()}
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    partial.replace(path)


def load_probes(path: str | Path) -> ProbeVolumes:
    """Read what :func:`save_probes` wrote.

    Raises:
        InputError: no such file, not such a file, truncated, or another schema.
    """
    expected, bake = f"a {KIND} file", "Bake the probes again from the canonical mesh."
    try:
        with np.load(path, allow_pickle=False) as file:
            state = {name: file[name] if file[name].ndim else file[name].item() for name in file.files}
    except FileNotFoundError as error:
        raise InputError(path, found="no file", expected=expected, next_step=bake) from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        found = f"a file that cannot be read as such ({error})"
        raise InputError(path, found=found, expected=expected, next_step=bake) from error
    return OcclusionProbes.from_state(state, path).volumes


def _problem(state: Mapping) -> str | None:
    """What is wrong with a stored state; None if nothing is."""
    if state.get("kind") != KIND:
        return f"content of kind {state.get('kind')!r}"
    if state.get("schema") != SCHEMA:
        return f"schema {state.get('schema')!r}"
    missing = [name for name in (*_FIELDS, "cell") if name not in state]
    if missing:
        return f"no {', '.join(missing)}"
    coefficients, offsets, origins, shapes = (torch.as_tensor(state[name]) for name in _FIELDS)
    counts = shapes.prod(1) if shapes.ndim == 2 else None
    consistent = counts is not None and offsets.shape == (len(shapes) + 1,) and origins.shape == shapes.shape
    if not consistent or not torch.equal(offsets.diff(), counts) or coefficients.shape != (int(offsets[-1]), 9):
        return "arrays that do not belong together"
    return None


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
) -> ProbeVolumes:
    """Cast rays from a lattice around each part at that part alone.

    A face belongs to the part of most of its vertices. A probe's visibility along ``directions`` is projected on
    spherical harmonics and convolved with the cosine lobe over pi. A probe inside the part is evaluated just above the
    nearest point of its surface, so that interpolation across the surface passes through contact. The flesh that
    continues into a neighbouring part counts as inside for two cells, so that no seam is shaded.

    Args:
        vertices: [V, 3] canonical, metres; a closed mesh with outward winding.
        faces: [F, 3] int64.
        vertex_joint: [V] int64, the joint with the largest skinning weight.
        parts: [J] int64, the part of each joint.
        cell: metres between probes.
        margin: metres around each part's box.
        directions: rays per probe.
        max_distance: metres; occluders farther away are ignored.
        near: metres; occluders nearer are ignored (:data:`PUBLISHED_NEAR` loses contact shadows as published).

    Returns:
        One volume per part; about 20 bytes a probe. Deterministic.
    """
    face_part = parts[vertex_joint[faces]].mode(1).values
    whole = build_bvh(vertices, faces)
    rays = _Rays.spherical(directions, near, max_distance, like=vertices)
    lattices = [_lattice(vertices, faces[face_part == part], cell, margin) for part in range(int(parts.max()) + 1)]
    coefficients = []
    for part, (origin, shape) in enumerate(lattices):
        part_faces = faces[face_part == part]
        probes = origin + cell * _lattice_points(shape, vertices.device).to(vertices.dtype)
        if part_faces.shape[0] == 0:
            coefficients.append(rays.open.expand(probes.shape[0], -1).half())
            continue
        submesh = build_bvh(vertices, part_faces)
        inside = _inside_part(probes, whole, submesh, face_part == part, reach=2 * cell)
        probes[inside] = _just_outside(probes[inside], submesh)
        values = rays.visibility(submesh, probes)
        values[inside, 0] = -values[inside, 0].clamp_min(SMALLEST_MARK)
        coefficients.append(values.half())
        _log.info("occlusion probes: part %d of %d, %d probes", part + 1, len(lattices), len(values))
    counts = torch.tensor([0] + [len(c) for c in coefficients], device=vertices.device)
    return ProbeVolumes(
        coefficients=torch.cat(coefficients),
        offsets=counts.cumsum(0),
        origins=torch.stack([origin for origin, _ in lattices]).float(),
        shapes=torch.stack([shape for _, shape in lattices]),
        cell=cell,
    )


@dataclass(frozen=True)
class _Rays:
    """The directions of every probe, and how their hits become coefficients."""

    directions: Tensor
    """[D, 3] spherical Fibonacci points: one per equal share of the sphere."""
    weights: Tensor
    """[D, 9] coefficients that a blocked direction takes away."""
    open: Tensor
    """[9] coefficients of an unobstructed probe."""
    near: float
    far: float

    @classmethod
    def spherical(cls, count: int, near: float, far: float, *, like: Tensor) -> "_Rays":
        index = torch.arange(count, dtype=torch.float64)
        height = 1 - (2 * index + 1) / count
        angle = index * pi * (3 - sqrt(5))
        radius = (1 - height.square()).sqrt()
        points = torch.stack([radius * angle.cos(), radius * angle.sin(), height], -1).to(like)
        weights = eval_basis(points, 2) * cosine_factors(2, points) * (4 * pi / count)
        fully_open = torch.zeros_like(weights[0])
        fully_open[0] = sqrt(4 * pi)
        return cls(points, weights, fully_open, near, far)

    def visibility(self, bvh: TriangleBvh, probes: Tensor) -> Tensor:
        """Coefficients [P, 9] at ``probes`` [P, 3]. Blocked directions are subtracted: an open probe is exactly 1."""
        count = self.directions.shape[0]
        chunks = []
        for chunk in probes.split(PROBES_PER_CHUNK):
            origins = chunk.repeat_interleave(count, 0)
            blocked = any_hit(bvh, origins, self.directions.repeat(chunk.shape[0], 1), self.near, self.far)
            chunks.append(self.open - blocked.reshape(-1, count).to(self.weights.dtype) @ self.weights)
        return torch.cat(chunks)


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
    return surface + SURFACE_OFFSET * torch.nn.functional.normalize(surface - probes, dim=-1)


def _nearest_on(mesh: TriangleBvh, points: Tensor) -> Tensor:
    """Surface points [N, 3] nearest to ``points`` [N, 3]."""
    nearest = closest_point(mesh, points)
    w1, w2 = nearest.barycentric.unbind(-1)
    weights = torch.stack([1 - w1 - w2, w1, w2], -1)[..., None]
    return (weights * mesh.vertices[mesh.faces[nearest.face]]).sum(1)
