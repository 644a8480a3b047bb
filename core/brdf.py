"""The one surface model of both branches: Lambert plus GGX.

f = (1 - metallic) albedo / pi + D G F / (4 n.l n.v), with ``ggx_alpha = roughness**2``, GGX distribution D (Walter et
al. 2007), height-correlated Smith G (Heitz 2014, eq. 99) and Schlick F of F0 = 0.04 (1 - metallic) + metallic albedo.

Every direction is a unit vector that points away from the surface; ``view`` to the viewer, ``light`` to the light.
Shapes broadcast over the leading dimensions. Every pdf is per solid angle.
"""

from math import pi

import torch
from torch import Tensor
from torch.nn.functional import normalize

from core.color import luminance
from core.rotation import frame_from_normal
from gs_ir.reference.shading import MIN_GGX_ALPHA, base_reflectance, ggx_alpha

MIN_COSINE = 1e-6


def eval_cosine(
    normal: Tensor, view: Tensor, light: Tensor, albedo: Tensor, roughness: Tensor, metallic: Tensor
) -> Tensor:
    """Reflectance times n.l, [..., 3]; zero where view or light is below the surface. Differentiable in all arguments.

    Args:
        normal: [..., 3] unit.
        view: [..., 3] unit, to the viewer.
        light: [..., 3] unit, to the light.
        albedo: [..., 3] linear.
        roughness: [...] perceptual.
        metallic: [...].
    """
    diffuse, specular = eval_lobes_cosine(normal, view, light, base_reflectance(albedo, metallic), roughness)
    return (1 - metallic[..., None]) * albedo * diffuse[..., None] + specular


def eval_lobes_cosine(
    normal: Tensor, view: Tensor, light: Tensor, f0: Tensor, roughness: Tensor
) -> tuple[Tensor, Tensor]:
    """:func:`eval_diffuse_cosine` [...] and :func:`eval_specular_cosine` [..., 3] together."""
    cosines = _cosines(normal, view, light)
    n_dot_l, above = cosines[1:]
    return torch.where(above, n_dot_l / pi, 0), _specular(cosines, normal, view, light, f0, roughness)


def eval_diffuse_cosine(normal: Tensor, view: Tensor, light: Tensor) -> Tensor:
    """n.l / pi, [...]: the diffuse lobe of albedo 1; zero where view or light is below the surface."""
    n_dot_l, above = _cosines(normal, view, light)[1:]
    return torch.where(above, n_dot_l / pi, 0)


def eval_specular_cosine(normal: Tensor, view: Tensor, light: Tensor, f0: Tensor, roughness: Tensor) -> Tensor:
    """D G F / (4 n.v), [..., 3], of reflectance ``f0`` [..., 3] at normal incidence; includes n.l."""
    return _specular(_cosines(normal, view, light), normal, view, light, f0, roughness)


def _specular(
    cosines: tuple[Tensor, Tensor, Tensor], normal: Tensor, view: Tensor, light: Tensor, f0: Tensor, roughness: Tensor
) -> Tensor:
    n_dot_v, n_dot_l, above = cosines
    half = normalize(view + light, dim=-1)
    alpha = ggx_alpha(roughness)
    fresnel = f0 + (1 - f0) * (1 - (view * half).sum(-1).clamp(0, 1)).pow(5)[..., None]
    shape = ggx_distribution(normal, half, alpha) * smith_visibility(n_dot_v, n_dot_l, alpha) * n_dot_l
    return torch.where(above, shape, 0)[..., None] * fresnel


def ggx_distribution(normal: Tensor, half: Tensor, alpha: Tensor) -> Tensor:
    """D [...] of the half vector; zero below the surface. Normalised: the integral of D n.h is 1."""
    cosine = (normal * half).sum(-1)
    # 1 - cos**2 loses all digits in float32 at the peak of a smooth lobe; the cross product keeps them.
    sine_squared = torch.linalg.cross(normal.expand_as(half), half).square().sum(-1)
    squared = alpha * alpha
    # The floor is below the peak's value of the smoothest lobe; it matters where view and light cancel (half = 0).
    spread = (sine_squared + squared * cosine * cosine).clamp_min(0.1 * MIN_GGX_ALPHA**2)
    value = squared / (pi * spread.square())
    return torch.where(cosine > 0, value, 0)


def smith_visibility(n_dot_v: Tensor, n_dot_l: Tensor, alpha: Tensor) -> Tensor:
    """G / (4 n.v n.l), [...], height-correlated (Heitz 2014); cosines above 0."""
    squared = alpha * alpha
    towards_view = n_dot_l * (n_dot_v.square() * (1 - squared) + squared).sqrt()
    towards_light = n_dot_v * (n_dot_l.square() * (1 - squared) + squared).sqrt()
    return 0.5 / (towards_view + towards_light)


def sample(
    normal: Tensor, view: Tensor, albedo: Tensor, roughness: Tensor, metallic: Tensor, uniforms: Tensor
) -> Tensor:
    """Light directions [..., 3] from the mixture whose density :func:`pdf` returns. No gradient.

    Cosine lobe and GGX visible normals, chosen by the luminance of what they reflect. A specular sample may lie
    below the surface, where :func:`eval_cosine` is zero.

    Args:
        normal: [..., 3] unit.
        view: [..., 3] unit, to the viewer.
        albedo: [..., 3] linear.
        roughness: [...] perceptual.
        metallic: [...].
        uniforms: [..., 3] in [0, 1); the last one chooses the lobe.
    """
    with torch.no_grad():
        specular = uniforms[..., 2] < specular_probability(normal, view, albedo, metallic)
        glossy = sample_ggx(normal, view, roughness, uniforms[..., :2])
        return torch.where(specular[..., None], glossy, sample_cosine(normal, uniforms[..., :2]))


def pdf(normal: Tensor, view: Tensor, light: Tensor, albedo: Tensor, roughness: Tensor, metallic: Tensor) -> Tensor:
    """Density [...] per solid angle with which :func:`sample` returns ``light``, over the whole sphere. No gradient."""
    with torch.no_grad():
        specular = specular_probability(normal, view, albedo, metallic)
        glossy = torch.where(specular > 0, pdf_ggx(normal, view, light, roughness), 0)
        return specular * glossy + (1 - specular) * pdf_cosine(normal, light)


def specular_probability(normal: Tensor, view: Tensor, albedo: Tensor, metallic: Tensor) -> Tensor:
    """Probability [...] that :func:`sample` takes the specular lobe; 0 where the view is below the surface."""
    n_dot_v = (normal * view).sum(-1)
    f0 = base_reflectance(albedo, metallic)
    fresnel = f0 + (1 - f0) * (1 - n_dot_v.clamp(0, 1)).pow(5)[..., None]
    specular, diffuse = luminance(fresnel), (1 - metallic) * luminance(albedo)
    return torch.where(n_dot_v > MIN_COSINE, specular / (specular + diffuse), 0)


def sample_cosine(normal: Tensor, uniforms: Tensor) -> Tensor:
    """Directions [..., 3] about ``normal`` [..., 3] with density n.l / pi from ``uniforms`` [..., 2]."""
    radius, angle = uniforms[..., 0].sqrt(), 2 * pi * uniforms[..., 1]
    height = (1 - uniforms[..., 0]).clamp_min(0).sqrt()
    local = torch.stack([radius * angle.cos(), radius * angle.sin(), height], -1)
    return (frame_from_normal(normal) @ local[..., None]).squeeze(-1)


def pdf_cosine(normal: Tensor, light: Tensor) -> Tensor:
    """Density [...] of :func:`sample_cosine`."""
    return (normal * light).sum(-1).clamp_min(0) / pi


def sample_ggx(normal: Tensor, view: Tensor, roughness: Tensor, uniforms: Tensor) -> Tensor:
    """Mirror directions [..., 3] about visible GGX normals (spherical caps: Dupuy and Benyoub 2023, listing 3)."""
    frame, alpha = frame_from_normal(normal), ggx_alpha(roughness)[..., None]
    local_view = (frame.transpose(-1, -2) @ view[..., None]).squeeze(-1)
    stretched = normalize(torch.cat([alpha * local_view[..., :2], local_view[..., 2:]], -1), dim=-1)
    height = (1 - uniforms[..., 0]) * (1 + stretched[..., 2]) - stretched[..., 2]
    radius, angle = (1 - height.square()).clamp_min(0).sqrt(), 2 * pi * uniforms[..., 1]
    cap = torch.stack([radius * angle.cos(), radius * angle.sin(), height], -1) + stretched
    half = normalize(torch.cat([alpha * cap[..., :2], cap[..., 2:]], -1), dim=-1)
    mirrored = 2 * (local_view * half).sum(-1, keepdim=True) * half - local_view
    return (frame @ mirrored[..., None]).squeeze(-1)


def pdf_ggx(normal: Tensor, view: Tensor, light: Tensor, roughness: Tensor) -> Tensor:
    """Density [...] of :func:`sample_ggx`: G1(view) D(half) / (4 n.v), with the exact Smith G1."""
    alpha = ggx_alpha(roughness)
    n_dot_v = (normal * view).sum(-1).clamp_min(MIN_COSINE)
    half = normalize(view + light, dim=-1)
    squared = alpha * alpha
    # G1 / n.v = 2 / (n.v + sqrt(alpha**2 + (1 - alpha**2) n.v**2))
    masking = 2 / (n_dot_v + (squared + (1 - squared) * n_dot_v.square()).sqrt())
    return masking * ggx_distribution(normal, half, alpha) / 4


def _cosines(normal: Tensor, view: Tensor, light: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """n.v and n.l, both at least MIN_COSINE, and the mask of pairs above the surface."""
    n_dot_v, n_dot_l = (normal * view).sum(-1), (normal * light).sum(-1)
    above = (n_dot_v > MIN_COSINE) & (n_dot_l > MIN_COSINE)
    return n_dot_v.clamp_min(MIN_COSINE), n_dot_l.clamp_min(MIN_COSINE), above
