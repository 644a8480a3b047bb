"""Reference of :mod:`gs_ir.hash_grid`: sums over the eight corners of every level's cell."""

import itertools

import torch
from torch import Tensor

PRIMES = (1, 2654435761, 805459861)
CORNERS = list(itertools.product((0, 1), (0, 1), (0, 1)))

Corner = tuple[int, int, int]


def encode(
    points: Tensor,
    table: Tensor,
    compact: Tensor | None,
    resolutions: list[int],
    offsets: list[int],
    active_levels: int,
    *,
    moving: bool,
) -> Tensor:
    """Features [N, L*F] of ``points`` [N, 3]; levels from ``active_levels`` on are zero.

    Only ``moving`` points receive gradients. Values are those of ``compact`` where it is given.
    """
    table = _values(table, compact)
    points = points if moving else points.detach()
    features = []
    for level in range(active_levels):
        cell, fraction, _ = _locate(points, resolutions[level])
        values = [
            _weight(fraction, corner)[:, None] * table[_rows(cell, corner, resolutions, offsets, level)]
            for corner in CORNERS
        ]
        features.append(torch.stack(values).sum(0))
    features.append(points.new_zeros(points.shape[0], (len(resolutions) - active_levels) * table.shape[1]))
    return torch.cat(features, 1)


def encode_with_jacobian(
    points: Tensor,
    table: Tensor,
    compact: Tensor | None,
    resolutions: list[int],
    offsets: list[int],
    active_levels: int,
    *,
    moving: bool,
) -> tuple[Tensor, Tensor]:
    """Features [N, L*F] and their derivatives by the coordinates [N, L*F, 3]."""
    table = _values(table, compact)
    features = encode(points, table, None, resolutions, offsets, active_levels, moving=moving)
    points = points if moving else points.detach()
    jacobians = []
    for level in range(active_levels):
        cell, fraction, slope = _locate(points, resolutions[level])
        terms = [
            table[_rows(cell, corner, resolutions, offsets, level)][:, :, None]
            * (_weight_gradient(fraction, corner) * slope)[:, None, :]
            for corner in CORNERS
        ]
        jacobians.append(torch.stack(terms).sum(0))
    jacobians.append(points.new_zeros(points.shape[0], (len(resolutions) - active_levels) * table.shape[1], 3))
    return features, torch.cat(jacobians, 1)


def entry_index(vertex: Tensor, resolution: int, size: int) -> Tensor:
    """Entry [...] within a level of ``size`` entries that holds the lattice ``vertex`` [..., 3] (int64)."""
    side = resolution + 1
    if side**3 <= size:
        return vertex[..., 0] + side * (vertex[..., 1] + side * vertex[..., 2])
    hashed = vertex[..., 0] * PRIMES[0] ^ vertex[..., 1] * PRIMES[1] ^ vertex[..., 2] * PRIMES[2]
    return hashed & (size - 1)


def _values(table: Tensor, compact: Tensor | None) -> Tensor:
    """``compact`` as a function of ``table`` whose derivative is one."""
    return table if compact is None else table + (compact.to(table.dtype) - table).detach()


def _locate(points: Tensor, resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cell [N, 3], position inside it [N, 3], and d position / d point [N, 3] (zero outside of the unit cube)."""
    scaled = points.clamp(0, 1) * resolution
    cell = scaled.detach().floor().clamp(max=resolution - 1)
    inside = (points >= 0) & (points <= 1)
    return cell.long(), scaled - cell, inside.to(points.dtype) * resolution


def _rows(cell: Tensor, corner: Corner, resolutions: list[int], offsets: list[int], level: int) -> Tensor:
    size = offsets[level + 1] - offsets[level]
    return offsets[level] + entry_index(cell + cell.new_tensor(corner), resolutions[level], size)


def _factors(fraction: Tensor, corner: Corner) -> list[Tensor]:
    return [fraction[:, a] if corner[a] else 1 - fraction[:, a] for a in range(3)]


def _weight(fraction: Tensor, corner: Corner) -> Tensor:
    x, y, z = _factors(fraction, corner)
    return x * y * z


def _weight_gradient(fraction: Tensor, corner: Corner) -> Tensor:
    x, y, z = _factors(fraction, corner)
    sign = fraction.new_tensor([2 * c - 1 for c in corner])
    return torch.stack([y * z, x * z, x * y], 1) * sign
