"""Where surfels start: on the teacher's mesh, on the body model, or anywhere in the canonical box."""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.protocols import CanonicalField
from core.rotation import frame_from_normal, matrix_to_quaternion
from explicit_branch.surfels import SurfaceMaterial, Surfels, raw_attributes
from gs_ir.nearest import nearest_neighbours

INIT_MODES = ("IA", "smpl", "random")
"""Published names: on the teacher's mesh, on the body model, uniform in the canonical box."""

SCALE_OF_SPACING = 1.0
"""Standard deviation over mean distance to the three nearest neighbours: closed cover under the area rule."""


@dataclass(frozen=True)
class SurfaceCloud:
    """Points on a surface, canonical space."""

    points: Tensor
    """[N, 3] metres."""
    normals: Tensor
    """[N, 3] unit, outward."""


def sample_mesh(vertices: Tensor, faces: Tensor, count: int, generator: torch.Generator) -> SurfaceCloud:
    """``count`` points uniform by area on a mesh with vertices [V, 3] and outward-wound faces [F, 3].

    Faces are picked by stratified positions in the cumulated area, which spreads the points more evenly than
    independent draws.
    """
    corners = vertices[faces]
    cross = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = cross.norm(dim=-1)
    cumulated = (areas / areas.sum()).cumsum(0)
    strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    picked = torch.searchsorted(cumulated, strata.to(cumulated)).clamp_max(len(faces) - 1)
    u, v = torch.rand(2, count, 1, generator=generator).to(vertices)
    root = u.sqrt()
    barycentric = torch.cat([1 - root, root * (1 - v), root * v], -1)
    points = (corners[picked] * barycentric[..., None]).sum(1)
    return SurfaceCloud(points, cross[picked] / areas[picked, None].clamp_min(1e-20))


def sample_box(box: Tensor, count: int, generator: torch.Generator) -> SurfaceCloud:
    """``count`` points uniform in ``box`` [2, 3], with uniformly random directions as normals."""
    points = box[0] + torch.rand(count, 3, generator=generator).to(box) * (box[1] - box[0])
    directions = torch.randn(count, 3, generator=generator).to(box)
    return SurfaceCloud(points, torch.nn.functional.normalize(directions, dim=-1))


def spacing(points: Tensor) -> Tensor:
    """[N] mean distance of each of ``points`` [N, 3] to its three nearest neighbours, metres."""
    neighbours = min(4, len(points))
    squared, _ = nearest_neighbours(points, points, neighbours)
    return squared[:, 1:].clamp_min(0).sqrt().mean(-1).clamp_min(1e-4)


def surfels_on(
    cloud: SurfaceCloud, *, feature_dim: int, opacity: float = 0.9, teacher: CanonicalField | None = None
) -> Surfels:
    """Surfels tangent to ``cloud``, with the teacher's materials where a teacher is given.

    Args:
        cloud: where the surfels lie.
        feature_dim: length of the colour feature.
        opacity: initial opacity.
        teacher: its signed distance also moves the points onto its zero level set.
    """
    points, normals, material = cloud.points, cloud.normals, None
    if teacher is not None:
        sample = teacher.query_canonical(points)
        points = points - sample.normal * sample.sdf[:, None].clamp(-0.01, 0.01)
        normals = sample.normal
        material = SurfaceMaterial(sample.albedo, sample.roughness, sample.metallic)
    quaternions = matrix_to_quaternion(frame_from_normal(normals))
    scales = SCALE_OF_SPACING * spacing(points)
    return Surfels(
        raw_attributes(points, quaternions, scales, opacity=opacity, feature_dim=feature_dim, material=material)
    )
