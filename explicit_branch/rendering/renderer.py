"""The one renderer: training, evaluation, relighting and the speed test all draw through it.

A frame is: pose the surfels, query occlusion, shade (forward), one raster pass with every channel, shade (deferred),
composite in linear light. On a GPU the picture comes from one operator that does all of it (``real_time``).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from core.camera import Camera
from core.color import composite, linear_to_srgb
from core.frames import BodyPose, GBuffer
from explicit_branch.avatar import Avatar
from explicit_branch.deformation.deformation import TRAINED, PosedSurfels
from explicit_branch.rendering.appearance import View
from explicit_branch.rendering.compositing import srgb_picture
from explicit_branch.rendering.directional import DirectionalOcclusion
from explicit_branch.rendering.raster_pass import draw
from explicit_branch.rendering.real_time import RealTimeFrames
from explicit_branch.rendering.shading import Shading, ShadingOptions
from explicit_branch.rendering.surface import ALPHA_FLOOR, PROPERTIES, Surface, gather, shade_pixels
from explicit_branch.surfels import SurfaceMaterial
from gs_ir.cubemap import PrefilteredLight
from gs_ir.frame import FrameImages
from gs_ir.posing import PosingRules
from gs_ir.probes import query_own_probes
from gs_ir.surfels import SurfelRaster

SHADING_MODES = ("forward", "deferred")
COMPOSITING_RULES = ("linear", "published")
"""``linear``: over the background in linear light. ``published``: forward shading in linear light, deferred in sRGB."""

OCCLUSION_KINDS = ("none", "ambient", "directional", "own")
"""``ambient``: visibility that all parts leave; ``directional``: along each direction of the light; ``own``: that the
surfel's own part leaves, to look at."""
Timer = Callable[[str], AbstractContextManager]


@dataclass(frozen=True)
class Picture:
    """What a viewer sees of one frame."""

    alpha: Tensor
    """[H, W] coverage."""
    image: Tensor | None
    """[H, W, 3] shaded picture, sRGB in [0, 1], over the background; None without a light."""
    buffer: GBuffer | None
    """Surface properties, where asked for."""


@dataclass(frozen=True)
class Render(Picture):
    """One rendered frame with everything that led to it."""

    radiance: Tensor | None
    """[H, W, 3] linear, premultiplied."""
    lobes: Shading | None
    """Diffuse and specular radiance [H, W, 3], linear, premultiplied; of deferred shading."""
    colour: Tensor | None
    """[H, W, 3] colour pathway, sRGB over the background, where asked for."""
    posed: PosedSurfels
    raster: SurfelRaster
    facing: Tensor | None
    """[H, W] premultiplied cosine of outward normal and ray, positive where a back shows; comes with ``colour``."""
    material: SurfaceMaterial
    """Of the surfels."""
    material_image: Tensor | None
    """[H, W, 5] premultiplied albedo, roughness and metallic; comes with the buffer."""


@dataclass(frozen=True)
class TrainingView:
    """What a render needs to know about the training iteration it belongs to."""

    iteration: float = TRAINED
    frame_index: int | None = None
    generator: torch.Generator | None = None
    screen_points: Tensor | None = None
    capacity: int = 0
    """Length of the tile lists, see ``rasterize_surfels``."""


class Renderer:
    """Draws an avatar."""

    def __init__(
        self,
        avatar: Avatar,
        *,
        occlusion: str = "ambient",
        compositing: str = "linear",
        options: ShadingOptions | None = None,
    ) -> None:
        """Set up.

        Args:
            avatar: what to draw.
            occlusion: one of ``OCCLUSION_KINDS``; nothing is occluded where the avatar has no probes.
            compositing: one of ``COMPOSITING_RULES``.
            options: rules of shading; the avatar's own when not given.
        """
        if compositing not in COMPOSITING_RULES:
            raise ValueError(f"Renderer: compositing {' | '.join(COMPOSITING_RULES)} expected, found {compositing!r}")
        if occlusion not in OCCLUSION_KINDS:
            raise ValueError(f"Renderer: occlusion {' | '.join(OCCLUSION_KINDS)} expected, found {occlusion!r}")
        self.avatar, self.occlusion, self.compositing = avatar, occlusion, compositing
        self.options = options or avatar.record.shading_options
        self._directional = DirectionalOcclusion(avatar)
        self.real_time = RealTimeFrames(avatar, occlusion=occlusion, compositing=compositing, options=self.options)

    def picture(
        self,
        pose: BodyPose,
        camera: Camera,
        light: PrefilteredLight,
        *,
        shading: str = "forward",
        gbuffer: bool = False,
        background: float = 1.0,
        albedo_gain: Tensor | None = None,
        timer: Timer = nullcontext,
    ) -> Picture:
        """Draw one frame, in one operator where ``RealTimeFrames.serves``; arguments as for ``render``."""
        _check_shading(shading)
        if not self.real_time.serves(camera):
            device = self.avatar.surfels.positions.device
            return self.render(
                pose.to(device),
                camera.to(device),
                light,
                shading=shading,
                gbuffer=gbuffer,
                background=background,
                albedo_gain=albedo_gain,
                timer=timer,
            )
        deferred = shading == "deferred"
        with timer("frame"):
            images = self.real_time.draw(
                pose,
                camera,
                light,
                deferred=deferred,
                buffer=gbuffer,
                background=background,
                albedo_gain=albedo_gain,
            )
        return Picture(images.alpha, images.image, _buffer(images, camera, deferred) if gbuffer else None)

    def render(
        self,
        pose: BodyPose,
        camera: Camera,
        light: PrefilteredLight | None,
        *,
        shading: str = "forward",
        gbuffer: bool = True,
        colour: bool = False,
        background: float = 1.0,
        albedo_gain: Tensor | None = None,
        training: TrainingView | None = None,
        timer: Timer = nullcontext,
    ) -> Render:
        """Draw one frame step by step, with everything that leads to it. The image is that of ``picture``.

        Args:
            pose: one pose, no batch.
            camera: the view.
            light: prefiltered light; None leaves ``image`` out.
            shading: ``forward`` shades surfels, ``deferred`` shades pixels.
            gbuffer: return surface properties as well.
            colour: return the colour pathway as well.
            background: grey value; 0 and 1 are the same in linear light and in sRGB.
            albedo_gain: [3] factor on albedo, for metrics aligned with a ground truth.
            training: makes per-frame and delayed modules follow the training.
            timer: called with a stage's name, gives the context that measures it.
        """
        _check_shading(shading)
        view = training or TrainingView()
        avatar = self.avatar
        deferred = light is not None and shading == "deferred"
        posed, surface = self._surface(
            pose, camera, view, albedo_gain, timer, light=light, shaded=light is not None or gbuffer
        )
        channels = surface.channels() if gbuffer or deferred else {}
        if not deferred:
            channels |= self._radiance_channels(surface, light, timer)
        if colour:
            channels |= self._colour_channels(posed, view)
        with timer("rasterisation"):
            raster, images = draw(
                posed,
                channels,
                camera,
                rules=avatar.record.raster_rules,
                screen_points=view.screen_points,
                capacity=view.capacity,
            )
        buffer = gather(images, raster.alpha, raster.depth, camera) if "material" in images else None
        lobes = None
        if buffer is not None and light is not None and deferred:
            with timer("shading"):
                lobes = shade_pixels(buffer, camera, light, self.options)
                images["radiance"] = lobes.total
        if light is not None and training is None and self.real_time.serves(camera):
            image = self.picture(
                pose, camera, light, shading=shading, background=background, albedo_gain=albedo_gain, timer=timer
            ).image
        else:
            with timer("compositing"):
                image = self._composited(images.get("radiance"), raster.alpha, background, deferred)
        return Render(
            alpha=raster.alpha,
            image=image,
            buffer=buffer if gbuffer else None,
            radiance=images.get("radiance"),
            lobes=lobes,
            colour=composite(images["colour"], raster.alpha, background) if colour else None,
            posed=posed,
            raster=raster,
            facing=images["facing"].squeeze(-1) if colour else None,
            material=surface.material,
            material_image=images.get("material"),
        )

    def _surface(
        self,
        pose: BodyPose,
        camera: Camera,
        view: TrainingView,
        albedo_gain: Tensor | None,
        timer: Timer,
        *,
        light: PrefilteredLight | None,
        shaded: bool,
    ) -> tuple[PosedSurfels, Surface]:
        """Posed surfels and their surface properties; occlusion only where it is ``shaded``."""
        avatar = self.avatar
        with timer("skinning"):
            pose = avatar.deformation.corrected(pose, view.frame_index, view.iteration)
            rules = self._posing_rules(camera)
            posed = avatar.deformation(avatar.surfels, pose, camera, rules=rules, iteration=view.iteration)
        visibility = shares = None
        with timer("occlusion") if shaded else nullcontext():
            if light is not None and self.occlusion == "directional" and avatar.probes is not None:
                shares = self._directional.shares(posed, pose, light=light, options=self.options)
                visibility, shares = shares[:, 0], shares[:, 1:]
            elif shaded:
                visibility = self._ambient_visibility(posed, pose)
        material = avatar.surfels.material.scaled(albedo_gain)
        return posed, Surface(posed.normals_to_viewer, posed.to_viewer, material, visibility, shares)

    def _posing_rules(self, camera: Camera) -> PosingRules:
        raster = self.avatar.record.raster_rules
        return PosingRules(self.options.normals, raster.opacity_rule == "area", raster.supersampling(camera))

    def _ambient_visibility(self, posed: PosedSurfels, pose: BodyPose) -> Tensor:
        probes, deformation = self.avatar.probes, self.avatar.deformation
        if probes is None or self.occlusion == "none":
            return torch.ones_like(posed.opacities)
        own_part = deformation.parts(self.avatar.surfels)
        if self.occlusion == "own":
            return query_own_probes(probes.volumes, posed.centers_canonical, posed.normals_canonical, own_part)
        with torch.no_grad():
            return probes.query(
                posed.centers,
                posed.normals_to_viewer,
                own_part=own_part,
                points_canonical=posed.centers_canonical,
                normals_canonical=posed.normals_canonical,
                part_from_world=deformation.part_from_world(pose),
            )

    def _radiance_channels(self, surface: Surface, light: PrefilteredLight | None, timer: Timer) -> dict[str, Tensor]:
        if light is None:
            return {}
        with timer("shading"):
            return {"radiance": surface.shaded(light, self.options).total}

    def _colour_channels(self, posed: PosedSurfels, view: TrainingView) -> dict[str, Tensor]:
        seen = View(view.frame_index, view.generator)
        colour = self.avatar.appearance(self.avatar.surfels.features, posed, seen)
        return {"colour": colour, "facing": -posed.cosine}

    def _composited(self, radiance: Tensor | None, alpha: Tensor, background: float, deferred: bool) -> Tensor | None:
        if radiance is None:
            return None
        if self.compositing == "published" and deferred:
            surface = linear_to_srgb((radiance / alpha[..., None].clamp_min(ALPHA_FLOOR)).clamp(0, 1))
            return composite(surface * alpha[..., None], alpha, background)
        return srgb_picture(radiance, alpha, background)


def _check_shading(shading: str) -> None:
    if shading not in SHADING_MODES:
        raise ValueError(f"render: shading {' | '.join(SHADING_MODES)} expected, found {shading!r}")


def _buffer(images: FrameImages, camera: Camera, deferred: bool) -> GBuffer:
    assert images.values is not None
    assert images.depth is not None
    properties = images.values if deferred else images.values[..., 3:]
    widths = list(PROPERTIES.values())
    pieces = dict(zip(PROPERTIES, properties[..., : sum(widths)].split(widths, -1), strict=True))
    if properties.shape[-1] > sum(widths):
        pieces["lobes"] = properties[..., sum(widths) :]
    return gather(pieces, images.alpha, images.depth, camera.to(images.alpha.device))
