"""CUDA kernels of small networks and of fields."""

import pytest
import torch

from gs_ir.field import field_values
from gs_ir.hash_grid import HashGridLayout
from gs_ir.mlp import mlp, sdf_mlp
from gs_ir.reference import mlp as reference
from tests.gs_ir.cuda.agreement import moved
from tests.gs_ir.test_mlp import make_layers, make_sdf_inputs

# Of the largest number of a tensor. A softplus of sharpness 100 has slopes that feel the fifth digit of its argument.
VALUES, BY_INPUTS = 1e-4, 1e-3
# Of a tensor's length: sums over points of products of rounded factors, which may cancel where the rounding does not.
BY_LAYERS = 1e-2


def _assert_close(found: torch.Tensor, expected: torch.Tensor, share: float, name: str) -> None:
    expected = expected.detach()
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        found.detach().cpu().double(), expected.double(), rtol=0, atol=share * scale + 1e-7,
        msg=lambda m: f"{name}: {m}",
    )  # fmt: skip


def _compare(operator, oracle, inputs: list, layers: list) -> None:
    """``operator`` on the GPU against ``oracle`` in double precision on the CPU; values, then all gradients."""
    inputs, layers = ([x.requires_grad_() for x in xs] for xs in (inputs, layers))
    exact = [[x.detach().double().requires_grad_() for x in xs] for xs in (inputs, layers)]
    expected = oracle(*exact)
    on_gpu = [moved(inputs, "cuda"), moved(layers, "cuda")]
    found = operator(*on_gpu)
    expected, found = ([x] if isinstance(x, torch.Tensor) else list(x) for x in (expected, found))
    generator = torch.Generator().manual_seed(0)
    cotangents = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in expected]
    wanted = torch.autograd.grad(expected, exact[0] + exact[1], cotangents)
    gradients = torch.autograd.grad(found, on_gpu[0] + on_gpu[1], [c.float().cuda() for c in cotangents])
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        _assert_close(a, b, VALUES, f"value {i}")
    for i, (a, b) in enumerate(zip(gradients, wanted, strict=True)):
        if i < len(inputs):
            _assert_close(a, b, BY_INPUTS, f"gradient {i}")
        else:
            difference = float((a.cpu().double() - b).norm())
            assert difference <= BY_LAYERS * max(float(b.norm()), len(inputs[0]) ** 0.5), f"gradient {i}: {difference}"


def _parts(count: int, columns: tuple[int, ...]) -> list:
    generator = torch.Generator().manual_seed(count)
    return [torch.randn(count, k, generator=generator) for k in columns]


def _away_from_kinks(parts: list, layers: list) -> list:
    """Rows whose ReLU arguments are not within rounding of zero, where a derivative is undefined."""
    hidden, keep = torch.cat(parts, 1), torch.ones(len(parts[0]), dtype=torch.bool)
    for weight, bias in zip(layers[:-2:2], layers[1:-2:2], strict=True):
        hidden = hidden @ weight.T + bias
        keep &= hidden.abs().amin(1) > 1e-4
        hidden = hidden.relu()
    return [x[keep] for x in parts]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 129, 3001, 70_000])
@pytest.mark.parametrize("hidden_layers", [1, 2])
@pytest.mark.parametrize("smooth", [False, True])
def test_counts(smooth, hidden_layers, count):
    """Fails when rows are missed at a tile's or block's end, or blocks overwrite each other's sums.

    Worst differences expected, of the largest number: 3e-5 of values, 4e-4 of inputs' gradients;
    of the length, 4e-3 of layers' gradients.
    """
    parts, layers = _parts(count, (35, 13, 16, 3)), make_layers(67, 3, hidden_layers)
    if not smooth:
        parts = _away_from_kinks(parts, layers)
    _compare(lambda p, q: mlp(p, q, smooth=smooth), lambda p, q: reference.mlp(p, q, smooth), parts, layers)


@pytest.mark.parametrize(("columns", "outputs"), [((1,), 1), ((16,), 8), ((32,), 16), ((7, 41), 9), ((90, 6), 13)])
def test_widths(columns, outputs):
    """Fails when padding between the inputs' or outputs' number and a whole tile leaks into results."""
    parts, layers = _parts(200, columns), make_layers(sum(columns), outputs, 2)
    _compare(lambda p, q: mlp(p, q, smooth=True), lambda p, q: reference.mlp(p, q, True), parts, layers)


def test_only_wanted_parts_get_gradients():
    """Fails when a part without gradient moves the others' gradients."""
    parts, layers = [x.cuda() for x in _parts(50, (5, 6))], [x.cuda() for x in make_layers(11, 3)]
    parts[1].requires_grad_()
    (found,) = torch.autograd.grad(mlp(parts, layers, smooth=True).sum(), parts[1])
    (expected,) = torch.autograd.grad(reference.mlp(parts, layers, True).sum(), parts[1])
    _assert_close(found, expected.cpu(), 1e-3, "gradient")


@pytest.mark.parametrize(("count", "features", "outputs"), [
    (0, 32, 13), (1, 32, 13), (16, 32, 13), (127, 32, 13), (3001, 32, 13), (50_000, 32, 13), (100, 10, 1),
    (100, 45, 16),
])  # fmt: skip
def test_signed_distance(count, features, outputs):
    """Fails when the spatial gradient or a term of its adjoint is wrong: coordinates, features, jacobian, layers.

    Worst differences expected, of the largest number: 3e-5 of values, 4e-4 of inputs' gradients;
    of the length, 4e-3 of layers' gradients.
    """
    inputs, layers = make_sdf_inputs(count, features), make_layers(features + 3, outputs)
    _compare(
        lambda x, q: sdf_mlp(*x, q, scale=2.0), lambda x, q: reference.sdf_mlp(*x, q, 2.0), inputs, layers
    )  # fmt: skip


def test_distances_are_right_to_a_tenth_of_a_millimetre():
    """Fails when operands are rounded to one bfloat16 or half: the start of a teacher, a ball of half a metre."""
    layers = make_layers(35, 1)
    torch.nn.init.normal_(layers[0], 0.0, (2 / 64) ** 0.5)
    torch.nn.init.normal_(layers[2], (torch.pi / 64) ** 0.5, 1e-4)
    parts = [2 * torch.rand(100_000, 3) - 1, 0.1 * torch.randn(100_000, 32)]
    expected = reference.mlp([x.double() for x in parts], [x.double() for x in layers], True)
    found = mlp([x.cuda() for x in parts], [x.cuda() for x in layers], smooth=True)
    assert float((found.cpu() - expected).abs().max()) < 5e-5


@pytest.mark.parametrize("count", [0, 1, 16, 31, 5000])
@pytest.mark.parametrize(("levels", "active"), [(16, 16), (16, 5), (5, 5), (1, 0)])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("smooth", "hidden_layers"), [(True, 1), (True, 2), (False, 1), (False, 2)])
def test_fields(smooth, hidden_layers, half, levels, active, count):
    """Fails when a level goes into another's columns, or coordinates are not those that the weights stand for.

    Worst difference expected, of the largest number: 3e-5.
    """
    layout = HashGridLayout(levels=levels, log2_size=10, base_resolution=4, growth=1.4)
    generator = torch.Generator().manual_seed(count)
    points = 1.2 * torch.rand(count, 3, generator=generator) - 0.1
    table, layers = (
        torch.randn(layout.entries, 2, generator=generator),
        make_layers(3 + layout.width, 13, hidden_layers),
    )
    compact = table.half() if half else None
    grid = (layout.resolutions, layout.offsets, active)
    expected = reference.field_values(points, table, compact, *grid, layers=layers, smooth=smooth)
    on_gpu = moved([points, table, layers], "cuda")
    compact = None if compact is None else compact.cuda()
    found = field_values(*on_gpu[:2], layout, on_gpu[2], smooth=smooth, active_levels=active, compact=compact)
    _assert_close(found, expected, VALUES, "value")
