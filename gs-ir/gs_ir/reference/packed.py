"""Reference of :mod:`gs_ir.packed`."""

import torch
from torch import Tensor


def ray_of_sample(packed_info: Tensor, samples: int) -> Tensor:
    """Ray index [S] of each packed sample, from ``packed_info`` [R, 2] (first sample, count)."""
    rays = torch.arange(packed_info.shape[0], device=packed_info.device)
    return torch.repeat_interleave(rays, packed_info[:, 1], output_size=samples)


def accumulate(weights: Tensor, values: Tensor, packed_info: Tensor) -> Tensor:
    """Sum of ``weights`` [S] times ``values`` [S, C] per ray, [R, C]."""
    used = int(packed_info[:, 1].sum())  # rows behind are of no ray
    weights, values, rays = weights[:used], values[:used], ray_of_sample(packed_info, used)
    total = values.new_zeros(packed_info.shape[0], values.shape[1])
    return total.index_add(0, rays, weights[:, None] * values)
