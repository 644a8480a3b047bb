"""Reference of :mod:`gs_ir.shading`."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gs_ir.reference.cubemap import level_of_roughness, sample_cubemap
from gs_ir.split_sum import sample_split_sum

DIELECTRIC_F0 = 0.04
MIN_GGX_ALPHA = 1e-3
"""Below it the distribution's peak overflows float32 products; indistinguishable from a mirror."""
MIN_N_DOT_V = 1e-4


def shade(  # noqa: PLR0917 - the order of the operator's gradients
    normals: Tensor,
    to_viewer: Tensor,
    albedo: Tensor,
    roughness: Tensor,
    metallic: Tensor,
    visibility: Tensor,
    texels: Tensor,
    *,
    resolutions: list[int],
    level_roughness: list[float],
    light_from_world: Tensor | None,
    table: Tensor,
    rules: list[int],
    fixed_light: bool = False,
) -> tuple[Tensor, Tensor]:
    """Diffuse and specular radiance [N, 3] each; ``rules``: lagarde, multi_bounce, dominant.

    ``visibility`` is [N], or empty: everything is open. ``fixed_light`` cuts the gradient of ``texels``.
    """
    lagarde, multi_bounce, dominant = rules
    texels = texels.detach() if fixed_light else texels
    n_dot_v = (normals * to_viewer).sum(-1)
    lobe_dirs = torch.addcmul(-to_viewer, n_dot_v.clamp_min(0)[:, None], normals, value=2)
    if dominant:
        lobe_dirs = dominant_direction(normals, lobe_dirs, roughness)
    n_dot_v = n_dot_v.clamp(MIN_N_DOT_V, 1)
    scale, bias = sample_split_sum(table, n_dot_v, roughness).unbind(-1)
    diffuse_albedo = albedo * (1 - metallic[:, None])
    local_normals, local_lobes = (
        x if light_from_world is None else x @ light_from_world.T for x in (normals, lobe_dirs)
    )
    coarsest = texels[texels.shape[0] - 6 * resolutions[-1] ** 2 :]
    irradiance = sample_cubemap(coarsest, resolutions[-1:], local_normals, torch.zeros_like(roughness))
    radiance = sample_cubemap(texels, resolutions, local_lobes, level_of_roughness(roughness, tuple(level_roughness)))
    diffuse = diffuse_albedo * irradiance
    specular = (base_reflectance(albedo, metallic) * scale[:, None] + bias[:, None]) * radiance
    if visibility.numel() == 0:
        return diffuse, specular
    bounced = multi_bounce_visibility(visibility, diffuse_albedo) if multi_bounce else visibility[:, None]
    shine = specular_visibility(visibility, n_dot_v, roughness) if lagarde else visibility
    return diffuse * bounced, specular * shine[:, None]


def base_reflectance(albedo: Tensor, metallic: Tensor) -> Tensor:
    """F0 [..., 3] of linear ``albedo`` [..., 3] and ``metallic`` [...]."""
    return DIELECTRIC_F0 * (1 - metallic[..., None]) + metallic[..., None] * albedo


def ggx_alpha(roughness: Tensor) -> Tensor:
    """GGX width of perceptual ``roughness`` [...] in [0, 1]."""
    return roughness.square().clamp_min(MIN_GGX_ALPHA)


def dominant_direction(normals: Tensor, mirrored: Tensor, roughness: Tensor) -> Tensor:
    """Mean direction [N, 3] of the GGX lobe times cosine (Lagarde and de Rousiers 2014, section 4.9.3).

    A rough lobe leans from the ``mirrored`` direction [N, 3] to the normal, ever more at grazing views.
    """
    alpha = ggx_alpha(roughness)
    smoothness = (1 - alpha).clamp_min(1e-6)
    return normalize(torch.lerp(normals, mirrored, (smoothness * (smoothness.sqrt() + alpha))[:, None]), dim=-1)


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
