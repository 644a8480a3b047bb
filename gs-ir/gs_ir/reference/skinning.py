"""Reference of :mod:`gs_ir.skinning`."""

import torch
from torch import Tensor


def cell_coordinates(points: Tensor, box: Tensor, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Lattice cell of points and the position inside it.

    Args:
        points: [N, 3] x, y, z.
        box: [2, 3] positions of the first and last lattice point.
        shape: lattice points along z, y, x.

    Returns:
        Lower corner [N, 3] (int64, x y z) and fraction [N, 3] in [0, 1], clamped to the box, with zero gradient there.
    """
    last = points.new_tensor([shape[2] - 1, shape[1] - 1, shape[0] - 1])
    scaled = (points - box[0]) / (box[1] - box[0]) * last
    scaled = torch.clamp(scaled, torch.zeros_like(last), last)
    base = torch.minimum(scaled.detach().nan_to_num(0).floor(), last - 1)
    return base.long(), scaled - base


def sample_transforms(points: Tensor, volume: Tensor, box: Tensor, frame_index: Tensor) -> Tensor:
    """Trilinear lookup of ``volume`` [B, Z, Y, X, 12] at ``points`` [N, 3], [N, 3, 4]."""
    frames, nz, ny, nx, channels = volume.shape
    base, fraction = cell_coordinates(points, box.detach(), (nz, ny, nx))
    flat = volume.reshape(frames * nz * ny * nx, channels)
    first = ((frame_index * nz + base[:, 2]) * ny + base[:, 1]) * nx + base[:, 0]
    out = points.new_zeros(points.shape[0], channels)
    for dz in (0, 1):
        for dy in (0, 1):
            for dx in (0, 1):
                corner = fraction.new_tensor([dx, dy, dz])
                weight = (1 - corner + (2 * corner - 1) * fraction).prod(-1)
                out = out + weight[:, None] * flat[first + (dz * ny + dy) * nx + dx]
    return out.reshape(-1, 3, 4)


def sample_transforms_backward_points(
    grad: Tensor, points: Tensor, volume: Tensor, box: Tensor, frame_index: Tensor
) -> Tensor:
    """Gradient [N, 3] with respect to the points, for ``grad`` [N, 3, 4]."""
    with torch.enable_grad():
        leaf = points.detach().requires_grad_()
        out = sample_transforms(leaf, volume.detach(), box, frame_index)
        return torch.autograd.grad(out, leaf, grad)[0]


def sample_transforms_backward_volume(
    grad: Tensor, points: Tensor, volume: Tensor, box: Tensor, frame_index: Tensor
) -> Tensor:
    """Gradient [B, Z, Y, X, 12] with respect to the volume, for ``grad`` [N, 3, 4]."""
    with torch.enable_grad():
        leaf = volume.detach().requires_grad_()
        out = sample_transforms(points.detach(), leaf, box, frame_index)
        return torch.autograd.grad(out, leaf, grad)[0]
