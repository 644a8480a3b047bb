"""The training objective: every weighted term of one step, by name."""

from dataclasses import dataclass

import torch
from torch import Tensor

from core.frames import Frame
from explicit_branch import losses
from explicit_branch.avatar import Avatar
from explicit_branch.distillation.images import map_losses
from explicit_branch.rendering.renderer import Render
from explicit_branch.settings import TrainingSettings
from gs_ir.nearest import nearest_neighbours

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Observation:
    """What one iteration compares with."""

    frame: Frame
    """Image and mask."""
    maps: Frame | None
    """The teacher's maps of the same frame."""
    is_distilled: bool
    """Whether the image itself is a teacher's render."""


class Objective:
    """Weighs the losses of a render; caches the neighbourhoods that the isometry loss needs."""

    def __init__(self, settings: TrainingSettings, perceptual: losses.Perceptual | None = None) -> None:
        self.settings, self.perceptual = settings, perceptual
        self._neighbours: Tensor | None = None

    def refresh(self) -> None:
        """Forget the neighbourhoods: the surfels have moved, or their set has changed."""
        self._neighbours = None

    def image_terms(self, render: Render, seen: Observation, iteration: int) -> Terms:
        """Terms that compare a render with images and maps."""
        frame, maps = seen.frame, seen.maps
        if frame.image is None or frame.mask is None:
            raise ValueError(f"frame {frame.name}: training needs an image and a mask")
        terms = {"mask": losses.coverage(render.alpha, frame.mask, self.settings.mask_loss_type)}
        if render.colour is not None:
            terms["colour"] = self._photometric(render.colour, frame, iteration)
        if render.image is not None:
            terms["pbr"] = self._photometric(render.image, frame, iteration)
        if render.facing is not None:
            terms["orientation"] = render.facing.clamp_min(0).mean()
        if maps is not None and render.buffer is not None:
            terms |= map_losses(render.buffer, maps, frame.mask)
        if self.settings.weight("dist", iteration):
            terms["dist"] = render.raster.distortion.mean()
        if seen.is_distilled and self.settings.weight("normal", iteration):
            terms["normal"] = losses.normal_consistency(
                render.raster.normal, render.alpha, render.raster.median_depth, frame.camera
            )
        if render.image is not None and render.buffer is not None:
            buffer = render.buffer
            pair = [buffer.roughness[..., None], buffer.metallic[..., None]]
            materials = torch.cat([buffer.albedo, *pair], -1) * render.alpha[..., None]
            terms["brdf_tv"] = losses.material_variation(materials, frame.image, frame.mask)
        return self._weighted(terms, iteration)

    def surfel_terms(self, avatar: Avatar, render: Render, iteration: int) -> Terms:
        """Terms on the surfels themselves."""
        surfels, posed, settings = avatar.surfels, render.posed, self.settings
        scales, material = surfels.scales, surfels.material
        terms = {
            "aniso": losses.anisotropy(scales, settings.anisotropy_limit),
            "scale_reg": losses.oversize(scales, settings.size_limit),
            "aiap_xyz": losses.isometry(posed.centers_canonical, posed.centers, self._neighbourhoods(avatar)),
        }
        if iteration >= settings.pbr_iteration:
            terms["lambert"] = losses.lambertian(material.roughness, material.metallic)
        if posed.offsets is not None:
            terms |= posed.offsets.penalties()
        return self._weighted(terms, iteration)

    def network_terms(self, avatar: Avatar, iteration: int, generator: torch.Generator) -> Terms:
        """Regularisers of learned skinning weights and pose corrections."""
        deformation = avatar.deformation
        terms = {
            "skinning": deformation.skinning.regularisation(generator),
            "pose": deformation.pose_correction.regularisation(),
        }
        return self._weighted({name: term for name, term in terms.items() if term is not None}, iteration)

    def weighted_points(self, terms: Terms, iteration: int) -> Terms:
        """The terms of point distillation, weighted."""
        return self._weighted(terms, iteration)

    def _photometric(self, image: Tensor, frame: Frame, iteration: int) -> Tensor:
        weights = {name: self.settings.weight(name, iteration) for name in ("l1", "dssim", "perceptual")}
        assert frame.image is not None
        assert frame.mask is not None
        return losses.photometric(image, frame.image, frame.mask, **weights, network=self.perceptual)

    def _neighbourhoods(self, avatar: Avatar) -> Tensor:
        if self._neighbours is None:
            points = avatar.surfels.positions.detach()
            self._neighbours = nearest_neighbours(points, points, min(self.settings.neighbours + 1, len(points)))[1][
                :, 1:
            ]
        return self._neighbours

    def _weighted(self, terms: Terms, iteration: int) -> Terms:
        weights = {name: self.settings.weight(name, iteration) for name in terms}
        return {name: weights[name] * term for name, term in terms.items() if weights[name]}
