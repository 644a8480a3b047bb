"""How a camera sees surfels: the geometry that occlusion, shading, colour and opacity share."""

from dataclasses import dataclass

from torch import Tensor

from core.camera import Camera
from core.vectors import unit_and_length
from explicit_branch.deformation.deformation import PosedSurfels


@dataclass(frozen=True)
class Sight:
    """N surfels seen by a camera."""

    to_viewer: Tensor
    """[N, 3] unit, world, from each surfel to the camera."""
    distance: Tensor
    """[N, 1] metres."""
    cosine: Tensor
    """[N, 1] of the outward normal and ``to_viewer``."""

    @classmethod
    def of(cls, posed: PosedSurfels, camera: Camera) -> "Sight":
        """How ``camera`` sees ``posed``."""
        to_viewer, distance = unit_and_length(camera.position - posed.centers)
        return cls(to_viewer, distance, (posed.normals * to_viewer).sum(-1, keepdim=True))
