"""A hash grid and the small network on it in one kernel: values only, where no gradient is needed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gs_ir._library import define
from gs_ir.hash_grid import HashGridLayout
from gs_ir.mlp import fits
from gs_ir.reference import mlp as reference

FEATURES, MAX_LEVELS = 2, 32

define(
    "field_values",
    "(Tensor points, Tensor table, Tensor? compact, int[] resolutions, int[] offsets, int active_levels, *,"
    " Tensor[] layers, bool smooth) -> Tensor",
    reference.field_values,
)


def _on_cpu(points, table, compact, resolutions, offsets, active_levels, *, layers, smooth):
    """The encoding's kernel and plain layers."""
    grid = (resolutions, offsets, active_levels)
    features = torch.ops.gs_ir.hash_encode(points, table, compact, *grid, moving=False)
    return reference.mlp([2 * points - 1, features], layers, smooth)


torch.library.impl("gs_ir::field_values", "CPU", _on_cpu)


def field_fits(layout: HashGridLayout, layers: Sequence[Tensor]) -> bool:
    """Whether :func:`field_values` takes a network of ``layers`` on a grid of ``layout``."""
    return layout.features == FEATURES and layout.levels <= MAX_LEVELS and fits(layers)


@torch.no_grad()
def field_values(
    points: Tensor,
    table: Tensor,
    layout: HashGridLayout,
    layers: Sequence[Tensor],
    *,
    smooth: bool,
    active_levels: int | None = None,
    compact: Tensor | None = None,
) -> Tensor:
    """Outputs of the network on [2 points - 1, features of the grid]. No gradient.

    Args:
        points: [N, 3] in the unit cube (features are those of points clamped to it).
        table: [layout.entries, 2].
        layout: shape of the grid.
        layers: as :func:`gs_ir.mlp.mlp` takes them, of 3 + L*F inputs.
        smooth: activations are softplus(100 x) / 100, else ReLU.
        active_levels: levels from this one on give zeros (all are active by default).
        compact: half-precision copy of ``table`` that is read in its place.

    Returns:
        [N, O]

    Raises:
        ValueError: grid, network or precision are not those of the kernel; see :func:`field_fits`.
    """
    expected = 3 + layout.width
    if not field_fits(layout, layers) or layers[0].shape[1] != expected or points.dtype != torch.float32:
        raise ValueError(f"field_values: float32, 2 features and a 64-wide network of {expected} inputs expected")
    if points.shape[1:] != (3,) or table.shape != (layout.entries, layout.features):
        raise ValueError(f"field_values: points [N, 3] and a table of {layout.entries} entries expected")
    grid = layout.resolutions, layout.offsets, layout.levels if active_levels is None else active_levels
    compact = None if compact is None else compact.contiguous()
    layers = [x.contiguous() for x in layers]
    tensors = points.contiguous(), table.contiguous(), compact
    return torch.ops.gs_ir.field_values(*tensors, *grid, layers=layers, smooth=smooth)
