"""Statistics of directions: does a sampler follow the density that it claims?"""

from collections.abc import Callable

import numpy as np
import torch
from scipy import stats
from torch import Tensor

SUBSAMPLES = 8
"""Quadrature points along each edge of a bin."""
MIN_EXPECTED = 5.0


def sphere_grid(rows: int, columns: int) -> tuple[Tensor, float]:
    """Directions [rows * columns, 3] at the centres of equal-area cells of (z, longitude), and a cell's solid angle."""
    z = 1 - (2 * torch.arange(rows, dtype=torch.float64) + 1) / rows
    longitude = 2 * torch.pi * (torch.arange(columns, dtype=torch.float64) + 0.5) / columns
    z, longitude = (x.reshape(-1) for x in torch.meshgrid(z, longitude, indexing="ij"))
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * longitude.cos(), radius * longitude.sin(), z], -1), 4 * torch.pi / (rows * columns)


def p_value(directions: Tensor, pdf: Callable[[Tensor], Tensor], rows: int = 16, columns: int = 32) -> float:
    """Probability that samples of density ``pdf`` [N, 3] -> [N] scatter more than ``directions`` [N, 3] do.

    Pearson's chi-square over equal-area bins of the sphere; bins that expect fewer than five samples are pooled.
    """
    grid, solid_angle = sphere_grid(rows * SUBSAMPLES, columns * SUBSAMPLES)
    density = pdf(grid).reshape(rows, SUBSAMPLES, columns, SUBSAMPLES).sum((1, 3)) * solid_angle
    expected = (density * len(directions)).reshape(-1).numpy()
    row = ((1 - directions[:, 2].double()) / 2 * rows).long().clamp(0, rows - 1)
    longitude = torch.atan2(directions[:, 1], directions[:, 0]).double() % (2 * torch.pi)
    column = (longitude / (2 * torch.pi) * columns).long().clamp(0, columns - 1)
    observed = torch.bincount(row * columns + column, minlength=rows * columns).double().numpy()
    return pooled_p_value(observed, expected)


def pooled_p_value(observed: np.ndarray, expected: np.ndarray) -> float:
    """Chi-square p-value of counts [B]; rare bins form one, and what is left to the total is a bin of its own."""
    order = np.argsort(expected)
    pooled = int(np.searchsorted(np.cumsum(expected[order]), MIN_EXPECTED)) + 1
    pooled = max(pooled, int((expected < MIN_EXPECTED).sum()))
    observed = np.append(observed[order[pooled:]], observed[order[:pooled]].sum())
    expected = np.append(expected[order[pooled:]], max(expected[order[:pooled]].sum(), 1e-3))
    statistic = ((observed - expected) ** 2 / expected).sum()
    return float(stats.chi2.sf(statistic, len(expected) - 1))
