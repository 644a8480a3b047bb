"""Losses of the student on one render: photometric, coverage, regularisers. Each is a mean; weights come later."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from core.camera import Camera
from core.vectors import unit
from explicit_branch.observation import WINDOW

Perceptual = Callable[[Tensor, Tensor], Tensor]
SSIM_LUMINANCE, SSIM_CONTRAST = 0.01**2, 0.03**2
"""Constants of SSIM (Wang et al. 2004) for images in [0, 1]."""


def photometric(images: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference [B] of each of ``images`` [B, H, W, 3] and one ``target`` [H, W, 3], sRGB."""
    return (images - target).abs().mean((1, 2, 3))


def dissimilarity(images: Tensor, target: Tensor, windows: Tensor) -> Tensor:
    """1 - SSIM [B] of ``images`` [B, H, W, 3] in [0, 1] and one ``target`` [H, W, 3].

    ``core.metrics.ssim`` with its uniform window, in the images' own precision and with all means in one pass.

    Args:
        images: [B, H, W, 3].
        target: [H, W, 3].
        windows: [H - 6, W - 6] weights of the windows, by their first pixel, that sum to 1.
    """
    x, y = (image.movedim(-1, -3).contiguous() for image in (images, target[None]))
    if min(x.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW} pixels a side, got {tuple(x.shape[-2:])}")
    parts = [x, x * x, x * y, y, y * y]
    means = functional.avg_pool2d(torch.cat(parts), (WINDOW, 1), stride=1)
    means = functional.avg_pool2d(means, (1, WINDOW), stride=1)
    mean_x, square_x, product, mean_y, square_y = means.split([len(part) for part in parts])
    means_product, y_squared = mean_x * mean_y, mean_y.square()
    sample = WINDOW**2 / (WINDOW**2 - 1)
    covariance = 2 * sample * (product - means_product) + SSIM_CONTRAST
    squares = mean_x.square() + y_squared
    variances = sample * (square_x + square_y - squares) + SSIM_CONTRAST
    similarity = (2 * means_product + SSIM_LUMINANCE) * covariance / ((squares + SSIM_LUMINANCE) * variances)
    return 1 - (similarity.mean(1) * windows).sum((1, 2))


def coverage(alpha: Tensor, mask: Tensor, kind: str) -> Tensor:
    """Difference of coverages [H, W]: ``l1``, or ``bce`` (binary cross-entropy)."""
    if kind == "bce":
        return functional.binary_cross_entropy(alpha.clamp(1e-3, 1 - 1e-3), mask)
    return (alpha - mask).abs().mean()


def isometry(points_canonical: Tensor, points_posed: Tensor, neighbours: Tensor) -> Tensor:
    """As isometric as possible: mean |difference| of neighbour distances before and after posing.

    Args:
        points_canonical: [N, 3] metres.
        points_posed: [N, 3] metres.
        neighbours: [N, K] indices.
    """
    both = torch.cat([points_canonical, points_posed], 1)
    near = both.index_select(0, neighbours.reshape(-1)).reshape(*neighbours.shape, 6)
    squared = (near - both[:, None]).square().unflatten(-1, (2, 3)).sum(-1)
    before, after = squared.add(1e-12).sqrt().unbind(-1)
    return (before - after).abs().mean()


def anisotropy(log_scales: Tensor, limit: float) -> Tensor:
    """Mean excess of the axis ratio of scales [N, 2], given as logarithms, over ``limit``."""
    u, v = log_scales.unbind(-1)
    return ((u - v).abs().exp() - limit).clamp_min(0).mean()


def oversize(scales: Tensor, limit: float) -> Tensor:
    """Mean excess of ``scales`` [N, 2] over ``limit`` metres."""
    return (scales - limit).clamp_min(0).mean()


def normal_consistency(normals: Tensor, alpha: Tensor, depth: Tensor, camera: Camera) -> Tensor:
    """Mean of alpha (alpha - N_render . N_depth): zero where both agree (2DGS eq. 15), the image's border left out.

    Args:
        normals: [H, W, 3] premultiplied world normals.
        alpha: [H, W].
        depth: [H, W] camera z in metres (median).
    """
    agreement = (normals * depth_normals(depth, camera)).sum(-1)
    inner = functional.pad(alpha.detach()[1:-1, 1:-1], (1, 1, 1, 1))
    return (inner * (inner - agreement)).sum() / ((alpha.shape[0] - 2) * (alpha.shape[1] - 2))


def depth_normals(depth: Tensor, camera: Camera) -> Tensor:
    """World normals [H, W, 3] towards the camera from camera-z ``depth`` [H, W].

    Central differences, which wrap around at the image's border: its outermost pixels mean nothing.
    """
    points = camera.directions * (depth * camera.length_per_depth)[..., None]
    vertical, horizontal = (points.roll(-1, dim) - points.roll(1, dim) for dim in (0, 1))
    # Rows run down and columns right, so down x right points back at the viewer.
    return unit(torch.linalg.cross(vertical, horizontal))


def material_variation(materials: Tensor, edges: tuple[Tensor, Tensor]) -> Tensor:
    """Edge-aware variation of ``materials`` [H, W, C]: mean squared differences of neighbours, times ``edges``.

    ``edges`` [H - 1, W] and [H, W - 1]: see ``Observation.edges``.
    """
    down, right = ((materials.diff(dim=dim).square().sum(-1) * edges[dim]).mean() for dim in (0, 1))
    return down + right


def lambertian(roughness: Tensor, metallic: Tensor) -> Tensor:
    """Prior towards rough dielectrics: mean(1 - roughness) + mean(metallic)."""
    return 1 + (metallic - roughness).mean()
