"""One raster pass over every channel: opacity by footprint, supersampling, and pooling to the picture's pixels."""

from dataclasses import dataclass, replace
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional

from core.camera import Camera
from explicit_branch.deformation.deformation import PosedSurfels
from explicit_branch.rendering.sight import Sight
from gs_ir.surfels import SurfelRaster, rasterize_surfels

OPACITY_RULES = ("area", "published")
BACK_FADE = 0.1
"""Cosine past grazing at which a surfel seen from behind has faded out."""
SCREEN_FILTER_VARIANCE = 0.5
"""Squared pixels: the rasteriser's low-pass filter."""
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
    sight: Sight,
    opacities: Tensor,
    channels: dict[str, Tensor],
    camera: Camera,
    *,
    rules: RasterRules,
    screen_points: Tensor | None = None,
    capacity: int = 0,
) -> tuple[SurfelRaster, dict[str, Tensor]]:
    """Draw every channel at once.

    Args:
        posed: surfels in world space.
        sight: how ``camera`` sees them.
        opacities: [N].
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
    if rules.opacity_rule == "area":
        opacities = opacities * footprint_factor(posed.areas, sight, fine)
    raster = rasterize_surfels(
        posed.centers,
        posed.tangents_u,
        posed.tangents_v,
        opacities,
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


def footprint_factor(areas: Tensor, sight: Sight, camera: Camera) -> Tensor:
    """Factor [N] on opacity that keeps a surfel's coverage when the screen filter spreads it over more pixels.

    The projected disc has the size (f / z)^2 |t_u x t_v| |cos|; where that is below the filter's, the filter draws in
    its place and would cover too much (the normalisation of EWA splatting, Zwicker et al. 2001; Mip-Splatting, Yu et
    al. 2024). Without it a closed surface grows by the filter's width at every silhouette, because blending saturates.
    Surfels turned away fade out: on a closed surface they are hidden, except beside the silhouette.
    """
    focal = camera.intrinsics[0, 0] * camera.intrinsics[1, 1] / SCREEN_FILTER_VARIANCE
    coverage = focal * areas * sight.cosine.abs() / sight.distance.square()
    return (coverage.clamp_max(1) * (sight.cosine / BACK_FADE + 1).clamp(0, 1)).squeeze(-1)


def _pooled(image: Tensor, scale: int) -> Tensor:
    """Mean over ``scale`` x ``scale`` samples of an image [H, W] or [H, W, C]."""
    stacked = image if image.ndim == 3 else image[..., None]
    if stacked.shape[-1] == 0:
        return image.new_zeros(image.shape[0] // scale, image.shape[1] // scale, 0)
    pooled = functional.avg_pool2d(stacked.movedim(-1, 0)[None], scale)[0].movedim(0, -1)
    return pooled if image.ndim == 3 else pooled[..., 0]
