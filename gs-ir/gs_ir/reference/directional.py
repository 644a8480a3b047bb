"""Reference of :mod:`gs_ir.directional`."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gs_ir.reference.probes import CORNERS, MIN_WEIGHT, _fade, _share

DIRECTIONS = 127
UNIT = 255
"""Weights of probes are 255ths, rounded so that their sum is the rounded sum."""
HORIZON = 0.15
"""Sine above the tangent plane below which a point's own part blocks nothing."""
MIN_LIGHT = 1e-12


def unpack_masks(masks: Tensor) -> Tensor:
    """Bits [P, 128] (bool) of ``masks`` [P, 2] (int64)."""
    bits = masks[..., None] >> torch.arange(64, device=masks.device) & 1
    return bits.reshape(masks.shape[0], 128).bool()


def pack_masks(bits: Tensor) -> Tensor:
    """Masks [P, 2] (int64) of ``bits`` [P, 128] (bool)."""
    return (bits.long().reshape(-1, 2, 64) << torch.arange(64, device=bits.device)).sum(-1)


def turn_masks(masks: Tensor, offsets: Tensor, part_from_world: Tensor, directions: Tensor, baked: Tensor) -> Tensor:
    """Masks [P, 2] whose bit k is that of the baked direction nearest to ``directions[k]`` in each part's frame."""
    turned = torch.empty_like(masks)
    for part in range(part_from_world.shape[0]):
        source = (directions @ part_from_world[part, :, :3].T @ baked.T).argmax(1)
        own = slice(int(offsets[part]), int(offsets[part + 1]))
        bits = unpack_masks(masks[own])
        turned[own] = pack_masks(torch.cat([bits[:, source], bits[:, DIRECTIONS:]], 1))
    return turned


def part_visibility(
    masks: Tensor, shape: Tensor, origin: Tensor, cell: float, points: Tensor, normals: Tensor, *, rule: str
) -> Tensor:
    """Visibility [N, 127] that one part's probes leave at ``points`` and ``normals`` [N, 3] in the part's frame."""
    place, last = (points - origin) / cell, shape - 1
    clamped = torch.minimum(place.clamp_min(0), last.to(place.dtype))
    lower = torch.minimum(clamped.long(), last - 1)
    fraction = clamped - lower
    weights, chosen, opened = [], [], []
    for offset in torch.tensor(CORNERS, device=points.device):
        corner = lower + offset
        bits = unpack_masks(masks[(corner[:, 2] * shape[1] + corner[:, 1]) * shape[0] + corner[:, 0]])
        weight = torch.where(offset == 1, fraction, 1 - fraction).prod(1)
        ahead = (normalize(corner - clamped, dim=-1) * normals).sum(1)
        weights.append(weight)
        chosen.append(weight * _share(ahead, bits[:, DIRECTIONS], rule))
        opened.append(bits[:, :DIRECTIONS])
    enough = torch.stack(chosen).sum(0) > MIN_WEIGHT
    used = torch.where(enough, torch.stack(chosen), torch.stack(weights))
    shares = _rounded(used * UNIT * _fade(place, clamped, last) / used.sum(0))
    return 1 - (shares[:, :, None] * ~torch.stack(opened)).sum(0) / UNIT


def _rounded(weights: Tensor) -> Tensor:
    """``weights`` [8, N] rounded so that every partial sum is rounded."""
    sums = (weights.cumsum(0) + 0.5).floor().clamp_max(UNIT)
    return torch.cat([sums[:1], sums.diff(dim=0)])


def directional_visibility(
    volumes: list[Tensor], surface: list[Tensor], part_from_world: Tensor, directions: Tensor, metres: list[float]
) -> Tensor:
    """Product [N, 127] over the parts; ``volumes`` holds masks in the order of ``directions`` [127, 3]."""
    points, normals, points_canonical, normals_canonical, own_part = surface
    cell, other_shift, own_shift = metres
    masks, offsets, origins, shapes = volumes
    visible = points.new_ones(points.shape[0], DIRECTIONS)
    for part in range(part_from_world.shape[0]):
        volume = masks[offsets[part] : offsets[part + 1]], shapes[part], origins[part].to(points.dtype), cell
        rotation, translation = part_from_world[part, :, :3], part_from_world[part, :, 3]
        local_normals = normalize(normals @ rotation.T, dim=-1)
        local_points = points @ rotation.T + translation + other_shift * local_normals
        other = part_visibility(*volume, local_points, local_normals, rule="other")
        shifted = points_canonical + own_shift * normals_canonical
        own = part_visibility(*volume, shifted, normals_canonical, rule="own")
        above = (normals_canonical @ rotation) @ directions.T > HORIZON
        own = torch.where(above, own, 1)
        visible = visible * torch.where((own_part == part)[:, None], own, other)
    return visible


def lobe_visibility(
    volumes: list[Tensor],
    surface: list[Tensor],
    part_from_world: Tensor,
    light: list[Tensor],
    lobes: list[Tensor],
    metres: list[float],
) -> Tensor:
    """Shares [N, 7] of the sky, of diffuse and of specular light that arrive; 1 where there is none."""
    directions, energies = light
    lobe_directions, roughness = lobes
    visible = directional_visibility(volumes, surface, part_from_world, directions, metres)
    diffuse = (surface[1] @ directions.T).clamp_min(0)
    alpha_squared = roughness.pow(4).clamp_min(4 / DIRECTIONS)[:, None]
    half = 0.5 + 0.5 * lobe_directions @ directions.T
    specular = diffuse / (half * (alpha_squared - 1) + 1).square()
    sky = torch.ones_like(energies[:, :1])
    pairs = ((diffuse, sky), (diffuse, energies), (specular, energies))
    arriving = torch.cat([(weights * visible) @ energy for weights, energy in pairs], 1)
    everything = torch.cat([weights @ energy for weights, energy in pairs], 1)
    return torch.where(everything > MIN_LIGHT, arriving / everything.clamp_min(MIN_LIGHT), 1)
