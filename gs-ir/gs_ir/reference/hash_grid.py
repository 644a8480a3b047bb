"""Reference of :mod:`gs_ir.hash_grid`: sums over the eight corners of every level's cell."""

import itertools

import torch
from torch import Tensor

PRIMES = (1, 2654435761, 805459861)
CORNERS = tuple(itertools.product((0, 1), repeat=3))


def encode(points: Tensor, table: Tensor, resolutions: list[int], offsets: list[int], active_levels: int) -> Tensor:
    """Features [N, L*F] of ``points`` [N, 3]; levels from ``active_levels`` on are zero."""
    features = [points.new_zeros(points.shape[0], len(resolutions), table.shape[1])]
    for level in range(active_levels):
        cell, fraction, _ = _locate(points, resolutions[level])
        value = 0
        for corner in CORNERS:
            entries = table[_entries(cell, corner, resolutions[level], offsets[level : level + 2])]
            value = value + _weight(fraction, corner)[:, None] * entries
        features.append(value[:, None])
    return torch.cat([*features[1:], features[0][:, active_levels:]], 1).flatten(1)


def encode_with_jacobian(
    points: Tensor, table: Tensor, resolutions: list[int], offsets: list[int], active_levels: int
) -> tuple[Tensor, Tensor]:
    """Features [N, L*F] and their derivatives by the coordinates [N, L*F, 3]."""
    jacobians = [points.new_zeros(points.shape[0], len(resolutions), table.shape[1], 3)]
    for level in range(active_levels):
        cell, fraction, slope = _locate(points, resolutions[level])
        jacobian = 0
        for corner in CORNERS:
            entries = table[_entries(cell, corner, resolutions[level], offsets[level : level + 2])]
            jacobian = jacobian + entries[:, :, None] * (_weight_gradient(fraction, corner) * slope)[:, None, :]
        jacobians.append(jacobian[:, None])
    jacobian = torch.cat([*jacobians[1:], jacobians[0][:, active_levels:]], 1).flatten(1, 2)
    return encode(points, table, resolutions, offsets, active_levels), jacobian


def entry_index(vertex: Tensor, resolution: int, size: int) -> Tensor:
    """Entry [...] within a level of ``size`` entries that holds the lattice ``vertex`` [..., 3] (int64)."""
    side = resolution + 1
    if side**3 <= size:
        return vertex[..., 0] + side * (vertex[..., 1] + side * vertex[..., 2])
    hashed = vertex[..., 0] * PRIMES[0] ^ vertex[..., 1] * PRIMES[1] ^ vertex[..., 2] * PRIMES[2]
    return hashed & (size - 1)


def _locate(points: Tensor, resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cell [N, 3], position inside it [N, 3], and d position / d point [N, 3] (zero outside of the unit cube)."""
    scaled = points.clamp(0, 1) * resolution
    cell = scaled.detach().floor().clamp(max=resolution - 1)
    inside = (points >= 0) & (points <= 1)
    return cell.long(), scaled - cell, inside.to(points.dtype) * resolution


def _entries(cell: Tensor, corner: tuple[int, int, int], resolution: int, bounds: list[int]) -> Tensor:
    vertex = cell + cell.new_tensor(corner)
    return bounds[0] + entry_index(vertex, resolution, bounds[1] - bounds[0])


def _factors(fraction: Tensor, corner: tuple[int, int, int]) -> list[Tensor]:
    return [fraction[:, a] if corner[a] else 1 - fraction[:, a] for a in range(3)]


def _weight(fraction: Tensor, corner: tuple[int, int, int]) -> Tensor:
    x, y, z = _factors(fraction, corner)
    return x * y * z


def _weight_gradient(fraction: Tensor, corner: tuple[int, int, int]) -> Tensor:
    x, y, z = _factors(fraction, corner)
    sign = fraction.new_tensor([2 * c - 1 for c in corner])
    return torch.stack([y * z, x * z, x * y], 1) * sign
