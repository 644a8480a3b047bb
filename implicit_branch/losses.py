"""What the teacher minimises. Every function returns a mean; weights and schedules are applied by the caller."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from core.color import composite, linear_to_srgb, luminance
from core.schedules import Scheduled, scale_teacher_schedule, teacher_schedule
from implicit_branch.fields.fields import Fields
from implicit_branch.fields.material import Material
from implicit_branch.rendering.emitters import Emitter, sphere_directions
from implicit_branch.rendering.volume import FieldSamples
from implicit_branch.training_images import PixelBatch

CURVATURE_STEP = 1e-3
"""Metres along the tangent between two normals; well below the finest cell, well above float32 noise."""
TYPICAL_ROUGHNESS = 0.55
"""Cloth and skin."""
MINKOWSKI = 6
CHECKED_DIRECTIONS = 256
JITTER = 0.01
"""Metres: standard deviation between the points whose materials are compared."""
NOISES = 2**14
"""Different offsets between those points; a fixed number, so that what is drawn later does not depend on samples."""


@dataclass(frozen=True)
class LossWeights:
    """Weights by name, each a number or a schedule, already stretched to the run's length."""

    weights: Mapping[str, Scheduled]

    @classmethod
    def stretched(cls, weights: Mapping[str, Scheduled], max_steps: int) -> "LossWeights":
        """From weights written for the 25 000-step reference schedule."""
        return cls({name: scale_teacher_schedule(value, max_steps) for name, value in weights.items()})

    def at(self, step: int, epoch: float) -> dict[str, float]:
        """The positive weights at ``step``."""
        now = {name: teacher_schedule(value, step, epoch) for name, value in self.weights.items()}
        return {name: weight for name, weight in now.items() if weight > 0}


def image_l1(predicted: Tensor, alpha: Tensor, batch: PixelBatch, background: Tensor) -> Tensor:
    """L1 in sRGB over pixels whose colour can be trusted and where something was rendered.

    Nothing is clamped: a clamp would take the gradient of over-exposed pixels.

    Args:
        predicted: [R, 3] linear premultiplied.
        alpha: [R] coverage.
        batch: R pixels.
        background: [3] linear.
    """
    seen = composite(predicted, alpha, background)
    encoded, target = linear_to_srgb(torch.stack([seen, composite(batch.image, batch.mask, background)]))
    weight = batch.trusted * (alpha.detach() > 0)
    difference = (encoded - target).abs().mean(-1)
    return (difference * weight).sum() / weight.sum().clamp_min(1)


def eikonal(samples: FieldSamples) -> Tensor:
    """Mean of (|g| - 1)^2 for the canonical distance gradients (Gropp et al. 2020)."""
    # A floor inside the root keeps its derivative finite where the gradient vanishes.
    length = (samples.gradient.square().sum(-1) + 1e-12).sqrt()
    return _mean((length - 1).square(), samples.used)


def curvature(fields: Fields, samples: FieldSamples, generator: torch.Generator, limit: int) -> Tensor:
    """Mean angle over pi between normals a small step apart along the surface (PermutoSDF, Rosu and Behnke 2023).

    Args:
        fields: the fields.
        samples: where normals are known.
        generator: chooses tangents and, beyond ``limit`` samples, which ones are looked at.
        limit: samples evaluated at most.
    """
    points, gradient, used = samples.canonical, samples.gradient, samples.used
    # As many random numbers whatever the number of rows: what is drawn after them must not depend on it.
    uniforms = torch.rand(limit, generator=generator, device=points.device, dtype=points.dtype)
    random = torch.randn(limit, 3, generator=generator, device=points.device, dtype=points.dtype)
    if points.shape[0] > limit:
        # Unused samples are the last ones.
        chosen = (uniforms * used.sum()).long().clamp_max(points.shape[0] - 1)
        points, gradient, used = (x.index_select(0, chosen) for x in (points, gradient, used))
    normal = torch.nn.functional.normalize(gradient, dim=-1)
    tangent = torch.nn.functional.normalize(torch.linalg.cross(normal.detach(), random[: len(points)]), dim=-1)
    beside = torch.nn.functional.normalize(fields.geometry(points + CURVATURE_STEP * tangent).gradient, dim=-1)
    cosine = (normal * beside).sum(-1).clamp(-1 + 1e-6, 1 - 1e-6)
    return _mean(cosine.acos(), used) / torch.pi


def _mean(values: Tensor, used: Tensor) -> Tensor:
    return (values * used).sum() / used.sum().clamp_min(1)


def material_smoothness(
    fields: Fields, samples: FieldSamples, material: Material, rays: int, generator: torch.Generator
) -> dict[str, Tensor]:
    """Relative squared difference of materials between samples and jittered copies, composited, per channel.

    Returns:
        ``albedo_smoothness``, ``roughness_smoothness`` and ``metallic_smoothness``, means over ``rays``.
    """
    points = samples.canonical.detach()
    noise = torch.randn(NOISES, 3, generator=generator, device=points.device, dtype=points.dtype)
    noise = noise.repeat(-(-len(points) // NOISES), 1)[: len(points)]
    nearby = fields.materials_at(torch.add(points, noise, alpha=JITTER))
    here, there = (torch.cat([m.albedo, m.roughness[:, None], m.metallic[:, None]], -1) for m in (material, nearby))
    relative = (here - there) / torch.maximum(here, there).detach().clamp_min(1e-6)
    sums = samples.weights.detach() @ relative.square() / rays
    return {
        "albedo_smoothness": sums[:3].sum(),
        "roughness_smoothness": sums[3],
        "metallic_smoothness": sums[4],
    }


def material_priors(weights: Tensor, material: Material) -> dict[str, Tensor]:
    """What surfaces are like where images say nothing.

    Cloth and skin are rough (about 0.55) and not metallic. Shades of grey (Finlayson and Trezzi 2004): the Minkowski
    norm (p = 6) of the albedos has no colour, so that the tint which the light's colour would leave on all of them is
    removed; bright materials of whatever kind weigh most.

    Args:
        weights: [S] each sample's share in the image.
        material: of the samples.

    Returns:
        ``roughness_prior``, ``metallic_prior`` and ``albedo_greyness``, the variance over the channels of the norm's
        logarithm.
    """
    total = weights.sum().clamp_min(1e-6)
    norm = (weights[:, None] * material.albedo.pow(MINKOWSKI)).sum(0) / total
    return {
        "roughness_prior": (weights * (material.roughness - TYPICAL_ROUGHNESS).square()).sum() / total,
        "metallic_prior": (weights * material.metallic).sum() / total,
        "albedo_greyness": (norm.clamp_min(1e-12).log() / MINKOWSKI).var(unbiased=False),
    }


def light_neutrality(light: Emitter, like: Tensor) -> Tensor:
    """Mean squared saturation of the light over all directions: the colours of a surface are its own.

    Images fix only the product of albedo and light. Asking for a grey *mean* would let directions that no visible
    surface faces pay for coloured ones, so every direction is asked.

    Args:
        light: the environment.
        like: device and dtype.
    """
    radiance = light.radiance(sphere_directions(CHECKED_DIRECTIONS, like))
    return (radiance / luminance(radiance).clamp_min(1e-4)[:, None] - 1).square().mean()


def light_scale(light: Emitter, radiance: float) -> Tensor:
    """Squared logarithm of the light's mean luminance over ``radiance``: settles the scale shared with the albedo."""
    return (luminance(light.mean()).clamp_min(1e-6) / radiance).log().square()
