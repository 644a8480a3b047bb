"""Reference of :mod:`gs_ir.probes`."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gs_ir.reference.spherical_harmonics import basis

CORNERS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 1))


def query_volume(
    coefficients: Tensor, shape: Tensor, origin: Tensor, cell: float, points: Tensor, normals: Tensor, *, masked: bool
) -> Tensor:
    """Visibility [N] from one part's probes [X Y Z, 9] at ``points`` and ``normals`` [N, 3] in the part's frame."""
    place, last = (points - origin) / cell, shape - 1
    inside = torch.minimum(place.clamp_min(0), last.to(place.dtype))
    lower = torch.minimum(inside.long(), last - 1)
    fraction = inside - lower
    harmonics = basis(normals, 2)
    open_sum, open_weight, any_sum, any_weight = points.new_zeros(4, points.shape[0])
    for offset in torch.tensor(CORNERS, device=points.device):
        corner = lower + offset
        index = (corner[:, 2] * shape[1] + corner[:, 1]) * shape[0] + corner[:, 0]
        probe = coefficients[index].to(points.dtype)
        valid = ~probe[:, 0].isnan()
        weight = torch.where(offset == 1, fraction, 1 - fraction).prod(1) * valid
        value = torch.where(valid, (probe.nan_to_num() * harmonics).sum(1), 0)
        any_sum, any_weight = any_sum + weight * value, any_weight + weight
        weight = weight * (((corner - inside) * normals).sum(1) > 0)
        open_sum, open_weight = open_sum + weight * value, open_weight + weight
    use_open = (open_weight > 0) & masked
    total, weight = torch.where(use_open, open_sum, any_sum), torch.where(use_open, open_weight, any_weight)
    visible = torch.where(weight > 0, total / weight.clamp_min(1e-12), 0).clamp(0, 1)
    return 1 - (1 - visible) * _fade(place, inside, last)


def _fade(place: Tensor, inside: Tensor, last: Tensor) -> Tensor:
    """(d_edge / d)**2 [N] outside the box, 1 inside; distances from the box's centre."""
    centre = last.to(place.dtype) / 2
    outside = (place != inside).any(1)
    ratio = (inside - centre).square().sum(1) / (place - centre).square().sum(1).clamp_min(1e-12)
    return torch.where(outside, ratio, 1)


def query_own_probes(
    coefficients: Tensor,
    offsets: Tensor,
    origins: Tensor,
    shapes: Tensor,
    cell: float,
    points: Tensor,
    normals: Tensor,
    own_part: Tensor,
    shift: float,
) -> Tensor:
    """Visibility [N] of each point from the probes of its own part, in canonical space."""
    visible = points.new_ones(points.shape[0])
    for part in range(origins.shape[0]):
        volume = (coefficients[offsets[part] : offsets[part + 1]], shapes[part], origins[part].to(points.dtype), cell)
        value = query_volume(*volume, points + shift * normals, normals, masked=True)
        visible = torch.where(own_part == part, value, visible)
    return visible


def query_other_probes(
    coefficients: Tensor,
    offsets: Tensor,
    origins: Tensor,
    shapes: Tensor,
    cell: float,
    points: Tensor,
    normals: Tensor,
    own_part: Tensor,
    part_from_world: Tensor,
    shift: float,
    masked: bool,
) -> Tensor:
    """Product [N] of the visibilities from every part but the point's own."""
    visible = points.new_ones(points.shape[0])
    for part in range(origins.shape[0]):
        rotation, translation = part_from_world[part, :, :3], part_from_world[part, :, 3]
        local_normals = normalize(normals @ rotation.T, dim=-1)
        local_points = points @ rotation.T + translation + shift * local_normals
        volume = (coefficients[offsets[part] : offsets[part + 1]], shapes[part], origins[part].to(points.dtype), cell)
        value = query_volume(*volume, local_points, local_normals, masked=masked)
        visible = visible * torch.where(own_part == part, 1, value)
    return visible
