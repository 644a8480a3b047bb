"""Reference of :mod:`gs_ir.marching`: every step of every ray is tested, rays are padded to equal length."""

import torch
from torch import Tensor

from gs_ir.reference.packed import ray_of_sample


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Starts [S], ends [S], rays [S], packed_info [R, 2] and number of steps whose midpoint is in an occupied cell."""
    box = boxes[frame_index]
    far = _box_exit(origins, directions, box)
    steps = int((far / step).max().ceil().clamp(min=0)) if far.numel() else 0
    index = torch.arange(steps, device=origins.device, dtype=origins.dtype)
    middle = (index + jitter[:, None] + 0.5) * step
    points = origins[:, None] + directions[:, None] * middle[..., None]
    shape = torch.tensor(occupancy.shape[:0:-1], device=origins.device)
    cell = ((points - box[:, None, 0]) * (shape / (box[:, 1] - box[:, 0]))[:, None]).floor().long()
    inside = ((cell >= 0) & (cell < shape)).all(-1) & (middle <= far[:, None])
    x, y, z = torch.where(inside[..., None], cell, 0).unbind(-1)
    occupied = inside & (occupancy[frame_index[:, None], z, y, x] > 0)
    rays, hit = occupied.nonzero(as_tuple=True)
    offset = hit.to(origins.dtype) + jitter[rays]
    return fit(offset * step, (offset + 1) * step, rays, pack(occupied.sum(1)), capacity)


def pack(counts: Tensor) -> Tensor:
    """``packed_info`` [R, 2] (first sample, count) of rays with ``counts`` [R] samples."""
    return torch.stack([counts.cumsum(0) - counts, counts], 1)


def fit(
    starts: Tensor, ends: Tensor, rays: Tensor, packed_info: Tensor, capacity: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The intervals as a list of ``capacity`` (0: as long as needed): rays that do not fit whole are left out."""
    total = packed_info[:, 1].sum()
    if capacity == 0:
        return starts, ends, rays, packed_info, total
    fits = packed_info.sum(1) <= capacity
    counts = torch.where(fits, packed_info[:, 1], 0)
    used = int(counts.sum())
    starts, ends, rays = (torch.cat([x[:used], x.new_zeros(capacity - used)]) for x in (starts, ends, rays))
    first = torch.where(fits, packed_info[:, 0], capacity)
    return starts, ends, rays, torch.stack([first, counts], 1), total


def resample(
    t_starts: Tensor, t_ends: Tensor, packed_info: Tensor, weights: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """Depths [R, K] and intervals [R, K] (-1: background) where the CDF of ``weights`` reaches ``positions`` [R, K]."""
    padded, rays, column, rows = _pad(weights, packed_info, 0)
    upper = padded.cumsum(1)
    upper = upper / upper[:, -1:].clamp(min=1) if upper.shape[1] else upper
    positions = positions.expand(packed_info.shape[0], -1).contiguous()
    local = torch.searchsorted(upper, positions, right=True)
    found = local < packed_info[:, 1:]
    interval = torch.where(found, packed_info[:, :1] + local, -1)
    if not weights.numel():
        return torch.zeros_like(positions), interval
    high, low = torch.zeros_like(weights), torch.zeros_like(weights)
    high[rows] = upper[rays, column]
    low[rows] = torch.where(column > 0, upper[rays, column - 1], 0)
    sample = interval.clamp(min=0)
    share = (positions - low[sample]) / (high - low)[sample]
    t = t_starts[sample] + share.clamp(0, 1) * (t_ends - t_starts)[sample]
    return torch.where(found, t, 0), interval


def insert_samples(
    t_starts: Tensor, t_ends: Tensor, packed_info: Tensor, t: Tensor, interval: Tensor, capacity: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The intervals of :func:`march` cut at the depths ``t`` [R, K]; starts, ends, rays, packed_info and number."""
    used = int(packed_info[:, 1].sum())
    t_starts, t_ends = t_starts[:used], t_ends[:used]
    rays = ray_of_sample(packed_info, used)
    drawn = interval >= 0
    source = torch.cat([torch.arange(t_starts.shape[0], device=t.device), interval[drawn]])
    cuts = torch.minimum(torch.maximum(t[drawn], t_starts[interval[drawn]]), t_ends[interval[drawn]])
    starts = torch.cat([t_starts, cuts])
    order = starts.argsort(stable=True)
    order = order[source[order].argsort(stable=True)]
    starts, source = starts[order], source[order]
    continues = torch.zeros_like(source, dtype=torch.bool)
    continues[:-1] = source[1:] == source[:-1]
    ends = torch.where(continues, starts.roll(-1), t_ends[source])
    return fit(starts, ends, rays[source], pack(packed_info[:, 1] + drawn.sum(1)), capacity)


def render_weights(alphas: Tensor, packed_info: Tensor) -> Tensor:
    """Compositing weights [S]: alpha times the transmittance of the ray's samples before."""
    clear, rays, column, rows = _pad(1 - alphas, packed_info, 1)
    transmittance = clear.cumprod(1)
    before = torch.cat([torch.ones_like(transmittance[:, :1]), transmittance], 1)[rays, column]
    return alphas * torch.zeros_like(alphas).index_put((rows,), before)


def _box_exit(origins: Tensor, directions: Tensor, box: Tensor) -> Tensor:
    """Depth [R] where rays leave their ``box`` [R, 2, 3]; zero for rays that never leave it (no direction)."""
    slabs = (box - origins[:, None]) / directions[:, None]
    far = torch.where(directions == 0, torch.inf, slabs.amax(1)).amin(1)
    return torch.where(far.isfinite(), far, 0)


def _pad(values: Tensor, packed_info: Tensor, fill: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Values as a matrix [R, longest ray]; then for each sample of a ray its row and column there, and its own number.

    Samples of no ray are left out: behind the last ray, or between two of them.
    """
    first, count = packed_info.unbind(1)
    longest = int(count.max()) if len(count) else 0
    rays, column = (torch.arange(longest, device=values.device) < count[:, None]).nonzero(as_tuple=True)
    rows = first[rays] + column
    padded = values.new_full((len(count), longest), fill)
    return padded.index_put((rays, column), values[rows]), rays, column, rows
