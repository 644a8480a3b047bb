"""Reference of :mod:`gs_ir.surfels`.

Every pixel of a tile is tested against every surfel of the tile's list, whatever the surfels' bounding boxes say, so
that a box which is too small shows as a difference from the native kernels.
"""

import itertools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from gs_ir.reference.tiling import TILE

NEAR = 0.2
"""Metres; surfels whose centre, and intersections which, are nearer are not drawn."""
FAR = 100.0
"""Metres; with NEAR it scales the distortion's depth only."""
CUTOFF = 3.0
"""Standard deviations at which the screen-space centre and the radius are defined."""
MAX_ALPHA = 0.99
MIN_ALPHA = 1 / 255
MIN_TRANSMITTANCE = 1e-4
SCREEN_PRECISION = 2.0
"""1 / variance of the screen-space low-pass filter, in 1 / pixel^2 (sigma = sqrt(2) / 2 pixels)."""
EDGE_ON_COSINE = 1e-5
DISC_LIMIT = 2 * math.log(1 / MIN_ALPHA)
"""Squared distance u^2 + v^2 beyond which a disc of opacity 1 falls below MIN_ALPHA."""


def screen_transforms(centers: Tensor, tangents_u: Tensor, tangents_v: Tensor, screen_from_world: Tensor) -> Tensor:
    """T [N, 3, 3] with (x w, y w, w) = T (u, v, 1) for the discs' points, w the depth; camera K [R | t] [3, 4]."""
    frames = screen_from_world[:, :3] @ torch.stack([tangents_u, tangents_v, centers], -1)
    return frames + torch.nn.functional.pad(screen_from_world[:, 3:], (2, 0))


def about_center(transforms: Tensor) -> tuple[Tensor, Tensor]:
    """Where the discs' centres appear [N, 2], and rows T_u - x T_w, T_v - y T_w without their zero column [N, 2, 2]."""
    projected = transforms[:, :2, 2] / transforms[:, 2:, 2]
    return projected, transforms[:, :2, :2] - projected[:, :, None] * transforms[:, 2:, :2]


def facing(transforms: Tensor, screen_from_world: Tensor) -> Tensor:
    """(t_u x t_v) . p [N] with p the disc's centre in camera space: positive where the camera sees the back."""
    _, local = about_center(transforms)
    return torch.linalg.det(local) * transforms[:, 2, 2] / torch.linalg.det(screen_from_world[:, :3])


def disc_extent(transforms: Tensor, squared_radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bounding box on screen of the discs u^2 + v^2 <= ``squared_radius`` [N].

    From the dual conic of the disc (Weyrich et al. 2007), about the projected centre so that nothing cancels.

    Returns:
        centre offset [N, 2] from the projected disc centre and half extent [N, 2] in pixels, and whether the disc lies
        in front of the camera's plane [N]; where it does not, offset and extent are zero.
    """
    depth_row = transforms[:, 2]
    _, local = about_center(transforms)
    denominator = depth_row[:, 2] ** 2 - squared_radius * (depth_row[:, :2] ** 2).sum(1)
    in_front = denominator > 1e-6 * depth_row[:, 2] ** 2
    scale = torch.where(in_front, squared_radius / torch.where(in_front, denominator, 1), 0)[:, None]
    offset = -scale * (local * depth_row[:, None, :2]).sum(-1)
    extent = (offset**2 + scale * (local**2).sum(-1)).sqrt()
    return offset, extent, in_front


def bound(transforms: Tensor, visible: Tensor, opacities: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Pixel boxes [N, 4] int32 (x0, y0, x1, y1; half-open) and radii [N] int32 of projected discs.

    A pixel is drawn iff min(rho_disc, rho_screen) <= 2 ln(255 opacity), so the box of the disc at that radius joined
    with the low-pass filter's own is exact. A disc that crosses the camera's plane gets the whole image.
    """
    squared_radius = 2 * torch.log((opacities / MIN_ALPHA).clamp(min=1e-30))
    visible = visible & (squared_radius >= 0)
    squared_radius = squared_radius.clamp(min=0)
    projected, _ = about_center(transforms)
    offset, extent, in_front = disc_extent(transforms, squared_radius)
    filter_offset, filter_extent, inside = disc_extent(transforms, torch.full_like(squared_radius, CUTOFF**2))
    filter_radius = (squared_radius / SCREEN_PRECISION).sqrt()[:, None]
    margin = 1e-3 + 1e-4 * extent
    low = projected + torch.minimum(offset - extent, filter_offset - filter_radius) - margin
    high = projected + torch.maximum(offset + extent, filter_offset + filter_radius) + margin
    size = torch.tensor([width, height], device=low.device)
    first = torch.where(in_front[:, None], (low - 0.5).ceil(), 0).clamp(min=0).minimum(size)
    last = torch.where(in_front[:, None], (high - 0.5).floor() + 1, size).clamp(min=0).minimum(size)
    visible = visible & (last > first).all(1)
    boxes = torch.where(visible[:, None], torch.cat([first, last], 1), 0).int()
    radius = torch.where(inside, filter_extent.amax(1).clamp(min=CUTOFF / math.sqrt(SCREEN_PRECISION)), math.inf)
    radii = radius.ceil().clamp(max=max(width, height))
    return boxes, torch.where(visible, radii, 0).int()


def is_drawable(transforms: Tensor, normals: Tensor, opacities: Tensor, screen_from_world: Tensor) -> Tensor:
    """Whether [N] surfels (unnormalised ``normals`` [N, 3]) are finite, beyond the near plane and not edge-on."""
    depth = transforms[:, 2, 2]
    oblique = facing(transforms, screen_from_world).abs() > EDGE_ON_COSINE * normals.norm(dim=1) * depth
    return transforms.isfinite().all(2).all(1) & opacities.isfinite() & (depth > NEAR) & oblique


def screen_frames(
    centers: Tensor, tangents_u: Tensor, tangents_v: Tensor, screen_from_world: Tensor, drawn: Tensor
) -> tuple[Tensor, Tensor]:
    """Screen transforms [N, 9] and world normals [N, 3] facing the camera; zero where not ``drawn`` [N]."""
    drawn = drawn[:, None]
    anything = torch.eye(3, dtype=centers.dtype, device=centers.device)
    tangents_u = torch.where(drawn, tangents_u, anything[0])
    tangents_v = torch.where(drawn, tangents_v, anything[1])
    transforms = screen_transforms(centers, tangents_u, tangents_v, screen_from_world)
    away = facing(transforms, screen_from_world).detach()[:, None] > 0
    normals = torch.nn.functional.normalize(torch.linalg.cross(tangents_u, tangents_v), dim=1, eps=0)
    normals = torch.where(away, -normals, normals)
    return torch.where(drawn, transforms.reshape(-1, 9), 0), torch.where(drawn, normals, 0)


def project_surfels(
    centers: Tensor,
    tangents_u: Tensor,
    tangents_v: Tensor,
    opacities: Tensor,
    screen_from_world: Tensor,
    *,
    width: int,
    height: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Screen transforms [N, 9], world normals [N, 3], boxes and radii: see :func:`gs_ir.surfels.project_surfels`."""
    with torch.no_grad():
        transforms = screen_transforms(centers, tangents_u, tangents_v, screen_from_world)
        crossed = torch.linalg.cross(tangents_u, tangents_v)
        drawable = is_drawable(transforms, crossed, opacities, screen_from_world)
        anything = torch.eye(3, dtype=centers.dtype, device=centers.device)
        transforms = torch.where(drawable[:, None, None], transforms, anything)
        boxes, radii = bound(transforms, drawable, opacities, width, height)
    frames = screen_frames(centers, tangents_u, tangents_v, screen_from_world, radii > 0)
    return *frames, boxes, radii


class Planes(NamedTuple):
    """Inverse screen transforms: q = (0, 0, 1) + a dx + b dy gives u = q0 / q2, v = q1 / q2, z = depth / q2."""

    projected: Tensor  # [K, 2] pixels, where the disc's centre appears; (dx, dy) is counted from here
    depth: Tensor  # [K] metres
    a: Tensor  # [K, 3]
    b: Tensor  # [K, 3]
    filter_center: Tensor  # [K, 2] pixels, centre of the screen-space filter


def invert_transforms(transforms: Tensor) -> Planes:
    """Planes of ``transforms`` [K, 3, 3]: 2DGS's k x l, k = x T_w - T_u, l = y T_w - T_v, is affine in the pixel."""
    projected, local = about_center(transforms)
    local_u, local_v = torch.nn.functional.pad(local, (0, 1)).unbind(1)
    row_w = transforms[:, 2]
    determinant = torch.linalg.cross(local_u, local_v)[:, 2:]
    a = torch.linalg.cross(local_v, row_w) / determinant
    b = torch.linalg.cross(row_w, local_u) / determinant
    offset, _, _ = disc_extent(transforms, torch.full_like(row_w[:, 0], CUTOFF**2))
    return Planes(projected, row_w[:, 2], a, b, projected + offset)


def evaluate(pixels: Tensor, planes: Planes, opacities: Tensor) -> tuple[Tensor, Tensor]:
    """Opacity (zero where not drawn) and depth, both [P, K], of surfels at ``pixels`` [P, 2].

    Depth is that of the ray's intersection. Where the ray misses the disc (u^2 + v^2 > DISC_LIMIT), so that only the
    screen filter draws it, the plane may be anywhere along the ray, and the depth of the disc's centre is used.
    """
    delta = pixels[:, None] - planes.projected
    q = (delta[..., :1] * planes.a + delta[..., 1:] * planes.b).unbind(-1)
    scale = 1 + q[2]
    ahead = scale > 1e-6
    inverse = 1 / torch.where(ahead, scale, 1)
    rho_disc = torch.where(ahead, (q[0] ** 2 + q[1] ** 2) * inverse**2, math.inf)
    rho_screen = SCREEN_PRECISION * ((pixels[:, None] - planes.filter_center) ** 2).sum(-1)
    gaussian = torch.exp(-0.5 * torch.minimum(rho_disc, rho_screen))
    depth = torch.where(rho_disc <= DISC_LIMIT, planes.depth * inverse, planes.depth)
    alpha = (opacities * gaussian).clamp(max=MAX_ALPHA)
    drawn = (alpha >= MIN_ALPHA) & (depth >= NEAR)
    return torch.where(drawn, alpha, 0), depth


def composite(alpha: Tensor, depth: Tensor, values: Tensor) -> tuple[Tensor, ...]:
    """Blend ``alpha`` and ``depth`` [P, K] and ``values`` [K, C], front to back.

    Returns:
        values [P, C], alpha [P], depth [P], median depth [P] and distortion [P]
        (2DGS, Huang et al. 2024, eq. 13: sum over pairs of w_i w_j (m_i - m_j)^2).
    """
    after = torch.cumprod(1 - alpha, 1)
    before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1)
    drawn = (alpha > 0) & (after >= MIN_TRANSMITTANCE)
    weights = torch.where(drawn, alpha * before, 0)
    order = torch.arange(alpha.shape[1], device=alpha.device)
    chosen = torch.where(drawn & (before > 0.5), order, -1).amax(1)
    median = torch.where(chosen >= 0, depth.gather(1, chosen.clamp(min=0)[:, None])[:, 0], 0)
    # The pairs' differences do not depend on the origin of m; from the first surfel's, nothing cancels in float32.
    first = torch.where(drawn, order, alpha.shape[1] - 1).amin(1)
    origin = depth.gather(1, first[:, None]).detach()
    m = FAR * NEAR / (FAR - NEAR) * torch.where(drawn, depth - origin, 0) / torch.where(drawn, depth * origin, 1)
    moments = [torch.cumsum(weights * m**power, 1) - weights * m**power for power in (0, 1, 2)]
    distortion = (weights * (m**2 * moments[0] + moments[2] - 2 * m * moments[1])).sum(1)
    return weights @ values, weights.sum(1), (weights * depth).sum(1), median, distortion


def rasterize_surfels(
    transforms: Tensor,
    opacities: Tensor,
    values: Tensor,
    tile_offsets: Tensor,
    surfel_of_instance: Tensor,
    *,
    width: int,
    height: int,
) -> tuple[Tensor, ...]:
    """Images of tiled surfels: values [H, W, C], alpha, depth, median depth and distortion [H, W]."""
    columns = -(-width // TILE)
    shapes = [(values.shape[1],), (), (), (), ()]
    images = [values.new_zeros(height, width, *shape) for shape in shapes]
    for tile, (begin, end) in enumerate(itertools.pairwise(tile_offsets.tolist())):
        if begin == end:
            continue
        top, left = TILE * (tile // columns), TILE * (tile % columns)
        here = (slice(top, min(top + TILE, height)), slice(left, min(left + TILE, width)))
        axes = [torch.arange(s.start, s.stop, device=values.device, dtype=values.dtype) + 0.5 for s in here]
        rows, cols = torch.meshgrid(*axes, indexing="ij")
        members = surfel_of_instance[begin:end].long()
        planes = invert_transforms(transforms[members].reshape(-1, 3, 3))
        alpha, depth = evaluate(torch.stack([cols, rows], -1).reshape(-1, 2), planes, opacities[members])
        for image, blended in zip(images, composite(alpha, depth, values[members]), strict=True):
            image[here] = blended.reshape(*rows.shape, *blended.shape[1:])
    return tuple(images)
