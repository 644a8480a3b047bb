"""Strategies that choose light directions at surface points (configuration key ``model.render_mode``)."""

import torch
from torch import Tensor

from core import brdf
from gs_ir.scattering import Strategy
from implicit_branch.fields.material import Material
from implicit_branch.rendering.emitters import Emitter


def uniform_light(
    normal: Tensor, view: Tensor, material: Material, light: Emitter, uniforms: Tensor
) -> tuple[Tensor, Tensor]:
    """Cosine-distributed directions about the normal, whatever the light.

    With stratified ``uniforms`` this has the noise of the published uniform sphere at half the rays (or fewer).

    Args:
        normal: [N, 3] unit, world.
        view: [N, 3] unit, world, to the eye.
        material: of the N points.
        light: the environment.
        uniforms: [N, 3] in [0, 1).

    Returns:
        unit world directions [N, 3] and their density [N] per solid angle. No gradient.
    """
    directions = brdf.sample_cosine(normal, uniforms[:, :2])
    return directions, brdf.pdf_cosine(normal, directions)


def emitter(
    normal: Tensor, view: Tensor, material: Material, light: Emitter, uniforms: Tensor
) -> tuple[Tensor, Tensor]:
    """Directions by the light's energy. Arguments as :func:`uniform_light`."""
    # The light chooses a texel by its first uniform: strata over the first two are kept.
    return light.sample(uniforms)


def materials(
    normal: Tensor, view: Tensor, material: Material, light: Emitter, uniforms: Tensor
) -> tuple[Tensor, Tensor]:
    """Directions by the BRDF. Arguments as :func:`uniform_light`."""
    directions = brdf.sample(normal, view, *material, uniforms)
    return directions, brdf.pdf(normal, view, directions, *material)


def multiple_importance(
    normal: Tensor, view: Tensor, material: Material, light: Emitter, uniforms: Tensor
) -> tuple[Tensor, Tensor]:
    """Half of the directions by the BRDF, half by the light, weighted by the balance heuristic (Veach 1997).

    One sample from the mixture of both densities is the balance heuristic: dividing by the mixture is all it takes.
    Arguments as :func:`uniform_light`.
    """
    by_light = uniforms[:, 2] < 0.5
    # The third uniform chose the strategy; stretched to [0, 1) again it serves the strategy.
    rest = torch.cat([uniforms[:, :2], (2 * uniforms[:, 2:]) % 1], -1)
    directions = torch.where(by_light[:, None], light.sample(rest)[0], brdf.sample(normal, view, *material, rest))
    density = 0.5 * light.pdf(directions) + 0.5 * brdf.pdf(normal, view, directions, *material)
    return directions, density


SCATTERERS = {"uniform_light": uniform_light, "light": emitter, "mats": materials, "mis": multiple_importance}

STRATEGIES = {
    "uniform_light": Strategy.COSINE,
    "light": Strategy.LIGHT,
    "mats": Strategy.MATERIAL,
    "mis": Strategy.MIXTURE,
}
"""What the kernels call them."""
