"""Split-sum shading (Karis 2013) of surface elements, per surfel (forward) or per pixel (deferred).

diffuse = albedo (1 - metallic) E(n) / pi visibility; specular = L(r, roughness) (F0 A + B) visibility. Linear radiance.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

import gs_ir.shading
from core.vectors import unit
from gs_ir.cubemap import PrefilteredLight
from gs_ir.shading import LobeRules

NORMAL_RULES = ("visible", "published", "given")
SPECULAR_OCCLUSION = ("ao", "lagarde")
LOBE_DIRECTIONS = ("dominant", "mirror")
PUBLISHED_FLIP_COSINE = -0.3


@dataclass(frozen=True)
class ShadingOptions:
    """How ambient visibility and back-facing normals enter; the defaults keep the published use of visibility."""

    specular_occlusion: str = "ao"
    """``ao``: the specular lobe is dimmed like the diffuse one (published). ``lagarde``: less when it is narrow."""
    multi_bounce: bool = False
    """Brighten occluded diffuse light by what bright surroundings send back; published: no indirect light."""
    normals: str = "visible"
    """``visible``: bent into the viewer's hemisphere. ``published``: flipped when n.v < -0.3. ``given``: unchanged."""

    lobe_direction: str = "dominant"
    """Where prefiltered light is read: ``dominant``, between normal and mirror direction; ``mirror`` (published)."""

    def __post_init__(self) -> None:
        choices = {
            "specular_occlusion": SPECULAR_OCCLUSION,
            "normals": NORMAL_RULES,
            "lobe_direction": LOBE_DIRECTIONS,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: {' | '.join(allowed)} expected, found {getattr(self, name)!r}")

    @property
    def lobes(self) -> LobeRules:
        """The rules that remain once the normals are oriented."""
        return LobeRules(
            lagarde=self.specular_occlusion == "lagarde",
            multi_bounce=self.multi_bounce,
            dominant=self.lobe_direction == "dominant",
        )


PUBLISHED = ShadingOptions(normals="published", lobe_direction="mirror")
"""The reference system's rules."""


@dataclass(frozen=True)
class Shading:
    """What N surface elements send to the viewer, linear radiance."""

    diffuse: Tensor
    """[N, 3]."""
    specular: Tensor
    """[N, 3]."""

    @property
    def total(self) -> Tensor:
        """[N, 3]."""
        return self.diffuse + self.specular


def shade(
    normals: Tensor,
    view_dirs: Tensor,
    *,
    albedo: Tensor,
    roughness: Tensor,
    metallic: Tensor,
    occlusion: Tensor | None,
    light: PrefilteredLight,
    options: ShadingOptions | None = None,
) -> Shading:
    """Light reflected to the viewer. Differentiable in everything.

    Args:
        normals: [N, 3] unit, world.
        view_dirs: [N, 3] unit, world, from the surface to the viewer.
        albedo: [N, 3] linear.
        roughness: [N] perceptual; ``ggx_alpha = roughness**2``.
        metallic: [N].
        occlusion: [N] ambient visibility, 1 = open; None: everything is open.
        light: prefiltered environment.
        options: rules; the default ones when not given.
    """
    options = options or ShadingOptions()
    normals = oriented_normals(normals, view_dirs, options.normals)
    diffuse, specular = gs_ir.shading.shade(
        normals,
        view_dirs,
        albedo=albedo,
        roughness=roughness,
        metallic=metallic,
        visibility=occlusion,
        light=light,
        rules=options.lobes,
    )
    return Shading(diffuse, specular)


def oriented_normals(normals: Tensor, view_dirs: Tensor, rule: str = "visible") -> Tensor:
    """Unit ``normals`` [..., 3] made to face the viewer by ``rule`` (see ``ShadingOptions.normals``).

    ``visible``: n - min(n.v, 0) v, normalised; continuous in the view, unlike a flip.
    """
    if rule == "given":
        return normals
    cosine = (normals * view_dirs).sum(-1, keepdim=True)
    if rule == "published":
        return torch.where(cosine < PUBLISHED_FLIP_COSINE, -normals, normals)
    return unit(torch.addcmul(normals, cosine.clamp_max(0), view_dirs, value=-1))
