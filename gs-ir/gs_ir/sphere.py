"""Points that cover the sphere evenly."""

from functools import lru_cache
from math import pi, sqrt

import torch
from torch import Tensor


@lru_cache(maxsize=32)
def fibonacci_directions(count: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Tensor:
    """Spherical Fibonacci points [count, 3], one per equal share of the sphere; do not change them, they are kept.

    They are ordered by octant, so that neighbours are alike.
    """
    with torch.inference_mode(False):
        index = torch.arange(count, dtype=torch.float64)
        height = 1 - (2 * index + 1) / count
        angle = index * pi * (3 - sqrt(5))
        radius = (1 - height.square()).sqrt()
        points = torch.stack([radius * angle.cos(), radius * angle.sin(), height], -1)
        octant = ((points > 0) * torch.tensor([1, 2, 4])).sum(-1)
        return points[octant.argsort(stable=True)].to(device, dtype)
