"""Rasterisation of 2D Gaussian surfels (2DGS, Huang et al. 2024) with any number of feature channels in one pass."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gs_ir._library import define
from gs_ir.reference import surfels as reference
from gs_ir.tiling import tile_surfels

_RASTER_INPUTS = (
    "Tensor transforms, Tensor opacities, Tensor values, Tensor boxes, Tensor tile_offsets, Tensor surfel_of_instance"
)
_COTANGENTS = "Tensor grad_values, Tensor grad_alpha, Tensor grad_depth, Tensor grad_median, Tensor grad_distortion"


def _project_backward_default(grad_transforms, grad_normals, *inputs) -> tuple[Tensor, ...]:
    screen_from_world, radii = inputs[3:]
    with torch.enable_grad():
        leaves = centers, tangents_u, tangents_v = [x.detach().requires_grad_() for x in inputs[:3]]
        frames = reference.screen_frames(centers, tangents_u, tangents_v, screen_from_world, radii > 0)
        return torch.autograd.grad(frames, leaves, (grad_transforms, grad_normals))


def _rasterize_default(*inputs, width: int, height: int) -> tuple[Tensor, ...]:
    transforms, opacities, values, boxes, *tiles, _ = inputs
    images = reference.rasterize_surfels(transforms, opacities, values, *tiles, width=width, height=height)
    # what the native backward needs of the native forward; the reference's backward starts afresh
    return *images, values.new_empty(height, width, 4), boxes.new_empty(height, width, 2)


def _rasterize_backward_default(*arguments, width: int, height: int) -> tuple[Tensor, ...]:
    cotangents, tiles = arguments[:5], arguments[11:]
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in arguments[7:10]]
        images = reference.rasterize_surfels(*leaves, *tiles, width=width, height=height)
        drawn = [(i, c) for i, c in zip(images, cotangents, strict=True) if i.requires_grad]
        if not drawn:
            return tuple(torch.zeros_like(x) for x in leaves)
        outputs, directions = zip(*drawn, strict=True)
        return torch.autograd.grad(outputs, leaves, directions, materialize_grads=True)


define(
    "project_surfels",
    "(Tensor centers, Tensor tangents_u, Tensor tangents_v, Tensor opacities, Tensor screen_from_world, *, "
    "int width, int height) -> (Tensor, Tensor, Tensor, Tensor)",
    reference.project_surfels,
)
define(
    "project_surfels_backward",
    "(Tensor grad_transforms, Tensor grad_normals, Tensor centers, Tensor tangents_u, Tensor tangents_v, "
    "Tensor screen_from_world, Tensor radii) -> (Tensor, Tensor, Tensor)",
    _project_backward_default,
)
define(
    "rasterize_surfels",
    f"({_RASTER_INPUTS}, Tensor? screen_points, *, int width, int height)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _rasterize_default,
)
define(
    "rasterize_surfels_backward",
    f"({_COTANGENTS}, Tensor state, Tensor contributors, {_RASTER_INPUTS}, *, int width, int height)"
    " -> (Tensor, Tensor, Tensor)",
    _rasterize_backward_default,
)


@torch.library.register_fake("gs_ir::project_surfels")
def _(centers, *_, width, height):
    count = centers.shape[0]
    transforms, normals = centers.new_empty(count, 9), centers.new_empty(count, 3)
    return transforms, normals, *(centers.new_empty(shape, dtype=torch.int32) for shape in ((count, 4), (count,)))


@torch.library.register_fake("gs_ir::rasterize_surfels")
def _(transforms, opacities, values, boxes, *_, width, height):
    images = [values.new_empty(height, width, *shape) for shape in ((values.shape[1],), (), (), (), ())]
    return *images, values.new_empty(height, width, 4), boxes.new_empty(height, width, 2)


def _save_projection(ctx, inputs, keyword_only_inputs, output) -> None:
    ctx.save_for_backward(*inputs[:3], inputs[4], output[3])


def _projection_backward(ctx, grad_transforms, grad_normals, *_):
    cotangents = grad_transforms.contiguous(), grad_normals.contiguous()
    return *torch.ops.gs_ir.project_surfels_backward(*cotangents, *ctx.saved_tensors), None, None


def _save_raster(ctx, inputs, keyword_only_inputs, output) -> None:
    *tensors, screen_points = inputs
    ctx.save_for_backward(*output[5:], *tensors)
    ctx.size = keyword_only_inputs
    ctx.with_statistic = screen_points is not None


def _raster_backward(ctx, *cotangents):
    images = (x.contiguous() for x in cotangents[:5])
    gradients = torch.ops.gs_ir.rasterize_surfels_backward(*images, *ctx.saved_tensors, **ctx.size)
    statistic = None
    if ctx.with_statistic:
        transforms, by_frame = ctx.saved_tensors[2], gradients[0]
        columns = by_frame[:, 2] * (ctx.size["width"] / 2), by_frame[:, 5] * (ctx.size["height"] / 2)
        statistic = torch.stack(columns, 1) * transforms[:, 8:]
    return *gradients, None, None, None, statistic


torch.library.register_autograd("gs_ir::project_surfels", _projection_backward, setup_context=_save_projection)
torch.library.register_autograd("gs_ir::rasterize_surfels", _raster_backward, setup_context=_save_raster)


@dataclass(frozen=True)
class SurfelRaster:
    """What one pass over the surfels leaves; images are premultiplied by coverage and have no background."""

    features: Tensor
    """[H, W, C] sum of w f."""
    alpha: Tensor
    """[H, W] sum of w, coverage in [0, 1]."""
    depth: Tensor
    """[H, W] metres, sum of w z with z along the camera's axis; divide by alpha for the expected depth."""
    median_depth: Tensor
    """[H, W] metres, z of the last surfel that met a transmittance above 1/2; 0 where nothing was drawn."""
    normal: Tensor
    """[H, W, 3] sum of w n, world space, each n facing the camera."""
    distortion: Tensor
    """[H, W] sum over pairs of w_i w_j (m_i - m_j)^2, m = 100 / 99.8 (1 - 0.2 / z)."""
    radii: Tensor
    """[N] int32 pixels, half side of the 3 sigma box; 0 where the surfel was culled."""
    instances: Tensor
    """[] int32, pairs of a surfel and a tile that were listed; equal to ``capacity`` if some found no place."""


def project_surfels(
    centers: Tensor,
    tangents_u: Tensor,
    tangents_v: Tensor,
    opacities: Tensor,
    *,
    camera_from_world: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Screen transforms T with (x w, y w, w) = T (u, v, 1) of discs c + u t_u + v t_v; arguments as for rasterisation.

    Returns:
        transforms [N, 9] (rows T_u, T_v, T_w), world normals facing the camera [N, 3], exact pixel boxes [N, 4] int32
        (x0, y0, x1, y1; half-open) and radii [N] int32; all zero for culled surfels: centre nearer than 0.2 m, outside
        the image, edge-on or degenerate, opacity below 1/255, not finite. Differentiable: centres and tangents.
    """
    tensors = (centers, tangents_u, tangents_v, opacities, intrinsics @ camera_from_world[:3])
    return torch.ops.gs_ir.project_surfels(*(x.contiguous() for x in tensors), width=width, height=height)


def rasterize_surfels(
    centers: Tensor,
    tangents_u: Tensor,
    tangents_v: Tensor,
    opacities: Tensor,
    features: Tensor,
    *,
    camera_from_world: Tensor,
    intrinsics: Tensor,
    width: int,
    height: int,
    screen_points: Tensor | None = None,
    capacity: int = 0,
) -> SurfelRaster:
    """Draw surfels front to back by centre depth (2DGS, Huang et al. 2024, sections 4.2 and 5).

    A surfel is the disc c + u t_u + v t_v with Gaussian exp(-rho / 2). At a pixel centre (i + 0.5, j + 0.5),
    rho = min(u^2 + v^2, 2 d^2): the ray's intersection with the disc, or, for discs thinner than a pixel, the distance
    d in pixels from the disc's centre on screen. alpha = min(0.99, opacity exp(-rho / 2)); contributions below 1/255 or
    nearer than 0.2 m are skipped, and a pixel ends before its transmittance falls below 1e-4.

    Depth is that of the intersection. Where the ray misses the disc (its Gaussian would be below 1/255 even at opacity
    1) and the screen filter alone draws it, the centre's depth stands in: the plane of a grazing disc may be anywhere
    on such a ray.

    Args:
        centers: [N, 3] metres, world space.
        tangents_u: [N, 3] metres, world space: first axis times its standard deviation.
        tangents_v: [N, 3] metres, world space, likewise; need not be orthogonal to ``tangents_u``.
        opacities: [N] in [0, 1].
        features: [N, C] anything.
        camera_from_world: [4, 4] rigid transform, OpenCV axes.
        intrinsics: [3, 3] pixels.
        width: pixels.
        height: pixels.
        screen_points: [N, 2] zeros whose ``.grad`` receives the densification statistic, the image loss's gradient by
            the projected centre in units of half the image: (dL/dT_u.z W/2, dL/dT_v.z H/2) T_w.z.
        capacity: on a GPU, the most pairs of surfel and tile that are listed, so that the host need not wait for their
            number; 0: wait. Surfels beyond it are missing from their last tiles: compare ``instances``.

    Returns:
        The images and radii. Differentiable in the first five arguments, through every image. Which surfels a pixel
        blends, in which order, is constant; camera and intrinsics get no gradient.

    Raises:
        ValueError: shapes disagree.
    """
    _check_shapes(centers, tangents_u, tangents_v, opacities, features)
    transforms, normals, boxes, radii = project_surfels(
        centers,
        tangents_u,
        tangents_v,
        opacities,
        camera_from_world=camera_from_world,
        intrinsics=intrinsics,
        width=width,
        height=height,
    )
    offsets, members = tile_surfels(boxes, transforms[:, 8], width, height, capacity)
    values = torch.cat([features, normals], 1)
    blended, alpha, depth, median, distortion, _, _ = torch.ops.gs_ir.rasterize_surfels(
        transforms,
        opacities.contiguous(),
        values,
        boxes,
        offsets,
        members,
        screen_points,
        width=width,
        height=height,
    )
    drawn, normal = blended.split([features.shape[1], 3], -1)
    return SurfelRaster(drawn, alpha, depth, median, normal, distortion, radii, offsets[-1])


def _check_shapes(centers: Tensor, tangents_u: Tensor, tangents_v: Tensor, opacities: Tensor, features: Tensor) -> None:
    count = centers.shape[0]
    shapes = [tuple(x.shape) for x in (centers, tangents_u, tangents_v, opacities)]
    if shapes != [(count, 3)] * 3 + [(count,)] or features.ndim != 2 or features.shape[0] != count:
        found = ", ".join(map(str, [*shapes, tuple(features.shape)]))
        raise ValueError(
            f"rasterize_surfels: centers, tangents_u, tangents_v [N, 3], opacities [N], features [N, C]; found {found}"
        )
