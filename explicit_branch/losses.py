"""Losses of the student on one render: photometric, coverage, regularisers. Each is a mean; weights come later."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from core.camera import Camera
from core.metrics import STANDARD_DATA_RANGE, bounding_box, ssim

Perceptual = Callable[[Tensor, Tensor], Tensor]


def photometric(
    image: Tensor,
    target: Tensor,
    mask: Tensor,
    *,
    l1: float,
    dssim: float,
    perceptual: float,
    network: Perceptual | None,
) -> Tensor:
    """Weighted sum of L1 (whole image), 1 - SSIM and LPIPS (both in the mask's box) of sRGB images [H, W, 3]."""
    loss = l1 * (image - target).abs().mean()
    if dssim or (perceptual and network is not None):
        rows, columns = bounding_box(mask)
        crop, target_crop = image[rows, columns], target[rows, columns]
        if dssim:
            loss = loss + dssim * (1 - ssim(crop, target_crop, STANDARD_DATA_RANGE))
        if perceptual and network is not None:
            loss = loss + perceptual * network(crop, target_crop)
    return loss


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
    before, after = (
        (p[:, None] - p[neighbours]).square().sum(-1).add(1e-12).sqrt() for p in (points_canonical, points_posed)
    )
    return (before - after).abs().mean()


def anisotropy(scales: Tensor, limit: float) -> Tensor:
    """Mean excess of the axis ratio of ``scales`` [N, 2] over ``limit``."""
    ratio = scales.amax(-1) / scales.amin(-1)
    return (ratio - limit).clamp_min(0).mean()


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
    return (alpha.detach() * (alpha.detach() - agreement))[1:-1, 1:-1].mean()


def depth_normals(depth: Tensor, camera: Camera) -> Tensor:
    """World normals [H, W, 3] towards the camera from camera-z ``depth`` [H, W]; central differences, border zero."""
    _, directions = camera.all_rays()
    forward = camera.camera_from_world[2, :3]
    points = directions * (depth / (directions @ forward))[..., None]
    vertical = points[2:, 1:-1] - points[:-2, 1:-1]
    horizontal = points[1:-1, 2:] - points[1:-1, :-2]
    # Rows run down and columns right, so down x right points back at the viewer.
    normals = functional.normalize(torch.linalg.cross(vertical, horizontal), dim=-1, eps=1e-12)
    return functional.pad(normals, (0, 0, 1, 1, 1, 1))


def material_variation(materials: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Edge-aware variation of ``materials`` [H, W, C]: squared differences x exp(-mean |image difference|) x mask."""

    def along(dim: int) -> Tensor:
        size = materials.shape[dim] - 1
        first, second = ([x.narrow(dim, start, size) for x in (materials, image, mask)] for start in (0, 1))
        edge = torch.exp(-(first[1] - second[1]).abs().mean(-1))
        return ((first[0] - second[0]).square().sum(-1) * edge * first[2] * second[2]).mean()

    return along(0) + along(1)


def lambertian(roughness: Tensor, metallic: Tensor) -> Tensor:
    """Prior towards rough dielectrics: mean(1 - roughness) + mean(metallic)."""
    return (1 - roughness).mean() + metallic.mean()
