"""Posing surfels and seeing them, one PyTorch operator after another."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

NORMAL_RULES = ("visible", "published", "given")
"""In the order of the kernels."""
PUBLISHED_FLIP_COSINE = -0.3
BACK_FADE = 0.1
"""Cosine past grazing at which a surfel seen from behind has faded out."""
SCREEN_FILTER_VARIANCE = 0.5
"""Squared pixels: the rasteriser's low-pass filter."""
SMALLEST_AREA = 1e-20
"""Square metres, below which a surfel has no normal."""
SMALLEST_LENGTH = 1e-12


def pose_surfels(*inputs: Tensor, normals: int, area_opacity: bool, samples: float) -> tuple[Tensor, ...]:
    """See ``gs_ir.posing.pose_surfels`` for the inputs, in its order, and the outputs.

    Args:
        inputs: attributes of surfels, weights, bones and camera.
        normals: index into ``NORMAL_RULES``.
        area_opacity: whether opacity follows the footprint.
        samples: of the raster per pixel.
    """
    positions, log_scales, quaternions, opacity_logits, weights, bones, camera_from_world, intrinsics = inputs
    axis_u, axis_v, normals_canonical = axes_of(normalize(quaternions, dim=-1, eps=SMALLEST_LENGTH))
    scale_u, scale_v = log_scales.exp().split(1, -1)
    blended = (weights @ bones.reshape(-1, 12)).reshape(-1, 3, 4)
    linear, translation = blended.split([3, 1], -1)
    columns = torch.stack([axis_u * scale_u, axis_v * scale_v, positions], -1)
    # Products of many 3 x 3 matrices are slow as such: one block of a GPU for each.
    tangents_u, tangents_v, turned = (linear[..., None] * columns[:, None]).sum(2).unbind(-1)
    centers = turned + translation.squeeze(-1)
    crossed = torch.linalg.cross(tangents_u, tangents_v)
    areas = _length(crossed, SMALLEST_AREA)
    outward = crossed / areas
    camera = -(camera_from_world[:3, :3].T @ camera_from_world[:3, 3])
    distance = _length(camera - centers, SMALLEST_LENGTH)
    to_viewer = (camera - centers) / distance
    cosine = (outward * to_viewer).sum(-1, keepdim=True)
    opacities = opacity_logits.sigmoid()
    if area_opacity:
        focal = intrinsics[0, 0] * intrinsics[1, 1] * samples
        opacities = opacities * footprint_factor(areas, distance, cosine, focal).squeeze(-1)
    oriented = _oriented(outward, to_viewer, cosine, NORMAL_RULES[normals])
    return centers, tangents_u, tangents_v, outward, normals_canonical, to_viewer, oriented, cosine, opacities


def axes_of(unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Columns [N, 3] of the rotation matrices of wxyz quaternions ``unit`` [N, 4]."""
    w, x, y, z = unit.unbind(-1)
    axis_u = torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], -1)
    axis_v = torch.stack([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)], -1)
    normal = torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], -1)
    return axis_u, axis_v, normal


def footprint_factor(areas: Tensor, distance: Tensor, cosine: Tensor, focal: Tensor) -> Tensor:
    """Factor on opacity that keeps a surfel's coverage when the screen filter spreads it over more pixels.

    The projected disc has the size (f / z)^2 |t_u x t_v| |cos|; where that is below the filter's, the filter draws in
    its place and would cover too much (the normalisation of EWA splatting, Zwicker et al. 2001; Mip-Splatting, Yu et
    al. 2024). Without it a closed surface grows by the filter's width at every silhouette, because blending saturates.
    Surfels turned away fade out: on a closed surface they are hidden, except beside the silhouette.
    """
    coverage = focal / SCREEN_FILTER_VARIANCE * areas * cosine.abs() / distance.square()
    return coverage.clamp_max(1) * (cosine / BACK_FADE + 1).clamp(0, 1)


def _length(vectors: Tensor, floor: float) -> Tensor:
    return torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_min(floor)


def _oriented(normals: Tensor, to_viewer: Tensor, cosine: Tensor, rule: str) -> Tensor:
    if rule == "given":
        return normals.clone()
    if rule == "published":
        return torch.where(cosine < PUBLISHED_FLIP_COSINE, -normals, normals)
    return normalize(normals - cosine.clamp_max(0) * to_viewer, dim=-1, eps=SMALLEST_LENGTH)
