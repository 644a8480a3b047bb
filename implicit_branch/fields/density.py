"""From signed distance to volume density (VolSDF, Yariv et al. 2021)."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from implicit_branch.fields.once import Once


class LaplaceDensity(nn.Module):
    """sigma(s) = CDF of a Laplace distribution of scale beta at -s, over beta; beta is learned above a floor.

    The floor is annealed from ``floor_start`` to ``floor_end`` over the radiance stage, so that weights have
    collapsed to a surface when shading needs one.
    """

    floor: Tensor

    def __init__(self, *, beta: float = 0.3, floor_start: float = 0.05, floor_end: float = 5e-4) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.tensor(float(beta)))
        self.floor_start, self.floor_end = floor_start, floor_end
        self._kept: Once[tuple[Tensor, Tensor]] | None = None
        self.register_buffer("floor", torch.tensor(float(floor_start)))

    def anneal(self, progress: float) -> None:
        """Set the floor geometrically between its ends; ``progress`` in [0, 1]."""
        progress = min(max(progress, 0.0), 1.0)
        self.floor.fill_(self.floor_start * (self.floor_end / self.floor_start) ** progress)

    def scale(self) -> Tensor:
        """The scale beta in metres."""
        return self.beta.abs() + self.floor

    def forward(self, sdf: Tensor) -> Tensor:
        """Density [N] in 1/m of signed distances [N] in metres."""
        beta = self.scale()
        return (0.5 + 0.5 * sdf.sign() * torch.expm1(-sdf.abs() / beta)) / beta

    def alpha(self, sdf: Tensor, lengths: Tensor) -> Tensor:
        """Opacity [N] of intervals of ``lengths`` [N] in metres with the density at ``sdf`` [N]."""
        minus_inverse, half_inverse = self._factors() if self._kept is None else self._kept.get()
        signed = sdf.sign() * torch.expm1(sdf.abs() * minus_inverse)
        half = lengths * half_inverse
        return -torch.expm1(torch.addcmul(half, half, signed))

    def _factors(self) -> tuple[Tensor, Tensor]:
        minus_inverse = -1 / self.scale()
        return minus_inverse, 0.5 * minus_inverse

    @contextmanager
    def scale_once(self) -> Iterator[None]:
        """Inside, the scale is computed once; the parameter must not change."""
        self._kept = Once(self._factors)
        try:
            yield
        finally:
            self._kept = None
