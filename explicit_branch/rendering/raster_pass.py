"""One raster pass over every channel: supersampling, and pooling to the picture's pixels."""

from dataclasses import dataclass, replace
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional

from core.camera import Camera
from explicit_branch.deformation.deformation import PosedSurfels
from gs_ir.surfels import SurfelRaster, rasterize_surfels

OPACITY_RULES = ("area", "published")
_POOLED = ("features", "alpha", "depth", "median_depth", "normal", "distortion")


@dataclass(frozen=True)
class RasterRules:
    """How surfels become pixels; belongs to the avatar, whose opacities are fitted under these rules."""

    min_size: int = 256
    """Pictures with a shorter side are supersampled by the factor that reaches it: below, pixels outgrow surfels and
    the screen filter widens silhouettes. 0: never."""
    opacity_rule: str = "area"
    """``area``: a disc smaller than the screen filter loses opacity in proportion, and one seen from behind fades.
    ``published``: the surfel's opacity as it is, which widens silhouettes by the filter."""

    def __post_init__(self) -> None:
        if self.opacity_rule not in OPACITY_RULES:
            raise ValueError(f"opacity_rule: {' | '.join(OPACITY_RULES)} expected, found {self.opacity_rule!r}")

    def supersampling(self, camera: Camera) -> int:
        """Raster samples per pixel and axis."""
        return max(1, ceil(self.min_size / min(camera.width, camera.height)))


def draw(
    posed: PosedSurfels,
    channels: dict[str, Tensor],
    camera: Camera,
    *,
    rules: RasterRules,
    screen_points: Tensor | None = None,
    capacity: int = 0,
) -> tuple[SurfelRaster, dict[str, Tensor]]:
    """Draw every channel at once.

    Args:
        posed: surfels in world space, seen by ``camera`` under ``rules``.
        channels: surfel attributes [N, c] by name.
        camera: of the picture.
        rules: how surfels become pixels.
        screen_points: [N, 2] receives the densification statistic.
        capacity: see ``rasterize_surfels``.

    Returns:
        The raster, and the premultiplied images [H, W, c] of the channels by name.
    """
    scale = rules.supersampling(camera)
    fine = camera.resized(camera.width * scale, camera.height * scale)
    raster = rasterize_surfels(
        posed.centers,
        posed.tangents_u,
        posed.tangents_v,
        posed.opacities,
        torch.cat(list(channels.values()), -1) if channels else posed.centers[:, :0],
        camera_from_world=fine.camera_from_world,
        intrinsics=fine.intrinsics,
        width=fine.width,
        height=fine.height,
        screen_points=screen_points,
        capacity=capacity,
    )
    if scale > 1:
        raster = replace(raster, **{name: _pooled(getattr(raster, name), scale) for name in _POOLED})
    pieces = raster.features.split([c.shape[-1] for c in channels.values()], -1)
    return raster, dict(zip(channels, pieces, strict=True))


def _pooled(image: Tensor, scale: int) -> Tensor:
    """Mean over ``scale`` x ``scale`` samples of an image [H, W] or [H, W, C]."""
    stacked = image if image.ndim == 3 else image[..., None]
    if stacked.shape[-1] == 0:
        return image.new_zeros(image.shape[0] // scale, image.shape[1] // scale, 0)
    pooled = functional.avg_pool2d(stacked.movedim(-1, 0)[None], scale)[0].movedim(0, -1)
    return pooled if image.ndim == 3 else pooled[..., 0]
