"""The training objective: every weighted term of one step, by name."""

from functools import lru_cache

import torch
from torch import Tensor

from explicit_branch import losses
from explicit_branch.avatar import Avatar
from explicit_branch.distillation.images import map_losses
from explicit_branch.distillation.points import TERMS as POINT_TERMS
from explicit_branch.distillation.points import PointTargets
from explicit_branch.observation import Observation
from explicit_branch.rendering.renderer import Render
from explicit_branch.settings import TrainingSettings
from explicit_branch.surfels import Surfels
from gs_ir.nearest import nearest_neighbours

Terms = dict[str, Tensor]
OFFSET_TERMS = ("nr_xyz", "nr_scale", "nr_rot")


class Objective:
    """Computes the losses that have a weight; caches the neighbourhoods that the isometry loss needs."""

    def __init__(
        self,
        settings: TrainingSettings,
        perceptual: losses.Perceptual | None = None,
        points: PointTargets | None = None,
    ) -> None:
        self.settings, self.perceptual, self.points = settings, perceptual, points
        self._neighbours: Tensor | None = None

    def refresh(self) -> None:
        """Forget what depends on where the surfels are: they have moved, or their set has changed."""
        self._neighbours = None
        if self.points is not None:
            self.points.refresh()

    def renew(self, surfels: Surfels) -> None:
        """Bring that up to date in place: the same surfels have moved."""
        if self._neighbours is not None:
            self._neighbours.copy_(self._nearest(surfels))
        if self.points is not None:
            self.points.renew(surfels)

    def weighted_terms(
        self, avatar: Avatar, render: Render, seen: Observation, iteration: int, generator: torch.Generator
    ) -> tuple[list[str], Tensor]:
        """Names and weighted values [T] of all terms of one view; their sum is the loss.

        Args:
            avatar: what is trained.
            render: its picture.
            seen: what the picture should look like.
            iteration: of the schedule.
            generator: source of random samples, on the CPU.
        """
        weights = self.settings.weights(iteration)
        terms = self._image_terms(render, seen, weights)
        terms |= self._surfel_terms(avatar, render, weights, iteration)
        terms |= self._network_terms(avatar, weights, generator)
        terms |= self._point_terms(avatar, render, weights)
        values = torch.stack(list(terms.values()))
        return list(terms), values * _vector(tuple(weights[name] for name in terms), values.dtype, values.device)

    def _image_terms(self, render: Render, seen: Observation, weights: dict[str, float]) -> Terms:
        """Terms that compare a render with images and maps."""
        frame = seen.frame
        assert frame.mask is not None
        terms = self._photometric_terms(render, seen, weights)
        if weights["mask"]:
            terms["mask"] = losses.coverage(render.alpha, frame.mask, self.settings.mask_loss_type)
        if weights["orientation"] and render.facing is not None:
            terms["orientation"] = render.facing.clamp_min(0).mean()
        if render.buffer is not None:
            terms |= map_losses(render.buffer, seen, weights)
        if weights["dist"]:
            terms["dist"] = render.raster.distortion.mean()
        if weights["normal"] and seen.is_distilled:
            terms["normal"] = losses.normal_consistency(
                render.raster.normal, render.alpha, render.raster.median_depth, frame.camera
            )
        if weights["brdf_tv"] and render.image is not None and render.material_image is not None:
            terms["brdf_tv"] = losses.material_variation(render.material_image, seen.edges)
        return terms

    def _photometric_terms(self, render: Render, seen: Observation, weights: dict[str, float]) -> Terms:
        """L1 over the whole image, 1 - SSIM and LPIPS in the mask's box, of the colour pathway and the shaded image."""
        pictures = {"colour": render.colour, "pbr": render.image}
        drawn = {name: x for name, x in pictures.items() if x is not None and weights[name]}
        target = seen.frame.image
        assert target is not None
        if not drawn:
            return {}
        images = torch.stack(list(drawn.values()))
        loss = weights["l1"] * losses.photometric(images, target)
        if weights["dssim"]:
            loss = loss + weights["dssim"] * losses.dissimilarity(images, target, seen.windows)
        if weights["perceptual"] and self.perceptual is not None:
            rows, columns = seen.box
            distances = [self.perceptual(image[rows, columns], target[rows, columns]) for image in images]
            loss = loss + weights["perceptual"] * torch.stack(distances)
        return dict(zip(drawn, loss.unbind(), strict=True))

    def _surfel_terms(self, avatar: Avatar, render: Render, weights: dict[str, float], iteration: int) -> Terms:
        """Terms on the surfels themselves."""
        surfels, posed, material, settings = avatar.surfels, render.posed, render.material, self.settings
        terms: Terms = {}
        if weights["aniso"]:
            terms["aniso"] = losses.anisotropy(surfels.log_scales, settings.anisotropy_limit)
        if weights["scale_reg"]:
            terms["scale_reg"] = losses.oversize(surfels.scales, settings.size_limit)
        if weights["aiap_xyz"]:
            neighbours = self._neighbourhoods(avatar)
            terms["aiap_xyz"] = losses.isometry(posed.centers_canonical, posed.centers, neighbours)
        if weights["lambert"] and iteration >= settings.pbr_iteration:
            terms["lambert"] = losses.lambertian(material.roughness, material.metallic)
        if posed.offsets is not None and any(weights[name] for name in OFFSET_TERMS):
            terms |= {name: term for name, term in posed.offsets.penalties().items() if weights[name]}
        return terms

    def _point_terms(self, avatar: Avatar, render: Render, weights: dict[str, float]) -> Terms:
        """Terms that compare surfels with the teacher's field."""
        wanted = [name for name in POINT_TERMS if weights[name]]
        if self.points is None or not wanted:
            return {}
        posed = render.posed
        normals = posed.normals_canonical if posed.offsets is None else None
        return self.points.losses(avatar.surfels, normals=normals, material=render.material, names=wanted)

    def _network_terms(self, avatar: Avatar, weights: dict[str, float], generator: torch.Generator) -> Terms:
        """Regularisers of learned skinning weights and pose corrections."""
        deformation = avatar.deformation
        terms = {
            "skinning": deformation.skinning.regularisation(generator) if weights["skinning"] else None,
            "pose": deformation.pose_correction.regularisation() if weights["pose"] else None,
        }
        return {name: term for name, term in terms.items() if term is not None}

    def _neighbourhoods(self, avatar: Avatar) -> Tensor:
        if self._neighbours is None:
            self._neighbours = self._nearest(avatar.surfels)
        return self._neighbours

    def _nearest(self, surfels: Surfels) -> Tensor:
        points = surfels.positions.detach()
        found = nearest_neighbours(points, points, min(self.settings.neighbours + 1, len(points)))[1]
        return found[:, 1:].contiguous()


@lru_cache(maxsize=64)
def _vector(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """[T]; kept, because making it copies from the host, which waits for the device."""
    return torch.tensor(values, dtype=dtype, device=device)
