"""Reference of :mod:`gs_ir.probes`."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gs_ir.reference.spherical_harmonics import basis

FACING_RAMP = 4.0
"""Slope with which a probe inside the part starts to count as it moves in front of the tangent plane."""
MIN_WEIGHT = 1e-6
"""Sum of trilinear weights below which the probes that count say nothing."""
CORNERS = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 1), (1, 1, 1))


def query_volume(
    coefficients: Tensor, shape: Tensor, origin: Tensor, cell: float, points: Tensor, normals: Tensor, *, rule: str
) -> Tensor:
    """Visibility [N] from one part's probes [X Y Z, 9] at ``points`` and ``normals`` [N, 3] in the part's frame.

    ``rule``: ``own`` weights the probes outside the part that lie in front of the tangent plane; ``other`` all probes
    outside and those inside that lie in front; ``published`` all that lie in front. Where nothing counts, all do.
    """
    place, last = (points - origin) / cell, shape - 1
    clamped = torch.minimum(place.clamp_min(0), last.to(place.dtype))
    lower = torch.minimum(clamped.long(), last - 1)
    fraction = clamped - lower
    harmonics = basis(normals, 2)
    chosen_sum, chosen_weight, plain_sum = points.new_zeros(3, points.shape[0])
    for offset in torch.tensor(CORNERS, device=points.device):
        corner = lower + offset
        index = (corner[:, 2] * shape[1] + corner[:, 1]) * shape[0] + corner[:, 0]
        probe = coefficients[index].to(points.dtype)
        inside = probe[:, 0] < 0
        value = (torch.cat([probe[:, :1].abs(), probe[:, 1:]], 1) * harmonics).sum(1)
        weight = torch.where(offset == 1, fraction, 1 - fraction).prod(1)
        plain_sum = plain_sum + weight * value
        weight = weight * _share((normalize(corner - clamped, dim=-1) * normals).sum(1), inside, rule)
        chosen_sum, chosen_weight = chosen_sum + weight * value, chosen_weight + weight
    enough = chosen_weight > MIN_WEIGHT
    visible = torch.where(enough, chosen_sum / chosen_weight.clamp_min(MIN_WEIGHT), plain_sum).clamp(0, 1)
    return 1 - (1 - visible) * _fade(place, clamped, last)


def _share(ahead: Tensor, inside: Tensor, rule: str) -> Tensor:
    """How much a probe counts [N], from the cosine ``ahead`` [N] between the normal and the way to it."""
    front = (ahead > 0).to(ahead.dtype)
    if rule == "own":
        return front * ~inside
    if rule == "other":
        return torch.where(inside, (FACING_RAMP * ahead).clamp(0, 1), 1)
    return front


def _fade(place: Tensor, clamped: Tensor, last: Tensor) -> Tensor:
    """(d_edge / d)**2 [N] outside the box, 1 inside; distances from the box's centre."""
    centre = last.to(place.dtype) / 2
    outside = (place != clamped).any(1)
    ratio = (clamped - centre).square().sum(1) / (place - centre).square().sum(1).clamp_min(1e-12)
    return torch.where(outside, ratio, 1)


def own_visibility(volumes: list[Tensor], cell: float, surface: list[Tensor], shift: float) -> Tensor:
    """Visibility [N] of each point of ``surface`` from the probes of its own part, in canonical space."""
    points, normals, own_part = surface
    visible = points.new_ones(points.shape[0])
    for part in range(volumes[3].shape[0]):
        value = query_volume(*_volume(volumes, part, points), cell, points + shift * normals, normals, rule="own")
        visible = torch.where(own_part == part, value, visible)
    return visible


def other_visibility(
    volumes: list[Tensor], cell: float, surface: list[Tensor], part_from_world: Tensor, shift: float, published: bool
) -> Tensor:
    """Product [N] of the visibilities that every part but the point's own leaves."""
    points, normals, own_part = surface
    rule = "published" if published else "other"
    visible = points.new_ones(points.shape[0])
    for part in range(volumes[3].shape[0]):
        rotation, translation = part_from_world[part, :, :3], part_from_world[part, :, 3]
        local_normals = normalize(normals @ rotation.T, dim=-1)
        local_points = points @ rotation.T + translation + shift * local_normals
        value = query_volume(*_volume(volumes, part, points), cell, local_points, local_normals, rule=rule)
        visible = visible * torch.where(own_part == part, 1, value)
    return visible


def _volume(volumes: list[Tensor], part: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients, shape and origin of one part."""
    coefficients, offsets, origins, shapes = volumes
    return coefficients[offsets[part] : offsets[part + 1]], shapes[part], origins[part].to(like.dtype)
