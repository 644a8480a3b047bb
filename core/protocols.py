"""What the student may ask of the teacher, without knowing what the teacher is."""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class CanonicalSample:
    """The teacher's field at canonical points."""

    sdf: Tensor
    """[N] metres, negative inside."""
    normal: Tensor
    """[N, 3] unit gradient of the signed distance, canonical space."""
    albedo: Tensor
    """[N, 3] linear."""
    roughness: Tensor
    """[N] perceptual."""
    metallic: Tensor
    """[N]."""


class CanonicalField(Protocol):
    """A material field over a canonical surface, and the light it was trained under."""

    def query_canonical(self, points: Tensor) -> CanonicalSample:
        """Evaluate at ``points`` [N, 3] (canonical space, metres). No gradient."""
        ...

    def eval_light(self, directions: Tensor) -> Tensor:
        """Linear radiance [N, 3] of the training light along unit world ``directions`` [N, 3]. No gradient."""
        ...
