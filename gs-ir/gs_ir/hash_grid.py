"""Multiresolution hash encoding (Müller et al. 2022, "Instant Neural Graphics Primitives", section 3).

Level l is a lattice of ``resolution + 1`` vertices a side, resolution = floor(base_resolution * growth**l) (their
equation 2), over the unit cube: vertex v sits at v / resolution, without the half-cell shift of tiny-cuda-nn. Levels
whose vertices fit the table are stored dense (x fastest), the others share 2**log2_size entries by the spatial hash
x ^ 2654435761 y ^ 805459861 z. Values between vertices are trilinear. Points outside of the cube are clamped to it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gs_ir._library import define, define_backward
from gs_ir.reference import hash_grid as reference

_ARGUMENTS = (
    "Tensor points, Tensor table, Tensor? compact, int[] resolutions, int[] offsets, int active_levels, *, bool moving"
)

define("hash_encode", f"({_ARGUMENTS}) -> Tensor", reference.encode)
define("hash_encode_jacobian", f"({_ARGUMENTS}) -> (Tensor, Tensor)", reference.encode_with_jacobian)
define_backward(
    "hash_encode_backward",
    f"(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor)",
    reference.encode,
    constant="compact",
)
define_backward(
    "hash_encode_jacobian_backward",
    f"(Tensor grad_features, Tensor grad_jacobian, {_ARGUMENTS}) -> (Tensor, Tensor)",
    reference.encode_with_jacobian,
    constant="compact",
)


@torch.library.register_fake("gs_ir::hash_encode")
def _(
    points: Tensor, table: Tensor, compact: Tensor | None, resolutions: list[int], offsets: list[int],
    active_levels: int, *, moving: bool,
) -> Tensor:  # fmt: skip
    return points.new_empty(points.shape[0], len(resolutions) * table.shape[1])


@torch.library.register_fake("gs_ir::hash_encode_jacobian")
def _(
    points: Tensor, table: Tensor, compact: Tensor | None, resolutions: list[int], offsets: list[int],
    active_levels: int, *, moving: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    width = len(resolutions) * table.shape[1]
    return points.new_empty(points.shape[0], width), points.new_empty(points.shape[0], width, 3)


def _save(ctx, inputs, keyword_only_inputs, output) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.grid = inputs[3:]
    ctx.moving = keyword_only_inputs["moving"]


def _backward_by(operator: Callable) -> Callable:
    def backward(ctx, *cotangents: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        cotangents = tuple(c.contiguous() for c in cotangents)
        return *operator(*cotangents, *ctx.saved_tensors, *ctx.grid, moving=ctx.moving), None, None, None, None

    return backward


torch.library.register_autograd(
    "gs_ir::hash_encode", _backward_by(torch.ops.gs_ir.hash_encode_backward), setup_context=_save
)
torch.library.register_autograd(
    "gs_ir::hash_encode_jacobian", _backward_by(torch.ops.gs_ir.hash_encode_jacobian_backward), setup_context=_save
)


@dataclass(frozen=True)
class HashGridLayout:
    """Shape of a hash grid; the published teacher's numbers are the defaults.

    Args:
        levels: lattices, coarse to fine.
        features: values per entry, 1, 2, 4 or 8.
        log2_size: a level holds at most 2**log2_size entries.
        base_resolution: cells a side of the coarsest lattice.
        growth: ratio of consecutive resolutions.

    Raises:
        ValueError: a number out of range.
    """

    levels: int = 16
    features: int = 2
    log2_size: int = 19
    base_resolution: int = 16
    growth: float = 1.447269237440378

    def __post_init__(self) -> None:
        if self.features not in (1, 2, 4, 8) or self.levels < 1:
            raise ValueError(f"hash grid: 1, 2, 4 or 8 features and at least one level expected, found {self}")
        if not 1 <= self.log2_size <= 30 or self.base_resolution < 1 or self.growth < 1:
            raise ValueError(f"hash grid: log2_size in 1..30, base_resolution >= 1, growth >= 1 expected, found {self}")

    @cached_property
    def resolutions(self) -> tuple[int, ...]:
        """Cells a side of each level."""
        # The addend keeps a growth rounded to double precision from losing the cell of an exact power (4095.9999).
        return tuple(int(self.base_resolution * self.growth**level + 1e-6) for level in range(self.levels))

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First entry of each level, and the number of all entries: ``levels + 1`` numbers."""
        offsets = [0]
        for resolution in self.resolutions:
            offsets.append(offsets[-1] + min((resolution + 1) ** 3, 2**self.log2_size))
        return tuple(offsets)

    @property
    def entries(self) -> int:
        """Rows of the table."""
        return self.offsets[-1]

    @property
    def width(self) -> int:
        """Columns of the encoding, ``levels * features``."""
        return self.levels * self.features


def encode(
    points: Tensor,
    table: Tensor,
    layout: HashGridLayout,
    active_levels: int | None = None,
    *,
    compact: Tensor | None = None,
) -> Tensor:
    """Interpolated features of every level, concatenated coarse to fine.

    Args:
        points: [N, 3] in the unit cube (clamped to it).
        table: [layout.entries, F].
        layout: shape of the grid.
        active_levels: levels from this one on cost nothing and give zeros (all are active by default).
        compact: half-precision copy of ``table`` that is read in its place (half the traffic, values rounded to 11
            bits); gradients still go to ``table``.

    Returns:
        [N, L*F]. Differentiable once in ``points`` and ``table``; use :func:`encode_with_jacobian` where a loss
        depends on the derivative by the points.

    Raises:
        ValueError: shapes, dtypes or ``active_levels`` do not match the layout.
    """
    arguments = _checked(points, table, layout, active_levels, compact)
    return torch.ops.gs_ir.hash_encode(*arguments, moving=points.requires_grad)


def encode_with_jacobian(
    points: Tensor,
    table: Tensor,
    layout: HashGridLayout,
    active_levels: int | None = None,
    *,
    compact: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Features as :func:`encode` and their derivatives by the points.

    Args:
        points: [N, 3] in the unit cube (clamped to it).
        table: [layout.entries, F].
        layout: shape of the grid.
        active_levels: levels from this one on cost nothing and give zeros (all are active by default).
        compact: half-precision copy of ``table`` that is read in its place (half the traffic, values rounded to 11
            bits); gradients still go to ``table``.

    Returns:
        features [N, L*F] and jacobian [N, L*F, 3] = d features / d points (per unit of the unit cube; zero along
        coordinates that were clamped). Both are differentiable in ``points`` (the mixed second derivatives of the
        trilinear interpolant) and ``table``: the second-order term of an eikonal loss.

    Raises:
        ValueError: shapes, dtypes or ``active_levels`` do not match the layout.
    """
    arguments = _checked(points, table, layout, active_levels, compact)
    return torch.ops.gs_ir.hash_encode_jacobian(*arguments, moving=points.requires_grad)


def compact_copy(table: Tensor, layout: HashGridLayout) -> Tensor:
    """Half-precision copy of ``table`` [layout.entries, F] for the ``compact`` of :func:`encode`. No gradient.

    Any such tensor will do; in this one, hashed levels begin where kernels can fetch two entries at once.
    """
    levels = zip(layout.resolutions, layout.offsets[:-1], layout.offsets[1:], strict=True)
    first_hashed = next((begin for side, begin, end in levels if (side + 1) ** 3 > end - begin), 0)
    storage = table.new_empty(layout.entries + 2, layout.features, dtype=torch.half)
    return storage[first_hashed % 2 :][: layout.entries].copy_(table.detach())


def _checked(
    points: Tensor, table: Tensor, layout: HashGridLayout, active_levels: int | None, compact: Tensor | None
) -> tuple:
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"hash grid: points [N, 3] expected, found {tuple(points.shape)}")
    if tuple(table.shape) != (layout.entries, layout.features):
        expected = (layout.entries, layout.features)
        raise ValueError(f"hash grid: table {expected} expected for {layout}, found {tuple(table.shape)}")
    if points.dtype != table.dtype:
        raise ValueError(f"hash grid: points and table of one dtype expected, found {points.dtype} and {table.dtype}")
    active = layout.levels if active_levels is None else active_levels
    if not 0 <= active <= layout.levels:
        raise ValueError(f"hash grid: active_levels in 0..{layout.levels} expected, found {active}")
    if compact is not None and (compact.dtype != torch.half or compact.shape != table.shape):
        raise ValueError(f"hash grid: compact like table in half expected, found {compact.dtype} {compact.shape}")
    compact = None if compact is None else compact.contiguous()
    return points.contiguous(), table.contiguous(), compact, layout.resolutions, layout.offsets, active
