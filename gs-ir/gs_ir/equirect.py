"""Equirectangular environment images in the project's orientation.

World axes are OpenCV's (x right, y down, z forward). The top row is up (world -y), the centre column is +z, columns
grow towards +x. Plain PyTorch: no native kernel.
"""

from math import pi

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


def direction_to_uv(directions: Tensor) -> Tensor:
    """Image coordinates [..., 2] in [0, 1] (u to the right, v down) of unit world ``directions`` [..., 3]."""
    x, y, z = directions.unbind(-1)
    return torch.stack([torch.atan2(x, z) / (2 * pi) + 0.5, torch.asin(y.clamp(-1, 1)) / pi + 0.5], -1)


def uv_to_direction(uv: Tensor) -> Tensor:
    """Unit world directions [..., 3] of image coordinates ``uv`` [..., 2] in [0, 1]."""
    longitude, latitude = 2 * pi * (uv[..., 0] - 0.5), pi * (uv[..., 1] - 0.5)
    horizontal = latitude.cos()
    return torch.stack([longitude.sin() * horizontal, latitude.sin(), longitude.cos() * horizontal], -1)


def texel_uv(height: int, width: int, like: Tensor) -> Tensor:
    """Centres [H, W, 2] of the texels, with dtype and device of ``like``."""
    rows = (torch.arange(height, dtype=like.dtype, device=like.device) + 0.5) / height
    columns = (torch.arange(width, dtype=like.dtype, device=like.device) + 0.5) / width
    v, u = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([u, v], -1)


def row_solid_angles(height: int, width: int, like: Tensor) -> Tensor:
    """Exact solid angle [H] in steradians of one texel of each row; W times their sum is 4 pi."""
    edges = torch.arange(height + 1, dtype=torch.float64, device=like.device) / height
    return (-(pi * edges).cos().diff() * (2 * pi / width)).to(like.dtype)


def sample_equirect(image: Tensor, uv: Tensor) -> Tensor:
    """Bilinear radiance [..., C] of ``image`` [H, W, C] at ``uv`` [..., 2]; differentiable in both.

    Texel centres are at (i + 0.5) / W; columns wrap around, rows continue across the poles.
    """
    height, width, channels = image.shape
    opposite = width // 2
    tall = torch.cat([image[:1].roll(opposite, 1), image, image[-1:].roll(opposite, 1)], 0)
    padded = torch.cat([tall[:, -1:], tall, tall[:, :1]], 1)
    # Sizes as numbers: a tensor of them would be copied to the device, and the copy waits for it.
    x, y = (2 * (uv[..., i] * size + 1) / (size + 2) - 1 for i, size in enumerate((width, height)))
    flat = torch.stack([x, y], -1).reshape(1, 1, -1, 2)
    sampled = grid_sample(padded.permute(2, 0, 1)[None], flat, padding_mode="border", align_corners=False)
    return sampled.reshape(channels, -1).T.reshape(*uv.shape[:-1], channels)


def shrink(image: Tensor, factor: int) -> Tensor:
    """Average ``factor`` x ``factor`` texels, weighted by solid angle: the light's energy is kept. [H/f, W/f, C]."""
    height, width, channels = image.shape
    weights = row_solid_angles(height, width, image).reshape(-1, factor, 1, 1, 1)
    blocks = image.reshape(height // factor, factor, width // factor, factor, channels)
    return (blocks * weights).sum((1, 3)) / (weights.sum(1).reshape(-1, 1, 1) * factor)
