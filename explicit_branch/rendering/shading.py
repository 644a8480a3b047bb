"""Split-sum shading (Karis 2013) of surface elements, per surfel (forward) or per pixel (deferred).

diffuse = albedo (1 - metallic) E(n) / pi visibility; specular = L(r, roughness) (F0 A + B) visibility. Linear radiance.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from core.brdf import base_reflectance, ggx_alpha
from core.vectors import unit
from gs_ir.cubemap import PrefilteredLight
from gs_ir.split_sum import sample_split_sum, split_sum_table

MIN_N_DOT_V = 1e-4
TABLE_RESOLUTION = 128
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
    n_dot_v = (normals * view_dirs).sum(-1)
    lobe_dirs = torch.addcmul(-view_dirs, n_dot_v.clamp_min(0)[:, None], normals, value=2)
    if options.lobe_direction == "dominant":
        lobe_dirs = dominant_direction(normals, lobe_dirs, roughness)
    n_dot_v = n_dot_v.clamp(MIN_N_DOT_V, 1)
    scale, bias = sample_split_sum(split_sum(normals.dtype, normals.device), n_dot_v, roughness).unbind(-1)
    diffuse_albedo = albedo * (1 - metallic[:, None])
    diffuse = diffuse_albedo * light.irradiance(normals)
    reflectance = base_reflectance(albedo, metallic) * scale[:, None] + bias[:, None]
    specular = reflectance * light.radiance(lobe_dirs, roughness)
    if occlusion is None:
        return Shading(diffuse, specular)
    bounced = multi_bounce_visibility(occlusion, diffuse_albedo) if options.multi_bounce else occlusion[:, None]
    if options.specular_occlusion == "lagarde":
        occlusion = specular_visibility(occlusion, n_dot_v, roughness)
    return Shading(diffuse * bounced, specular * occlusion[:, None])


def oriented_normals(normals: Tensor, view_dirs: Tensor, rule: str = "visible", cosine: Tensor | None = None) -> Tensor:
    """Unit ``normals`` [..., 3] made to face the viewer by ``rule`` (see ``ShadingOptions.normals``).

    ``visible``: n - min(n.v, 0) v, normalised; continuous in the view, unlike a flip. ``cosine`` [..., 1] is n.v, where
    it is at hand.
    """
    if rule == "given":
        return normals
    cosine = (normals * view_dirs).sum(-1, keepdim=True) if cosine is None else cosine
    if rule == "published":
        return torch.where(cosine < PUBLISHED_FLIP_COSINE, -normals, normals)
    return unit(torch.addcmul(normals, cosine.clamp_max(0), view_dirs, value=-1))


def dominant_direction(normals: Tensor, mirrored: Tensor, roughness: Tensor) -> Tensor:
    """Mean direction [N, 3] of the GGX lobe times cosine (Lagarde and de Rousiers 2014, section 4.9.3).

    A rough lobe leans from the ``mirrored`` direction [N, 3] to the normal, ever more at grazing views.
    """
    alpha = ggx_alpha(roughness)
    smoothness = (1 - alpha).clamp_min(1e-6)
    return unit(torch.lerp(normals, mirrored, (smoothness * (smoothness.sqrt() + alpha))[:, None]))


def specular_visibility(visibility: Tensor, n_dot_v: Tensor, roughness: Tensor) -> Tensor:
    """Visibility [N] for the specular lobe (Lagarde and de Rousiers 2014, section 4.10.2).

    Equals the ambient ``visibility`` [N] for a rough surface seen from above and tends to 1 or 0 for a mirror.
    """
    exponent = torch.exp2(-16 * ggx_alpha(roughness) - 1)
    return ((n_dot_v + visibility).clamp_min(1e-6).pow(exponent) - 1 + visibility).clamp(0, 1)


def multi_bounce_visibility(visibility: Tensor, albedo: Tensor) -> Tensor:
    """Visibility [N, 3] with the light that surroundings of the same ``albedo`` [N, 3] send back (Jimenez 2016)."""
    open_share = visibility[:, None]
    a = 2.0404 * albedo - 0.3324
    b = -4.7951 * albedo + 0.6417
    c = 2.7552 * albedo + 0.6903
    return torch.maximum(open_share, ((open_share * a + b) * open_share + c) * open_share)


@lru_cache(maxsize=8)
def split_sum(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The split-sum table [R, R, 2] that shading reads."""
    return split_sum_table(TABLE_RESOLUTION).to(device, dtype)
