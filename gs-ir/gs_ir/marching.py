"""Samples along rays: marching through occupied cells, importance resampling, compositing weights.

The samples of all rays lie one after another as in :mod:`gs_ir.packed`. Depth ``t`` counts multiples of the ray's
direction: metres when directions have unit length.

How many samples there are depends on the data, so a GPU's host waits to size the outputs. Where a ``capacity`` is given
it does not: the outputs have that length, rows behind the last ray's samples are intervals of ray 0 without length, and
rays that do not fit whole have no samples.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gs_ir._library import define, define_backward
from gs_ir.reference import marching as reference

define(
    "march",
    "(Tensor origins, Tensor directions, Tensor occupancy, Tensor boxes, Tensor frame_index, *, float step, "
    "Tensor jitter, int capacity=0) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference.march,
)
define(
    "resample",
    "(Tensor t_starts, Tensor t_ends, Tensor packed_info, Tensor weights, Tensor positions) -> (Tensor, Tensor)",
    reference.resample,
)
define(
    "insert_samples",
    "(Tensor t_starts, Tensor t_ends, Tensor packed_info, Tensor t, Tensor interval, int capacity=0) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    reference.insert_samples,
)
define("render_weights", "(Tensor alphas, Tensor packed_info) -> Tensor", reference.render_weights)
define_backward(
    "render_weights_backward", "(Tensor grad, Tensor alphas, Tensor packed_info) -> Tensor", reference.render_weights
)


@torch.library.register_fake("gs_ir::render_weights")
def _(alphas: Tensor, packed_info: Tensor) -> Tensor:
    return torch.empty_like(alphas)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
    return torch.ops.gs_ir.render_weights_backward(grad.contiguous(), *ctx.saved_tensors), None


torch.library.register_autograd("gs_ir::render_weights", _backward, setup_context=_save)


@dataclass(frozen=True)
class RaySamples:
    """Intervals of all rays, ray by ray, near to far.

    Attributes:
        t_starts: [S] depth where an interval opens.
        t_ends: [S] depth where it closes.
        ray_indices: [S] int64, ascending.
        packed_info: [R, 2] int64, first interval and number of intervals of each ray.
        total: [] int64, number of intervals that the rays have, those that did not fit included; None where all fit
            by construction.
    """

    t_starts: Tensor
    t_ends: Tensor
    ray_indices: Tensor
    packed_info: Tensor
    total: Tensor | None = None

    @property
    def midpoints(self) -> Tensor:
        """[S] depth of the interval's middle."""
        return torch.lerp(self.t_starts, self.t_ends, 0.5)


@torch.no_grad()
def march(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor,
    boxes: Tensor,
    frame_index: Tensor,
    *,
    step: float,
    jitter: Tensor,
    capacity: int = 0,
) -> RaySamples:
    """Intervals of equal length through the occupied cells of each ray's frame.

    A ray carries the lattice of intervals [(k + jitter) step, (k + 1 + jitter) step], k = 0, 1, ...; those are kept
    whose midpoint lies in an occupied cell. Cells split the frame's box evenly.

    Args:
        origins: [R, 3].
        directions: [R, 3].
        occupancy: [B, Z, Y, X] uint8, zero marks an empty cell.
        boxes: [B, 2, 3] lowest and highest corner of each frame's grid.
        frame_index: [R] int64, the ray's frame in 0..B-1.
        step: length of an interval.
        jitter: [R] in [0, 1), shift of the lattice in steps.
        capacity: number of intervals returned, see above; 0: as many as there are.

    Returns:
        The kept intervals in order. Not differentiable.

    Raises:
        ValueError: shapes disagree or ``step`` is not positive.
    """
    rays = origins.shape[0]
    if origins.shape != directions.shape or origins.shape != (rays, 3):
        raise ValueError(f"march: two [R, 3] expected, found {tuple(origins.shape)} and {tuple(directions.shape)}")
    if occupancy.ndim != 4 or occupancy.dtype != torch.uint8 or boxes.shape != (occupancy.shape[0], 2, 3):
        found = f"{occupancy.dtype} {tuple(occupancy.shape)} and {tuple(boxes.shape)}"
        raise ValueError(f"march: occupancy [B, Z, Y, X] uint8 and boxes [B, 2, 3] expected, found {found}")
    if frame_index.shape != (rays,) or jitter.shape != (rays,):
        found = f"{tuple(frame_index.shape)} and {tuple(jitter.shape)}"
        raise ValueError(f"march: frame_index and jitter [{rays}] expected, found {found}")
    if not step > 0:
        raise ValueError(f"march: positive step expected, found {step}")
    arguments = (origins.contiguous(), directions.contiguous(), occupancy.contiguous(), boxes.contiguous())
    keywords = {"step": step, "jitter": jitter.contiguous(), "capacity": capacity}
    return RaySamples(*torch.ops.gs_ir.march(*arguments, frame_index.contiguous(), **keywords))


@torch.no_grad()
def resample(
    samples: RaySamples, weights: Tensor, count: int, positions: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Depths distributed like the compositing weights, by inversion of their CDF.

    What the weights of a ray lack to one is the probability of a background bin behind its last interval; weights
    that sum to more than one are divided by their sum. Within an interval the density is constant.

    Args:
        samples: S intervals of R rays.
        weights: [S], not negative.
        count: draws K per ray.
        positions: [R, K] or [1, K] in [0, 1), where the CDF is inverted; the strata's centres (k + 1/2) / K by
            default. Any order is right, ascending is fast.

    Returns:
        t [R, K], and interval [R, K] int64, the index of the drawn interval among all S. The background is interval
        -1 with t = 0. Not differentiable.

    Raises:
        ValueError: shapes disagree.
    """
    if weights.shape != samples.t_starts.shape:
        found = f"{tuple(weights.shape)} for {tuple(samples.t_starts.shape)} intervals"
        raise ValueError(f"resample: one weight per interval expected, found {found}")
    if positions is None:
        positions = ((torch.arange(count, device=weights.device, dtype=weights.dtype) + 0.5) / count)[None]
    elif positions.shape not in ((samples.packed_info.shape[0], count), (1, count)):
        raise ValueError(f"resample: positions [R, {count}] expected, found {tuple(positions.shape)}")
    arguments = (samples.t_starts, samples.t_ends, samples.packed_info, weights.contiguous())
    return torch.ops.gs_ir.resample(*arguments, positions.contiguous())


@torch.no_grad()
def insert_samples(samples: RaySamples, t: Tensor, interval: Tensor, capacity: int = 0) -> RaySamples:
    """Cut intervals at drawn depths: every draw outside of the background adds one interval to its ray.

    Args:
        samples: S intervals of R rays.
        t: [R, K] depths, ascending along each ray as :func:`resample` returns them for ascending positions.
        interval: [R, K] int64, the interval that each depth lies in, -1 for draws to ignore.
        capacity: number of intervals returned, see above; 0: as many as there are.

    Returns:
        The refined intervals in order; their union is unchanged. Not differentiable.

    Raises:
        ValueError: shapes disagree.
    """
    if t.shape != interval.shape or t.ndim != 2 or t.shape[0] != samples.packed_info.shape[0]:
        found = f"{tuple(t.shape)} and {tuple(interval.shape)}"
        raise ValueError(f"insert_samples: t and interval [R, K] expected, found {found}")
    arguments = (samples.t_starts, samples.t_ends, samples.packed_info, t.contiguous(), interval.contiguous())
    return RaySamples(*torch.ops.gs_ir.insert_samples(*arguments, capacity))


def render_weights(alphas: Tensor, packed_info: Tensor) -> Tensor:
    """Compositing weights w_i = alpha_i prod_{j<i} (1 - alpha_j) along each ray (Max 1995).

    Args:
        alphas: [S] in [0, 1].
        packed_info: [R, 2] int64, first sample and count of each ray.

    Returns:
        [S], zero for rows of no ray; differentiable in ``alphas`` (also at alpha = 1).

    Raises:
        ValueError: ``alphas`` is not one-dimensional.
    """
    if alphas.ndim != 1:
        raise ValueError(f"render_weights: alphas [S] expected, found {tuple(alphas.shape)}")
    return torch.ops.gs_ir.render_weights(alphas.contiguous(), packed_info)
