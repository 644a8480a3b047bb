"""The light from far away as an equirectangular map: evaluation, sampling, density.

Orientation (see :mod:`gs_ir.equirect`): top row up = world -y, centre column +z.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from math import cos, pi, sin

import torch
from torch import Tensor

from core.errors import InputError
from gs_ir.equirect import direction_to_uv, row_solid_angles, sample_equirect, texel_uv, uv_to_direction
from gs_ir.scattering import FarLight

__all__ = ["EnvironmentMap", "direction_to_uv", "rotate_about_y", "texel_directions", "uv_to_direction"]

MIN_RELATIVE_WEIGHT = 1e-6
"""Floor of a texel's sampling weight, relative to the mean: dark texels stay reachable."""


@dataclass(frozen=True)
class EnvironmentMap:
    """Linear radiance from every direction, constant in time and position.

    ``eval`` interpolates bilinearly; ``sample`` chooses a texel by the energy that the interpolated map has inside it,
    then a direction uniformly by solid angle inside the texel, so ``pdf`` is constant per texel and its integral is 1.
    Sampling reads the image once: build a new map after changing it.

    Raises:
        InputError: the image is not [H, W, 3].
    """

    image: Tensor
    """[H, W, 3] linear radiance, at least 0."""
    angle: float = 0.0
    """Rotation in radians about world +y; the image's centre column lies at (sin angle, 0, cos angle)."""

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[-1] != 3:
            raise InputError(
                "environment map",
                found=f"an array of shape {tuple(self.image.shape)}",
                expected="linear radiance [height, width, 3]",
                next_step="Give an equirectangular RGB image.",
            )

    def rotated(self, angle: float) -> "EnvironmentMap":
        """The same light turned by ``angle`` radians about world +y (y points down); nothing is resampled."""
        turned = replace(self, angle=self.angle + angle)
        if "_distribution" in self.__dict__:
            turned.__dict__["_distribution"] = self._distribution
        return turned

    def to(self, device: torch.device | str) -> "EnvironmentMap":
        """The same light with its image on ``device``."""
        return replace(self, image=self.image.to(device))

    def eval(self, directions: Tensor) -> Tensor:
        """Linear radiance [..., 3] along unit world ``directions`` [..., 3]; differentiable in image and directions."""
        return sample_equirect(self.image, self._image_uv(directions))

    def sample(self, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """Directions by importance. No gradient.

        Args:
            uniforms: [N, 2] in [0, 1).

        Returns:
            unit world directions [N, 3] and their density [N] per solid angle.
        """
        cells = self._distribution
        height, width = cells.density.shape
        row, row_offset = _invert(cells.row_cdf, uniforms[:, 0].double(), torch.zeros_like(uniforms[:, 0]).long(), 1)
        column, column_offset = _invert(cells.column_cdf, uniforms[:, 1].double(), row, width)
        edges = -torch.cos(pi * torch.stack([row, row + 1], -1).double() / height)
        y = torch.lerp(edges[:, 0], edges[:, 1], row_offset)
        longitude = 2 * pi * ((column + column_offset) / width - 0.5) + self.angle
        radius = (1 - y * y).clamp_min(0).sqrt()
        directions = torch.stack([radius * longitude.sin(), y, radius * longitude.cos()], -1)
        return directions.to(uniforms.dtype), cells.density[row, column].to(uniforms.dtype)

    def pdf(self, directions: Tensor) -> Tensor:
        """Density [...] per solid angle with which :meth:`sample` returns unit ``directions`` [..., 3]. No gradient."""
        density = self._distribution.density
        places = self._image_uv(directions.detach()).unbind(-1)
        column, row = (
            (place * size).long().clamp(0, size - 1) for place, size in zip(places, density.shape[::-1], strict=True)
        )
        return density[row, column].to(directions.dtype)

    def far_light(self) -> FarLight:
        """The light as kernels read it. No gradient."""
        cells = self._distribution
        cosine, sine = cos(self.angle), sin(self.angle)
        tensors = [self.image.detach().contiguous(), cells.row_cdf, cells.column_cdf, cells.density]
        return FarLight(tensors, (cosine, 0, -sine, 0, 1, 0, sine, 0, cosine))

    def _image_uv(self, directions: Tensor) -> Tensor:
        if self.angle == 0:
            return direction_to_uv(directions)
        return direction_to_uv(rotate_about_y(directions, -self.angle))

    @cached_property
    def _distribution(self) -> "_Distribution":
        return _Distribution.of(self.image.detach())


@dataclass(frozen=True)
class _Distribution:
    """Cumulative energy of the texels, float64: rows, and columns within each row."""

    row_cdf: Tensor
    """[H]"""
    column_cdf: Tensor
    """[H * W]; entry of row r plus r, so that the whole array ascends and one binary search serves every row."""
    density: Tensor
    """[H, W] per solid angle."""

    @classmethod
    def of(cls, image: Tensor) -> "_Distribution":
        solid_angles = row_solid_angles(image.shape[0], image.shape[1], image.double())[:, None]
        weights = _mean_over_cell(image.amax(-1).clamp_min(0).double()) * solid_angles
        weights = weights + MIN_RELATIVE_WEIGHT * (weights.sum() / (4 * pi) + 1e-30) * solid_angles
        density = weights / (weights.sum() * solid_angles)
        rows = weights.sum(1)
        columns = (weights.cumsum(1) / rows[:, None]).clamp_max(1)
        columns[:, -1] = 1
        columns = columns + torch.arange(len(rows), device=rows.device)[:, None]
        row_cdf = rows.cumsum(0) / rows.sum()
        row_cdf[-1] = 1
        return cls(row_cdf, columns.reshape(-1), density.to(image.dtype))


def _mean_over_cell(image: Tensor) -> Tensor:
    """Mean of the bilinear interpolant over each texel [H, W]: the tent filter (1, 6, 1) / 8 along both axes."""
    wide = torch.cat([image[:, -1:], image, image[:, :1]], 1)
    across = (wide[:, :-2] + 6 * wide[:, 1:-1] + wide[:, 2:]) / 8
    opposite = image.shape[1] // 2
    tall = torch.cat([across[:1].roll(opposite, 1), across, across[-1:].roll(opposite, 1)], 0)
    return (tall[:-2] + 6 * tall[1:-1] + tall[2:]) / 8


def _invert(cdf: Tensor, uniforms: Tensor, row: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Entry of each ``uniform`` within ``row`` of the cumulative table, and its fractional place inside the entry."""
    width = cdf.shape[0] if width == 1 else width
    found = torch.searchsorted(cdf, uniforms + row, right=True).clamp(max=cdf.shape[0] - 1)
    entry = torch.minimum(torch.maximum(found - row * width, torch.zeros_like(row)), torch.full_like(row, width - 1))
    index = row * width + entry
    below = torch.where(entry > 0, cdf[(index - 1).clamp_min(0)], row.to(cdf.dtype))
    offset = (uniforms + row - below) / (cdf[index] - below).clamp_min(1e-300)
    return entry, offset.clamp(0, 1)


def rotate_about_y(directions: Tensor, angle: float | Tensor) -> Tensor:
    """``directions`` [..., 3] turned by ``angle`` radians about world +y: +z moves towards +x."""
    angle = torch.as_tensor(angle, dtype=directions.dtype, device=directions.device)
    x, y, z = directions.unbind(-1)
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([cosine * x + sine * z, y, cosine * z - sine * x], -1)


def texel_directions(height: int, width: int, like: Tensor) -> Tensor:
    """Unit world directions [H, W, 3] of the texel centres, with dtype and device of ``like``.

    ``light(texel_directions(...))`` renders any light as an environment image in the project's orientation.
    """
    return uv_to_direction(texel_uv(height, width, like))
