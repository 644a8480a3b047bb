"""A light as 127 distant lamps: what directional occlusion weighs visibilities with."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gs_ir.reference import cubemap as reference
from gs_ir.reference.directional import DIRECTIONS
from gs_ir.sphere import fibonacci_directions

RESOLUTION = 32
"""Texels along an edge of the cube map that is shared out: 3 degrees, where a cell is 18 wide."""


@dataclass(frozen=True)
class LightCells:
    """The energy of an environment, gathered around directions that cover the sphere."""

    directions: Tensor
    """[127, 3] unit: the mean direction of each cell's energy, so that a sun stands where it is."""
    energy: Tensor
    """[127, 3] radiance integrated over each cell; their sum is the integral over the sphere."""

    def clone(self) -> "LightCells":
        """The same cells in memory of their own."""
        return LightCells(self.directions.clone(), self.energy.clone())

    def copy_(self, other: "LightCells") -> None:
        """Take over the numbers of ``other``."""
        self.directions.copy_(other.directions)
        self.energy.copy_(other.energy)

    def turned(self, light_from_world: Tensor | None) -> "LightCells":
        """Cells in world space of a light turned by ``light_from_world`` [3, 3]."""
        if light_from_world is None:
            return self
        return LightCells(self.directions @ light_from_world, self.energy)


@torch.no_grad()
def light_cells(cubemap: Tensor) -> LightCells:
    """Give each texel of ``cubemap`` [6, R, R, 3] (linear radiance, R a power of two) to the nearest direction."""
    while cubemap.shape[1] > RESOLUTION:
        cubemap = reference.parent_level(cubemap)
    directions, membership = _texels(cubemap.shape[1], cubemap.dtype, cubemap.device)
    radiance = cubemap.reshape(-1, 3)
    energy = membership @ radiance
    # Where a cell is black, its mean direction is that of its texels.
    brightness = radiance.clamp_min(0).sum(-1, keepdim=True)
    brightness = brightness + 1e-6 * brightness.mean() + 1e-12
    return LightCells(normalize(membership @ (brightness * directions), dim=-1, eps=1e-30), energy)


@lru_cache(maxsize=8)
def _texels(resolution: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Directions of the texels [6 R R, 3], and the solid angle [127, 6 R R] of each in the cell it belongs to."""
    with torch.inference_mode(False):
        directions = reference.texel_directions(resolution, torch.float64, device).reshape(-1, 3)
        nearest = (directions @ fibonacci_directions(DIRECTIONS, torch.float64, device).T).argmax(1)
        angles = reference.texel_solid_angles(resolution, torch.float64, device).repeat(6, 1, 1).reshape(-1)
        member = torch.arange(DIRECTIONS, device=device)[:, None] == nearest
        return directions.to(dtype), (member * angles).to(dtype)
