"""CUDA kernels of the hash grid."""

import itertools

import pytest
import torch

from gs_ir.hash_grid import HashGridLayout, encode, encode_with_jacobian
from gs_ir.reference import hash_grid as reference
from tests.gs_ir.cuda.agreement import assert_agree

# Second derivatives reach 1e4, from differences of corners: their rounding decides the absolute tolerance.
SINGLE = {encode: {"rtol": 1e-4, "atol": 1e-3}, encode_with_jacobian: {"rtol": 1e-4, "atol": 3e-2}}
DOUBLE = {"rtol": 1e-10, "atol": 1e-9}
REFERENCES = {encode: reference.encode, encode_with_jacobian: reference.encode_with_jacobian}


def _layout(levels: int, features: int) -> HashGridLayout:
    """Dense and hashed levels; the first level's 125 entries leave the others at odd offsets."""
    return HashGridLayout(levels=levels, features=features, log2_size=10, base_resolution=4, growth=1.6)


def _points(count: int, dtype: torch.dtype) -> torch.Tensor:
    """Some outside of the cube, some on its corners."""
    points = torch.rand(count, 3, generator=torch.Generator().manual_seed(count), dtype=dtype) * 1.2 - 0.1
    points[:8] = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=dtype)[:count]
    return points


def _table(layout: HashGridLayout, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(layout.entries, layout.features, generator=torch.Generator().manual_seed(7), dtype=dtype)


def _check(operator, layout, points, table, active, compact=None):
    def on_reference(points, table):
        grid = (compact, layout.resolutions, layout.offsets, active)
        return REFERENCES[operator](points, table, *grid, moving=points.requires_grad)

    assert_agree(
        lambda points, table: operator(
            points, table, layout, active, compact=None if compact is None else compact.to(points.device)
        ),
        (points, table),
        reference=on_reference,
        **(DOUBLE if points.dtype == torch.float64 else SINGLE[operator]),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("features", [1, 2, 4, 8])
@pytest.mark.parametrize("operator", [encode, encode_with_jacobian])
def test_every_number_of_features(operator, features, dtype):
    """Fails when corners, strides, or the adjoint of a term are wrong for a width; worst difference expected 7e-3.

    Four levels are whole groups of a thread for some widths and not for others; three of them are active.
    """
    layout = _layout(4, features)
    _check(operator, layout, _points(700, dtype).requires_grad_(), _table(layout, dtype).requires_grad_(), 3)


@pytest.mark.parametrize(("levels", "active"), [(1, 1), (5, 5), (8, 0), (8, 1), (8, 4), (8, 8), (16, 13)])
@pytest.mark.parametrize("operator", [encode, encode_with_jacobian])
def test_levels(operator, levels, active):
    """Fails when an inactive level is computed or not zero, or an incomplete last group is skipped or overrun."""
    layout = _layout(levels, 2)
    points, table = _points(300, torch.float64), _table(layout, torch.float64)
    _check(operator, layout, points.requires_grad_(), table.requires_grad_(), active)


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 3000])
@pytest.mark.parametrize("operator", [encode, encode_with_jacobian])
def test_counts(operator, count):
    """Fails when the last points are missed or memory behind them is touched; worst difference expected 7e-3."""
    layout = _layout(8, 2)
    points, table = _points(count, torch.float32), _table(layout, torch.float32)
    _check(operator, layout, points.requires_grad_(), table.requires_grad_(), 8)


@pytest.mark.parametrize("operator", [encode, encode_with_jacobian])
def test_table_only(operator):
    """Fails when fixed points leave the table without its gradient."""
    layout = _layout(8, 2)
    _check(operator, layout, _points(500, torch.float64), _table(layout, torch.float64).requires_grad_(), 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("features", [1, 2, 4, 8])
@pytest.mark.parametrize("operator", [encode, encode_with_jacobian])
def test_compact_table(operator, features, dtype):
    """Fails when halves are fetched from wrong addresses or rounded twice; worst difference expected 7e-3.

    The copy begins at an odd address, as a view may.
    """
    layout = _layout(5, features)
    points, table = _points(700, dtype), _table(layout, dtype)
    compact = torch.cat([torch.zeros(1), table.flatten()]).half()[1:].view_as(table)
    _check(operator, layout, points.requires_grad_(), table.requires_grad_(), 4, compact)


@pytest.mark.parametrize("shift", [0, 1, 2, 3])
@pytest.mark.parametrize("operator", [encode, encode_with_jacobian])
def test_compact_table_at_any_entry(operator, shift):
    """Fails when blocks of two entries are unpacked in the wrong order, per alignment of the table."""
    layout = _layout(8, 2)
    points, table = _points(1000, torch.float32), _table(layout, torch.float32)
    compact = torch.cat([table[:shift], table]).half()[shift:]
    _check(operator, layout, points.requires_grad_(), table.requires_grad_(), 8, compact)


def test_views_at_any_address():
    """Fails when a vector load assumes that a table or a cotangent begins where an allocation does."""
    layout = _layout(8, 2)
    points = _points(100, torch.float32)

    def shifted(points, table):
        storage = torch.cat([table.new_zeros(1), table.flatten()])
        features, jacobian = encode_with_jacobian(points, storage[1:].view_as(table), layout)
        padded = [torch.cat([x.new_zeros(1), x.flatten()]) for x in (features, jacobian)]
        return [x[1:] for x in padded]  # the cotangents are views, one number off

    table = _table(layout, torch.float32)
    assert_agree(shifted, (points.requires_grad_(), table.requires_grad_()), **SINGLE[encode_with_jacobian])


def test_published_layout():
    """Fails when an index of the large table overflows or its levels are told apart wrongly."""
    layout = HashGridLayout()
    points = _points(5000, torch.float64)
    _check(encode_with_jacobian, layout, points.requires_grad_(), _table(layout, torch.float64).requires_grad_(), 16)
