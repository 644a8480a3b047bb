"""Posed to canonical: the points that skinning maps to a given posed point.

Where limbs touch or fold several canonical points share one posed point, so a query has several roots. Newton's method
with the exact Jacobian finds them from seeds: canonical body points whose posed image is near, stored per cell of a
grid around the posed body (one seed per surface sheet). A cell without seeds is empty space.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from gs_ir._library import define
from gs_ir.reference import correspondence as reference
from gs_ir.skinning import check_volume

MAX_SEEDS = 8

define(
    "build_seeds",
    "(Tensor posed, Tensor canonical, int resolution, float radius, int max_seeds) -> (Tensor, Tensor, Tensor)",
    reference.build_seeds,
)
define(
    "find_correspondences",
    "(Tensor points, Tensor frame_index, Tensor[] grid, Tensor volume, Tensor box, *,"
    " int iterations, float tolerance) -> (Tensor, Tensor, Tensor)",
    reference.find_correspondences,
)


@dataclass(frozen=True)
class SeedGrid:
    """Starting points of the search for each cell around each frame's posed body."""

    seeds: Tensor
    """[B, Z, Y, X, K, 3] canonical, metres; the first ``counts`` of the K are set."""
    counts: Tensor
    """[B, Z, Y, X] uint8; positive cells are the occupied space that ray marching visits."""
    boxes: Tensor
    """[B, 2, 3] posed corners of the grid, x y z."""


@dataclass(frozen=True)
class Correspondences:
    """Canonical points found for N posed points, K slots each. Not differentiable."""

    canonical: Tensor
    """[N, K, 3] metres; zero where not valid."""
    valid: Tensor
    """[N, K] bool."""
    jacobian: Tensor
    """[N, K, 3, 3] d posed / d canonical at the root; the identity where not valid."""


@torch.library.register_fake("gs_ir::build_seeds")
def _(posed: Tensor, canonical: Tensor, resolution: int, radius: float, max_seeds: int) -> tuple[Tensor, ...]:
    cells = (posed.shape[0], resolution, resolution, resolution)
    seeds, counts = posed.new_empty(*cells, max_seeds, 3), posed.new_empty(cells, dtype=torch.uint8)
    return seeds, counts, posed.new_empty(posed.shape[0], 2, 3)


@torch.library.register_fake("gs_ir::find_correspondences")
def _(points, frame_index, grid, volume, box, *, iterations, tolerance) -> tuple[Tensor, ...]:
    shape = (points.shape[0], grid[0].shape[-2])
    valid = points.new_empty(shape, dtype=torch.bool)
    return points.new_empty(*shape, 3), valid, points.new_empty(*shape, 3, 3)


def build_seeds(
    points_posed: Tensor, points_canonical: Tensor, resolution: int, radius: float, max_seeds: int = 3
) -> SeedGrid:
    """Bin canonical body points by where their posed images are.

    A cell within ``radius`` of a posed point gets seeds: the point nearest to its centre, then the next nearest that
    lies on another surface sheet than all seeds so far, that is more than 3 cm and more than twice their posed
    distance away in canonical space (skinning hardly compresses a sheet; a fold brings distant sheets together).

    Args:
        points_posed: [B, M, 3] metres, for example the posed body's vertices.
        points_canonical: [M, 3] the same points in canonical space.
        resolution: cells along each axis; the grid spans the posed bounding box plus ``radius``.
        radius: metres; no correspondence is found farther than this from all posed points.
        max_seeds: K, at most 8.

    Raises:
        ValueError: shapes disagree, no points, or a parameter is out of range.
    """
    if points_posed.ndim != 3 or points_posed.shape[1:] != points_canonical.shape or points_canonical.shape[1:] != (3,):
        shapes = f"{tuple(points_posed.shape)} and {tuple(points_canonical.shape)}"
        raise ValueError(f"build_seeds: points_posed [B, M, 3] and points_canonical [M, 3] expected, found {shapes}")
    if points_canonical.shape[0] == 0 or resolution < 1 or radius <= 0 or not 1 <= max_seeds <= MAX_SEEDS:
        found = f"M={points_canonical.shape[0]}, {resolution=}, {radius=}, {max_seeds=}"
        raise ValueError(
            f"build_seeds: M, resolution, radius > 0 and max_seeds 1 to {MAX_SEEDS} expected, found {found}"
        )
    posed, canonical = points_posed.detach().contiguous(), points_canonical.detach().contiguous()
    return SeedGrid(*torch.ops.gs_ir.build_seeds(posed, canonical, resolution, radius, max_seeds))


def find_correspondences(
    points: Tensor,
    frame_index: Tensor,
    grid: SeedGrid,
    volume: Tensor,
    box: Tensor,
    *,
    iterations: int = 6,
    tolerance: float = 1e-5,
) -> Correspondences:
    """Solve T(x) [x; 1] = p for every posed point p, by Newton's method from each seed of its cell.

    The Jacobian T_3x3 + dT/dx [x; 1] is exact, as in SNARF (Chen et al. 2021) but without Broyden's approximation. A
    root counts when its residual is below ``tolerance`` and it lies in ``box``; roots within 1 mm of an earlier one of
    the same point are dropped.

    Args:
        points: [N, 3] posed, metres.
        frame_index: [N] int64.
        grid: seeds of the B frames.
        volume: [B, Z, Y, X, 12] from :func:`gs_ir.skinning.blend_transforms`.
        box: [2, 3] canonical extent of ``volume``.
        iterations: Newton steps at most, at least 1.
        tolerance: metres, on the posed residual.

    Raises:
        ValueError: shapes disagree, or ``iterations`` is less than 1.
    """
    check_volume(volume, box)
    if points.ndim != 2 or points.shape[1] != 3 or frame_index.shape != points.shape[:1]:
        shapes = f"{tuple(points.shape)} and {tuple(frame_index.shape)}"
        raise ValueError(f"find_correspondences: points [N, 3] and frame_index [N] expected, found {shapes}")
    if iterations < 1:
        raise ValueError(f"find_correspondences: iterations >= 1 expected, found {iterations}")
    if volume.shape[0] != grid.counts.shape[0]:
        found = f"{grid.counts.shape[0]} and {volume.shape[0]}"
        raise ValueError(f"find_correspondences: as many frames in grid as in volume expected, found {found}")
    return Correspondences(
        *torch.ops.gs_ir.find_correspondences(
            points.detach().contiguous(),
            frame_index.contiguous(),
            [t.contiguous() for t in (grid.seeds, grid.counts, grid.boxes)],
            volume.detach().contiguous(),
            box.detach().contiguous(),
            iterations=iterations,
            tolerance=tolerance,
        )
    )
