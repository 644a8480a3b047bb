"""The light of relighting: an environment image, prefiltered once, turned freely about the vertical."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.environment import EnvironmentMap
from gs_ir.cubemap import PrefilteredLight, equirect_to_cubemap
from gs_ir.prefiltering import prefilter, published_levels

DEFAULT_RESOLUTION = 128


@dataclass(frozen=True)
class ImageLight:
    """An environment map with its prefiltered form."""

    environment: EnvironmentMap
    """For the background and for sampling, at the image's own resolution."""
    prefiltered: PrefilteredLight
    """For shading."""

    @classmethod
    def from_image(
        cls, image: Tensor, *, resolution: int = DEFAULT_RESOLUTION, published: bool = False
    ) -> "ImageLight":
        """Prepare a light; the costly step.

        Args:
            image: [H, W, 3] linear radiance, equirectangular, top row up (world -y), centre column +z.
            resolution: edge of the cube map in texels, a power of two of at least 16.
            published: use the reference system's roughness levels.

        Raises:
            InputError: the image is not [H, W, 3].
        """
        environment = EnvironmentMap(image)
        levels = published_levels(resolution) if published else None
        with torch.no_grad():
            return cls(environment, prefilter(equirect_to_cubemap(image, resolution), levels))

    def rotated(self, angle: float) -> "ImageLight":
        """The light turned by ``angle`` radians about world +y (y points down): +z moves to +x. Filters nothing."""
        return ImageLight(self.environment.rotated(angle), self.prefiltered.rotated(angle))

    def radiance(self, directions: Tensor) -> Tensor:
        """Linear radiance [..., 3] seen along unit world ``directions`` [..., 3], unfiltered: the background."""
        return self.environment.eval(directions)

    def to(self, device: torch.device | str) -> "ImageLight":
        """The same light on ``device``."""
        return replace(self, environment=self.environment.to(device), prefiltered=self.prefiltered.to(device))
