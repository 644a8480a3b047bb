"""Whole images of the teacher: everything that a frame of the distillation avatar consists of."""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from core.camera import Camera
from core.frames import BodyPose
from gs_ir.marching import march
from implicit_branch.deformation.articulation import PosedSpace
from implicit_branch.deformation.proxy_mesh import ProxyTracer
from implicit_branch.fields.material import Material
from implicit_branch.rendering.emitters import Emitter
from implicit_branch.rendering.secondary import Bounce, LearnedBounce, RelitBounce
from implicit_branch.rendering.shading import composite_materials, shade
from implicit_branch.rendering.volume import render_rays
from implicit_branch.sampling.rays import PrimarySampling, RayBundle
from implicit_branch.settings import ShadingSettings
from implicit_branch.teacher import Teacher

ALPHA_FLOOR = 1e-4
GPU_CHUNKS, GPU_DRAWS = 32, 64
"""How many times more rays, and secondary rays, are evaluated at once on a GPU: chunks for a CPU leave it idle.

An image of a body then takes a handful of chunks, for whose lists the host waits."""
TILE = 4, 8
"""Rows and columns of rays that stand together, so that those which a GPU's threads trace side by side are alike."""


class FrameMaps(NamedTuple):
    """One rendered frame; what is *premultiplied* is a sum along the ray, the rest is divided by coverage."""

    radiance: Tensor
    """[H, W, 3] linear, premultiplied: the radiance field."""
    shaded: Tensor
    """[H, W, 3] linear, premultiplied: the physically based image."""
    demodulated: Tensor
    """[H, W, 3] linear, premultiplied: light without albedo."""
    visibility: Tensor
    """[H, W] premultiplied cosine-weighted visibility of the environment."""
    alpha: Tensor
    """[H, W]."""
    depth: Tensor
    """[H, W] metres along the ray."""
    normal: Tensor
    """[H, W, 3] unit, world."""
    albedo: Tensor
    """[H, W, 3] linear."""
    roughness: Tensor
    """[H, W] perceptual."""
    metallic: Tensor
    """[H, W]."""
    background: Tensor
    """[H, W, 3] linear, what is behind the body: white, or the light (``add_emitter``)."""


CHANNELS = {"radiance": 3, "shaded": 3, "demodulated": 3, "visibility": 0, "alpha": 0, "depth": 0, "normal": 3,
            "albedo": 3, "roughness": 0, "metallic": 0}  # fmt: skip
"""Maps that are sums along rays; 0: one number without a dimension of its own."""


@dataclass(frozen=True)
class Illumination:
    """Under which light, and how, a frame is shaded."""

    light: Emitter
    shading: ShadingSettings
    learned: bool
    """The light is the one of training, so that the radiance field is what secondary rays bring back."""

    @classmethod
    def of_training(cls, teacher: Teacher) -> "Illumination":
        """The light that the teacher learned."""
        return cls(teacher.light, teacher.settings.shading, learned=True)

    @classmethod
    def of_environment(cls, teacher: Teacher, light: Emitter, *, samples_per_pixel: int) -> "Illumination":
        """Another light: one relit bounce, and multiple importance sampling unless another strategy is set.

        The default strategy, stratified without regard to the light, is meant for the smooth light of training.
        """
        shading = teacher.settings.shading
        mode = "mis" if shading.render_mode == "uniform_light" else shading.render_mode
        return cls(light, replace(shading, render_mode=mode, samples_per_pixel=samples_per_pixel), learned=False)

    def behind(self, directions: Tensor) -> Tensor:
        """Linear radiance [R, 3] seen along ``directions`` [R, 3] where there is no body."""
        return self.light.radiance(directions) if self.shading.add_emitter else torch.ones_like(directions)

    def bounce(self, teacher: Teacher, tracer: ProxyTracer, generator: torch.Generator) -> Bounce | None:
        """What secondary rays bring back from the body."""
        if not self.shading.global_illumination:
            return None
        if self.learned:
            return LearnedBounce(teacher.fields)
        near, far = self.shading.near, self.shading.far
        return RelitBounce(teacher.fields, self.light, tracer, near=near, far=far, generator=generator)


@torch.no_grad()
def render_frame(
    teacher: Teacher,
    pose: BodyPose,
    camera: Camera,
    illumination: Illumination | None = None,
    *,
    albedo_gain: Tensor | None = None,
    seed: int = 0,
) -> FrameMaps:
    """Render every map of one frame.

    Args:
        teacher: trained.
        pose: one pose, no batch.
        camera: the view.
        illumination: default: the training light.
        albedo_gain: [3] factor on albedo, for metrics aligned with a ground truth.
        seed: of the light directions; frames of a video that share it show the same noise.
    """
    illumination = illumination or Illumination.of_training(teacher)
    fine = teacher.settings.supersampling
    detailed = camera.resized(camera.width * fine, camera.height * fine)
    shading = illumination.shading
    shading = replace(shading, samples_per_pixel=max(1, shading.samples_per_pixel // fine**2))
    illumination = replace(illumination, shading=shading)
    space = teacher.pose_space(BodyPose(pose.global_orient[None], pose.body_pose[None], pose.transl[None]))
    tracer, rays = teacher.tracer(space), RayBundle.of_camera(detailed)
    generator = torch.Generator(rays.origins.device).manual_seed(seed)
    order = _in_tiles(detailed.height, detailed.width, rays.origins.device)
    met = order[rays_near(rays, space, teacher.sampling)[order]]
    chunk = _chunk(len(met), teacher.settings.ray_chunk, shading, on_gpu=rays.origins.is_cuda)
    sums = rays.origins.new_zeros(len(rays), sum(width or 1 for width in CHANNELS.values()))
    with teacher.fields.weights_once():
        for rows in met.split(chunk):
            sums[rows] = _render_chunk(teacher, rays[rows], space, tracer, illumination,
                                       albedo_gain=albedo_gain, generator=generator)  # fmt: skip
    size = camera.height, fine, camera.width, fine
    means = sums.unflatten(0, size).mean((1, 3)).split([width or 1 for width in CHANNELS.values()], -1)
    maps = {name: m if width else m[..., 0] for (name, width), m in zip(CHANNELS.items(), means, strict=True)}
    background = illumination.behind(rays.directions).unflatten(0, size).mean((1, 3))
    return _divided(FrameMaps(**maps, background=background))


def _chunk(rays: int, ray_chunk: int, shading: ShadingSettings, *, on_gpu: bool) -> int:
    """How many of ``rays`` are evaluated at once: whole warps, and chunks of like size."""
    draws = shading.chunk // shading.samples_per_pixel
    most = max(1, min(ray_chunk * GPU_CHUNKS, draws * GPU_DRAWS) if on_gpu else min(ray_chunk, draws))
    even = rays // -(-rays // most) if rays else 1
    return min(most, math.prod(TILE) * (even // math.prod(TILE) + 1))


@lru_cache(maxsize=4)
def _in_tiles(height: int, width: int, device: torch.device) -> Tensor:
    """Numbers [H W] of an image's pixels, one ``TILE`` after the other."""
    with torch.inference_mode(False):
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        tile = rows // TILE[0] * width + columns // TILE[1]
        return tile.flatten().argsort(stable=True).to(device)


def rays_near(rays: RayBundle, space: PosedSpace, sampling: PrimarySampling) -> Tensor:
    """Which rays come near the body, [R] bool: most of an image do not."""
    jitter = rays.origins.new_full((len(rays),), 0.5)
    grid = space.seeds
    samples = march(
        rays.origins, rays.directions, grid.counts, grid.boxes, rays.frame_index, step=sampling.step, jitter=jitter
    )
    return samples.packed_info[:, 1] > 0


def _divided(sums: FrameMaps) -> FrameMaps:
    """The properties as averages over the covered part of each pixel."""
    share = sums.alpha.clamp_min(ALPHA_FLOOR)
    return sums._replace(
        depth=sums.depth / share,
        normal=torch.nn.functional.normalize(sums.normal, dim=-1),
        albedo=sums.albedo / share[..., None],
        roughness=sums.roughness / share,
        metallic=sums.metallic / share,
    )


def _render_chunk(
    teacher: Teacher,
    rays: RayBundle,
    space: PosedSpace,
    tracer: ProxyTracer,
    illumination: Illumination,
    *,
    albedo_gain: Tensor | None,
    generator: torch.Generator,
) -> Tensor:
    """Sums [R, C] along ``rays`` [R] of ``CHANNELS``, nothing divided by coverage yet."""
    rendered = render_rays(teacher.fields, rays, space, teacher.sampling)
    samples = rendered.samples
    material = teacher.fields.materials(samples.appearance, samples.geometry)
    if albedo_gain is not None:
        material = Material(material.albedo * albedo_gain, *material[1:])
    shaded = shade(
        rays, samples, material, illumination.light, tracer=tracer, settings=illumination.shading,
        bounce=illumination.bounce(teacher, tracer, generator), generator=generator,
    )  # fmt: skip
    summed = composite_materials(samples, material)
    single = torch.stack([shaded.visibility, rendered.alpha, rendered.depth], -1)
    last = torch.stack([summed.roughness, summed.metallic], -1)
    colours = (rendered.radiance, shaded.radiance, shaded.demodulated)
    return torch.cat([*colours, single, rendered.normal, summed.albedo, last], -1)
