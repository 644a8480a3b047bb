"""Point distillation: the student's surfels agree with the teacher's field at their canonical centres."""

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from core.protocols import CanonicalField
from explicit_branch.surfels import SurfaceMaterial, Surfels

HUBER_WIDTH = 0.002
"""Metres within which the position loss is quadratic."""
MILLIMETRES = 1000.0
TERMS = ("pos_distill", "normal_similarity", "materials")
RELIABLE_DISTANCE = 0.05
"""Metres: teacher samples further from the surface than this say nothing reliable about it."""


class _Known(NamedTuple):
    """What the teacher said of N surfels; the distance is the sum of ``offset + slope * x`` over the three axes."""

    offset: Tensor
    """[N, 3]"""
    slope: Tensor
    """[N, 3]"""
    zero: Tensor
    """[N]"""
    normal: Tensor
    """[N, 3]"""
    albedo: Tensor
    """[N, 3]"""
    roughness: Tensor
    """[N]"""
    metallic: Tensor
    """[N]"""


class PointTargets:
    """The teacher at the surfels' centres, asked anew only now and then.

    Between refreshes the signed distance is extrapolated to first order, sdf(x) = sdf(x0) + n . (x - x0), so its
    gradient towards the surface exists at every step while the teacher is queried at every k-th.
    """

    def __init__(self, teacher: CanonicalField) -> None:
        self.teacher = teacher
        self._known: _Known | None = None

    def refresh(self) -> None:
        """Forget the samples: the surfels have moved, or their set has changed."""
        self._known = None

    def renew(self, surfels: Surfels) -> None:
        """Ask anew, in place: the same surfels have moved."""
        if self._known is not None:
            torch._foreach_copy_(list(self._known), list(self._ask(surfels.positions.detach())))

    def losses(
        self,
        surfels: Surfels,
        *,
        normals: Tensor | None = None,
        material: SurfaceMaterial | None = None,
        names: Collection[str] = TERMS,
    ) -> dict[str, Tensor]:
        """Terms by the name of their weight.

        ``pos_distill``: Huber of the signed distance, per millimetre (student spec 7.7, repaired: the target does not
        follow the surfel); ``normal_similarity``: 1 - cosine of the canonical normals; ``materials``: squared
        differences of albedo, roughness and metallic.

        Args:
            surfels: the student.
            normals: [N, 3] canonical, without non-rigid offsets, where they are at hand.
            material: of the surfels, where it is at hand.
            names: the terms that are wanted.
        """
        if self._known is None:
            self._known = self._ask(surfels.positions.detach())
        known = self._known
        terms: dict[str, Tensor] = {}
        if "pos_distill" in names:
            distance = torch.addcmul(known.offset, known.slope, surfels.positions).sum(-1)
            terms["pos_distill"] = functional.smooth_l1_loss(distance, known.zero, beta=HUBER_WIDTH) * MILLIMETRES
        if "normal_similarity" in names:
            normals = surfels.rotations[:, :, 2] if normals is None else normals
            terms["normal_similarity"] = 1 - (known.normal * normals).sum(-1).mean()
        if "materials" in names:
            material = surfels.material if material is None else material
            terms["materials"] = (
                functional.mse_loss(material.albedo, known.albedo)
                + functional.mse_loss(material.roughness, known.roughness)
                + functional.mse_loss(material.metallic, known.metallic)
            )
        return terms

    def _ask(self, points: Tensor) -> "_Known":
        sample = self.teacher.query_canonical(points)
        near = (sample.sdf.abs() < RELIABLE_DISTANCE).to(points)[:, None]
        slope = sample.normal * near
        offset = (sample.sdf[:, None] * near / 3) - slope * points
        zero = torch.zeros_like(sample.sdf)
        said = (sample.normal, sample.albedo, sample.roughness, sample.metallic)
        return _Known(offset, slope, zero, *(values.contiguous() for values in said))


@torch.no_grad()
def surface_deviation(surfels: Surfels, teacher: CanonicalField) -> dict[str, float]:
    """Mean |signed distance| in millimetres and mean angle of the normals in degrees, to report beside the losses."""
    sample = teacher.query_canonical(surfels.positions.detach())
    cosine = (sample.normal * surfels.rotations[:, :, 2]).sum(-1).clamp(-1, 1)
    return {
        "surface_mm": float(sample.sdf.abs().mean() * MILLIMETRES),
        "normal_degrees": float(torch.rad2deg(cosine.acos()).mean()),
    }
