"""Point distillation: the student's surfels agree with the teacher's field at their canonical centres."""

import torch
from torch import Tensor
from torch.nn import functional

from core.losses import huber
from core.protocols import CanonicalField, CanonicalSample
from explicit_branch.surfels import Surfels

HUBER_WIDTH = 0.002
"""Metres within which the position loss is quadratic."""
MILLIMETRES = 1000.0
RELIABLE_DISTANCE = 0.05
"""Metres: teacher samples further from the surface than this say nothing reliable about it."""


class PointTargets:
    """The teacher at the surfels' centres, asked anew only now and then.

    Between refreshes the signed distance is extrapolated to first order, sdf(x) = sdf(x0) + n . (x - x0), so its
    gradient towards the surface exists at every step while the teacher is queried at every k-th.
    """

    def __init__(self, teacher: CanonicalField) -> None:
        self.teacher = teacher
        self._sample: CanonicalSample | None = None
        self._points: Tensor | None = None

    def refresh(self) -> None:
        """Forget the samples: the surfels have moved, or their set has changed."""
        self._sample = self._points = None

    def losses(self, surfels: Surfels) -> dict[str, Tensor]:
        """Terms by the name of their weight.

        ``pos_distill``: Huber of the signed distance, per millimetre (student spec 7.7, repaired: the target does not
        follow the surfel); ``normal_similarity``: 1 - cosine of the canonical normals; ``materials``: squared
        differences of albedo, roughness and metallic.
        """
        if self._sample is None or self._points is None:
            self._points = surfels.positions.detach().clone()
            self._sample = self.teacher.query_canonical(self._points)
        sample, material = self._sample, surfels.material
        distance = sample.sdf + (sample.normal * (surfels.positions - self._points)).sum(-1)
        near = (sample.sdf.abs() < RELIABLE_DISTANCE).to(distance)
        cosine = (sample.normal * surfels.rotations[:, :, 2]).sum(-1)
        return {
            "pos_distill": huber(distance * near, HUBER_WIDTH) * MILLIMETRES,
            "normal_similarity": (1 - cosine).mean(),
            "materials": functional.mse_loss(material.albedo, sample.albedo)
            + functional.mse_loss(material.roughness, sample.roughness)
            + functional.mse_loss(material.metallic, sample.metallic),
        }


@torch.no_grad()
def surface_deviation(surfels: Surfels, teacher: CanonicalField) -> dict[str, float]:
    """Mean |signed distance| in millimetres and mean angle of the normals in degrees, to report beside the losses."""
    sample = teacher.query_canonical(surfels.positions.detach())
    cosine = (sample.normal * surfels.rotations[:, :, 2]).sum(-1).clamp(-1, 1)
    return {
        "surface_mm": float(sample.sdf.abs().mean() * MILLIMETRES),
        "normal_degrees": float(torch.rad2deg(cosine.acos()).mean()),
    }
