"""Reference of :mod:`gs_ir.directional`."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gs_ir.reference.probes import CORNERS, MIN_WEIGHT, _fade, _share

DIRECTIONS = 127
UNIT = 255
"""Weights of probes are 255ths, rounded so that their sum is the rounded sum."""
MIN_LIGHT = 1e-12


def unpack_masks(masks: Tensor) -> Tensor:
    """Bits [P, 128] (bool) of ``masks`` [P, 2] (int64)."""
    bits = masks[..., None] >> torch.arange(64, device=masks.device) & 1
    return bits.reshape(masks.shape[0], 128).bool()


def pack_masks(bits: Tensor) -> Tensor:
    """Masks [P, 2] (int64) of ``bits`` [P, 128] (bool)."""
    return (bits.long().reshape(-1, 2, 64) << torch.arange(64, device=bits.device)).sum(-1)


def direction_tables(part_from_world: Tensor, directions: Tensor, baked: Tensor) -> Tensor:
    """The baked direction [K, 128] (uint8) nearest to each of ``directions`` [127, 3] in each part's frame.

    The last entry keeps the mark of probes inside in its place.
    """
    nearest = (directions @ part_from_world[:, :, :3].mT @ baked.T).argmax(-1)
    return torch.cat([nearest, torch.full_like(nearest[:, :1], DIRECTIONS)], 1).to(torch.uint8)


def turn_masks(masks: Tensor, offsets: Tensor, tables: Tensor) -> Tensor:
    """Masks [P, 2] whose bit k is bit ``tables[part, k]`` of ``masks``."""
    part = torch.bucketize(torch.arange(masks.shape[0], device=masks.device), offsets[1:], right=True)
    return _turned(masks, tables[part])


def _turned(masks: Tensor, tables: Tensor) -> Tensor:
    return pack_masks(unpack_masks(masks).gather(1, tables.long()))


def part_visibility(
    masks: Tensor, shape: Tensor, origin: Tensor, cell: float, points: Tensor, normals: Tensor
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
        chosen.append(weight * _share(ahead, bits[:, DIRECTIONS], "other"))
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
    volumes: list[Tensor], surface: list[Tensor], part_from_world: Tensor, metres: list[float]
) -> Tensor:
    """Product [N, 127] over the parts; ``volumes`` holds turned masks and the tables they were turned by."""
    points, normals, own_part, own_masks = surface
    masks, offsets, origins, shapes, tables = volumes
    cell, shift = metres
    parts = part_from_world.shape[0]
    known = ((own_part >= 0) & (own_part < parts))[:, None]
    own = unpack_masks(_turned(own_masks, tables[own_part.clamp(0, parts - 1)]))[:, :DIRECTIONS]
    visible = torch.where(known, own, True).to(points.dtype)
    for part in range(parts):
        volume = masks[offsets[part] : offsets[part + 1]], shapes[part], origins[part].to(points.dtype), cell
        rotation, translation = part_from_world[part, :, :3], part_from_world[part, :, 3]
        local_normals = normalize(normals @ rotation.T, dim=-1)
        local_points = points @ rotation.T + translation + shift * local_normals
        other = part_visibility(*volume, local_points, local_normals)
        visible = visible * torch.where((own_part == part)[:, None], 1, other)
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
    visible = directional_visibility(volumes, surface, part_from_world, metres)
    diffuse = (surface[1] @ directions.T).clamp_min(0)
    alpha_squared = roughness.pow(4).clamp_min(4 / DIRECTIONS)[:, None]
    half = 0.5 + 0.5 * lobe_directions @ directions.T
    specular = diffuse / (half * (alpha_squared - 1) + 1).square()
    sky = torch.ones_like(energies[:, :1])
    pairs = ((diffuse, sky), (diffuse, energies), (specular, energies))
    arriving = torch.cat([(weights * visible) @ energy for weights, energy in pairs], 1)
    everything = torch.cat([weights @ energy for weights, energy in pairs], 1)
    return torch.where(everything > MIN_LIGHT, arriving / everything.clamp_min(MIN_LIGHT), 1)
