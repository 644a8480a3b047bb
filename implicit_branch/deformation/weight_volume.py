"""Skinning weights as a volume over canonical space (fast-SNARF, Chen et al. 2023)."""

import torch
from torch import Tensor

from gs_ir.nearest import nearest_neighbours

PADDING = 0.15
"""Metres between the body and each side of the volume: room for hair and loose clothing."""
NEIGHBOURS = 30
SWEEPS = 30
STRENGTH = 0.3
REFERENCE_VOXEL = 0.016
"""Edge in metres at which ``SWEEPS`` is meant; smoothing reaches as far in metres at other sizes."""


def volume_box(vertices: Tensor, padding: float = PADDING) -> Tensor:
    """[2, 3] the box of ``vertices`` [V, 3] grown by ``padding`` metres on every side."""
    return torch.stack([vertices.amin(0) - padding, vertices.amax(0) + padding])


def lattice(box: Tensor, voxel: float) -> Tensor:
    """Nodes [Z, Y, X, 3] of a lattice over ``box`` [2, 3], corners included, edges of at most ``voxel`` metres."""
    counts = (((box[1] - box[0]) / voxel).ceil().long() + 1).tolist()
    axes = [torch.linspace(0, 1, n, device=box.device, dtype=box.dtype) for n in counts]
    z, y, x = torch.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    return box[0] + torch.stack([x, y, z], -1) * (box[1] - box[0])


def build_weight_volume(vertices: Tensor, weights: Tensor, box: Tensor, voxel: float) -> Tensor:
    """Diffuse per-vertex skinning weights into space.

    Each node blends its 30 nearest vertices by inverse distance; sweeps of a six-neighbour average then remove the
    seams between body parts, and the weights are normalised again.

    Args:
        vertices: [V, 3] canonical, metres.
        weights: [V, J].
        box: [2, 3].
        voxel: edge of a voxel in metres.

    Returns:
        [Z, Y, X, J], sums of 1.
    """
    nodes = lattice(box, voxel)
    squared, index = nearest_neighbours(nodes.reshape(-1, 3), vertices, min(NEIGHBOURS, len(vertices)))
    inverse = 1 / squared.sqrt().clamp(1e-4, 1.0)
    inverse = inverse / inverse.sum(1, keepdim=True)
    volume = torch.stack([(inverse * weights[:, joint][index]).sum(1) for joint in range(weights.shape[1])], -1)
    volume = volume.reshape(*nodes.shape[:3], -1)
    # Diffusion spreads with the square root of the number of sweeps, in voxels.
    for _ in range(max(1, round(SWEEPS * (REFERENCE_VOXEL / voxel) ** 2))):
        volume = _smoothed(volume)
    return volume / volume.sum(-1, keepdim=True)


def _smoothed(volume: Tensor) -> Tensor:
    inner = (slice(1, -1),) * 3
    total = sum(
        volume[tuple(slice(1 + shift * (axis == a), volume.shape[a] - 1 + shift * (axis == a)) for a in range(3))]
        for axis in range(3)
        for shift in (-1, 1)
    )
    smoothed = volume.clone()
    smoothed[inner] = (1 - STRENGTH) * volume[inner] + STRENGTH / 6 * total
    return smoothed
