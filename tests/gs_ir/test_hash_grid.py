"""Hash grid: native against reference, closed forms, finite differences of values, jacobians and their adjoints."""

import itertools

import pytest
import torch

from gs_ir.hash_grid import HashGridLayout, compact_copy, encode, encode_with_jacobian
from gs_ir.reference import hash_grid as reference

# Two dense and two hashed levels.
LAYOUT = HashGridLayout(levels=4, features=2, log2_size=9, base_resolution=4, growth=1.6)


def _inputs(layout: HashGridLayout = LAYOUT, count: int = 200, dtype=torch.float64, seed: int = 0):
    """Random points (some outside of the cube, some on its faces) and a random table."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 3, generator=generator, dtype=dtype) * 1.2 - 0.1
    points[:8] = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)), dtype=dtype)[:count]
    return points, torch.randn(layout.entries, layout.features, generator=generator, dtype=dtype)


def _reference(function, points, table, layout, active, compact=None):
    return function(points, table, compact, layout.resolutions, layout.offsets, active, moving=True)


def _vertices(resolution: int) -> torch.Tensor:
    side = torch.arange(resolution + 1)
    z, y, x = torch.meshgrid(side, side, side, indexing="ij")
    return torch.stack([x, y, z], -1).reshape(-1, 3)


@pytest.mark.parametrize("features", [1, 2, 4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_equal_reference(features, dtype):
    """Fails when corners, strides or the number of features are mixed up, per dtype."""
    layout = HashGridLayout(levels=4, features=features, log2_size=9, base_resolution=4, growth=1.6)
    points, table = _inputs(layout, dtype=dtype)
    expected = _reference(reference.encode_with_jacobian, points, table, layout, 3)
    torch.testing.assert_close(encode(points, table, layout, 3), expected[0])
    features_and_jacobian = encode_with_jacobian(points, table, layout, 3)
    tolerance = {"rtol": 1e-4, "atol": 2e-4} if dtype == torch.float32 else {}
    torch.testing.assert_close(features_and_jacobian, expected, **tolerance)


@pytest.mark.parametrize("features", [1, 2, 4])
def test_gradients_equal_reference(features):
    """Fails when an adjoint differs from autograd of the sum over corners, random cotangents."""
    layout = HashGridLayout(levels=4, features=features, log2_size=9, base_resolution=4, growth=1.6)
    points, table = (x.requires_grad_() for x in _inputs(layout))
    ours = encode_with_jacobian(points, table, layout, 3)
    cotangents = [torch.randn_like(x) for x in ours]
    expected = _reference(reference.encode_with_jacobian, points, table, layout, 3)
    for got, want, cotangent in ((ours, expected, cotangents), (ours[:1], expected[:1], cotangents[:1])):
        gradients = torch.autograd.grad(got, (points, table), cotangent, retain_graph=True)
        torch.testing.assert_close(gradients, torch.autograd.grad(want, (points, table), cotangent, retain_graph=True))
    value = encode(points, table, layout, 3)
    torch.testing.assert_close(
        torch.autograd.grad(value, (points, table), cotangents[0]),
        torch.autograd.grad(expected[0], (points, table), cotangents[0]),
    )


def test_gradcheck_of_values_and_jacobian():
    """Fails when a mixed second derivative is missing from the adjoint of the jacobian."""
    layout = HashGridLayout(levels=3, features=2, log2_size=5, base_resolution=2, growth=1.6)
    points, table = _inputs(layout, count=10)
    points = (points.clamp(0, 1) * 0.96 + 0.021).requires_grad_()
    table.requires_grad_()
    assert torch.autograd.gradcheck(lambda p, t: encode_with_jacobian(p, t, layout, 2), (points, table))
    assert torch.autograd.gradcheck(lambda p, t: encode(p, t, layout), (points, table))


def test_jacobian_is_the_derivative_of_the_values():
    """Fails when the jacobian lacks the resolution as a factor or belongs to another feature."""
    points, table = _inputs()
    points.requires_grad_()
    values, jacobian = encode_with_jacobian(points, table, LAYOUT)
    for column in range(LAYOUT.width):
        (gradient,) = torch.autograd.grad(values[:, column].sum(), points, retain_graph=True)
        torch.testing.assert_close(jacobian[:, column], gradient)


def test_trilinear_polynomial_is_exact():
    """A polynomial linear in each coordinate, written into the vertices of a dense level, is returned everywhere."""
    layout = HashGridLayout(levels=1, features=2, log2_size=9, base_resolution=5, growth=1.0)
    coefficients = torch.randn(8, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def polynomial(p: torch.Tensor) -> torch.Tensor:
        x, y, z = p.unbind(-1)
        monomials = [torch.ones_like(x), x, y, z, x * y, x * z, y * z, x * y * z]
        return torch.stack(monomials, -1) @ coefficients

    table = polynomial(_vertices(5).double() / 5)
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64, requires_grad=True)
    expected = polynomial(points)
    values, jacobian = encode_with_jacobian(points, table, layout)
    torch.testing.assert_close(values, expected)
    for column in range(2):
        (gradient,) = torch.autograd.grad(expected[:, column].sum(), points, create_graph=True)
        torch.testing.assert_close(jacobian[:, column], gradient)
        hessian_row, expected_row = (
            torch.autograd.grad(g[:, 1].sum(), points, retain_graph=True)[0] for g in (jacobian[:, column], gradient)
        )
        torch.testing.assert_close(hessian_row, expected_row)


def test_dense_level_has_one_entry_per_vertex():
    """Fails when two vertices of a dense level share an entry, or entries are not x-fastest."""
    layout = HashGridLayout(levels=2, features=1, log2_size=10, base_resolution=4, growth=2.0)
    table = torch.arange(layout.entries, dtype=torch.float64)[:, None]
    for level, resolution in enumerate(layout.resolutions):
        entries = encode(_vertices(resolution) / float(resolution), table.float(), layout)[:, level]
        expected = torch.arange((resolution + 1) ** 3) + layout.offsets[level]
        torch.testing.assert_close(entries, expected.float(), rtol=0, atol=1e-3)


def test_hashed_level_follows_the_published_hash():
    """Fails when a prime, the order of the axes or the wrap to 32 bits is wrong."""
    layout = HashGridLayout(levels=1, features=1, log2_size=14, base_resolution=3000, growth=1.0)
    vertex = torch.randint(0, 3001, (200, 3), generator=torch.Generator().manual_seed(5))
    table = torch.arange(layout.entries, dtype=torch.float64)[:, None]
    entries = encode(vertex.double() / 3000, table, layout)[:, 0]
    for (x, y, z), entry in zip(vertex.tolist(), entries.tolist(), strict=True):
        hashed = (x % 2**32) ^ (y * 2654435761 % 2**32) ^ (z * 805459861 % 2**32)
        assert entry == pytest.approx(hashed % 2**14, abs=1e-4)


def test_published_layout():
    """Resolutions and dense levels of the published teacher: 16 to 4096, levels 0 to 4 dense, 6.3 million entries."""
    layout = HashGridLayout()
    assert layout.resolutions[:5] == (16, 23, 33, 48, 70)
    assert layout.resolutions[-1] == 4096
    sizes = [b - a for a, b in itertools.pairwise(layout.offsets)]
    assert [size < 2**19 for size in sizes] == [True] * 5 + [False] * 11
    assert layout.entries == pytest.approx(6.3e6, rel=1e-2)


def test_inactive_levels_are_zero_and_get_no_gradient():
    """Fails when a level beyond the active ones is evaluated or trained."""
    points, table = (x.requires_grad_() for x in _inputs())
    values, jacobian = encode_with_jacobian(points, table, LAYOUT, 2)
    assert values[:, :4].any()
    assert not values[:, 4:].any()
    assert not jacobian[:, 4:].any()
    (values.square().sum() + jacobian.square().sum()).backward()
    assert table.grad[: LAYOUT.offsets[2]].any()
    assert not table.grad[LAYOUT.offsets[2] :].any()
    assert not encode(points, table, LAYOUT, 0).any()


def test_gradient_touches_only_the_cells_corners():
    """Fails when the scatter writes beyond the eight corners of a point's cell."""
    table = torch.zeros(LAYOUT.entries, 2, requires_grad=True)
    encode(torch.full((1, 3), 0.4), table, LAYOUT, 1).sum().backward()
    assert int((table.grad[:, 0] != 0).sum()) == 8
    assert table.grad.sum().item() == pytest.approx(2.0)


def test_points_outside_are_clamped():
    """Outside of the cube the features are those of its surface, flat along the clamped axis."""
    _, table = _inputs()
    outside = torch.tensor([[-3.0, 0.3, 0.7], [0.2, 4.0, 0.1]], dtype=torch.float64)
    values, jacobian = encode_with_jacobian(outside, table, LAYOUT)
    torch.testing.assert_close(values, encode(outside.clamp(0, 1), table, LAYOUT))
    assert not jacobian[0, :, 0].any()
    assert not jacobian[1, :, 1].any()
    assert jacobian[0, :, 1:].all()


def test_gradients_do_not_depend_on_threads():
    """Fails when threads write to each other's part of the table: many points in few entries."""
    layout = HashGridLayout(levels=5, features=2, log2_size=6, base_resolution=4, growth=1.5)
    points, table = (x.requires_grad_() for x in _inputs(layout, count=4000))
    threads = torch.get_num_threads()
    gradients = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            values, jacobian = encode_with_jacobian(points, table, layout)
            gradients.append(torch.autograd.grad(values.sin().sum() + jacobian.cos().sum(), (points, table)))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compact_table_is_read_and_the_table_trained(dtype):
    """Fails when values are not the compact table's, or gradients differ from those of a table with its values."""
    points, table = _inputs(dtype=dtype)
    compact = compact_copy(table, LAYOUT)
    torch.testing.assert_close(compact, table.half(), rtol=0, atol=0)
    rounded = compact.to(dtype).requires_grad_()
    points, table = points.requires_grad_(), table.requires_grad_()
    for operator in (encode, encode_with_jacobian):
        ours, expected = operator(points, table, LAYOUT, 3, compact=compact), operator(points, rounded, LAYOUT, 3)
        torch.testing.assert_close(ours, expected)
        ours, expected = (x if isinstance(x, tuple) else (x,) for x in (ours, expected))
        cotangents = [torch.randn_like(x) for x in ours]
        gradients = torch.autograd.grad(ours, (points, table), cotangents)
        torch.testing.assert_close(gradients, torch.autograd.grad(expected, (points, rounded), cotangents))
    by_reference = _reference(reference.encode, points, table, LAYOUT, 3, compact)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {}
    torch.testing.assert_close(by_reference, encode(points, table, LAYOUT, 3, compact=compact), **tolerance)


def test_still_points_get_no_gradient():
    """Points that need no gradient are skipped, the table's gradient stays the same."""
    points, table = _inputs()
    table.requires_grad_()
    still = torch.autograd.grad(encode_with_jacobian(points, table, LAYOUT)[1].square().sum(), table)
    moving = torch.autograd.grad(encode_with_jacobian(points.requires_grad_(), table, LAYOUT)[1].square().sum(), table)
    torch.testing.assert_close(still, moving)


def test_no_points():
    """Zero points give zero rows and a zero gradient."""
    table = torch.zeros(LAYOUT.entries, 2, requires_grad=True)
    values, jacobian = encode_with_jacobian(torch.zeros(0, 3), table, LAYOUT)
    assert values.shape == (0, LAYOUT.width)
    assert jacobian.shape == (0, LAYOUT.width, 3)
    (values.sum() + jacobian.sum()).backward()
    assert not table.grad.any()


def test_operators_are_registered_completely():
    """Fails when schema, shape inference or autograd of the operators disagree with what they do."""
    points, table = (x.requires_grad_() for x in _inputs(count=9))
    arguments = (points, table, None, LAYOUT.resolutions, LAYOUT.offsets, 3)
    for operator in (torch.ops.gs_ir.hash_encode, torch.ops.gs_ir.hash_encode_jacobian):
        torch.library.opcheck(
            operator.default,
            arguments,
            {"moving": True},
            test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
        )


@pytest.mark.parametrize(
    ("points", "rows", "active"), [((4, 2), 0, None), ((4, 3), 1, None), ((4, 3), 0, 5), ((4, 3), 0, -1)]
)
def test_bad_input_is_named(points, rows, active):
    """A wrong shape or level count raises instead of reading beyond the table."""
    with pytest.raises(ValueError, match="hash grid: .*expected"):
        encode(torch.zeros(points), torch.zeros(LAYOUT.entries + rows, 2), LAYOUT, active)


def test_bad_compact_table_is_named():
    """A copy of another shape or precision is refused instead of read beyond its end."""
    table = torch.zeros(LAYOUT.entries, 2)
    for wrong in (table, table[1:].half()):
        with pytest.raises(ValueError, match="hash grid: compact"):
            encode(torch.zeros(4, 3), table, LAYOUT, compact=wrong)


def test_bad_layout_is_named():
    """Numbers that the kernels cannot index are refused."""
    for wrong in ({"features": 3}, {"levels": 0}, {"log2_size": 31}, {"growth": 0.5}):
        with pytest.raises(ValueError, match="hash grid"):
            HashGridLayout(**wrong)
