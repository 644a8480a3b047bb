"""Small networks: gradients against finite differences, operators against plain layers."""

import pytest
import torch

from gs_ir.field import field_values
from gs_ir.hash_grid import HashGridLayout, encode
from gs_ir.mlp import fits, mlp, sdf_mlp
from gs_ir.reference import mlp as reference

LAYOUT = HashGridLayout(levels=4, features=2, log2_size=9, base_resolution=4, growth=1.6)


def make_layers(inputs: int, outputs: int, hidden_layers: int = 1, width: int = 64, dtype=torch.float32) -> list:
    """Random weights and biases in turn."""
    generator = torch.Generator().manual_seed(inputs)
    widths = [inputs] + [width] * hidden_layers + [outputs]
    layers = []
    for a, b in zip(widths[:-1], widths[1:], strict=True):
        layers.append(torch.randn(b, a, generator=generator, dtype=dtype) / a**0.5)
        layers.append(0.1 * torch.randn(b, generator=generator, dtype=dtype))
    return layers


def make_sdf_inputs(count: int, features: int, dtype=torch.float32) -> list:
    """Coordinates, features and jacobian."""
    generator = torch.Generator().manual_seed(count)
    shapes = (count, 3), (count, features), (count, features, 3)
    return [torch.randn(s, generator=generator, dtype=dtype) for s in shapes]


@pytest.mark.parametrize("hidden_layers", [1, 2])
@pytest.mark.parametrize("smooth", [False, True])
def test_operator_equals_plain_layers(smooth, hidden_layers):
    """Fails when parts or layers are mixed up, or a gradient is given to the wrong tensor."""
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(20, k, generator=generator).requires_grad_(k != 5) for k in (7, 5, 2)]
    layers = [x.requires_grad_() for x in make_layers(14, 3, hidden_layers)]
    ours, expected = mlp(parts, layers, smooth=smooth), reference.mlp(parts, layers, smooth)
    torch.testing.assert_close(ours, expected)
    wanted, cotangent = [parts[0], parts[2], *layers], torch.randn(20, 3, generator=generator)
    found = torch.autograd.grad(ours, wanted, cotangent)
    torch.testing.assert_close(found, torch.autograd.grad(expected, wanted, cotangent))


def test_spatial_gradient_is_the_derivative():
    """Fails when the closed form lacks a factor or takes coordinates for features: against autograd by the point."""
    inputs, layers = make_sdf_inputs(9, 6, torch.float64), make_layers(9, 4, width=8, dtype=torch.float64)
    point = torch.zeros(9, 3, dtype=torch.float64, requires_grad=True)
    coordinates, jacobian = inputs[0] + 2 * point, inputs[2]
    features = inputs[1] + torch.einsum("nfk, nk -> nf", jacobian, point)
    outputs, gradient = reference.sdf_mlp(coordinates, features, jacobian, layers, 2.0)
    torch.testing.assert_close(gradient, torch.autograd.grad(outputs[:, 0].sum(), point)[0])


def test_gradcheck():
    """Fails when a reference's gradient misses a path, in double precision."""
    inputs = [x.requires_grad_() for x in make_sdf_inputs(3, 4, torch.float64)]
    layers = [0.1 * x for x in make_layers(7, 2, width=5, dtype=torch.float64)]
    layers = [x.requires_grad_() for x in layers]
    assert torch.autograd.gradcheck(lambda *x: reference.sdf_mlp(*x[:3], list(x[3:]), 2.0), (*inputs, *layers))
    assert torch.autograd.gradcheck(lambda *x: reference.mlp(list(x[:2]), list(x[2:]), True), (*inputs[:2], *layers))


def test_sdf_operator_equals_reference():
    """Fails when the operator's gradients are in another order than its inputs."""
    inputs = [x.requires_grad_() for x in make_sdf_inputs(15, 8)]
    layers = [x.requires_grad_() for x in make_layers(11, 5)]
    ours, expected = sdf_mlp(*inputs, layers, scale=2.0), reference.sdf_mlp(*inputs, layers, 2.0)
    torch.testing.assert_close(ours, expected)
    cotangents = [torch.randn_like(x) for x in expected]
    found = torch.autograd.grad(ours, (*inputs, *layers), cotangents)
    torch.testing.assert_close(found, torch.autograd.grad(expected, (*inputs, *layers), cotangents))


@pytest.mark.parametrize("half", [False, True])
def test_field_is_the_network_on_the_grid(half):
    """Fails when coordinates and features are in another order than the weights, or levels are not masked."""
    generator = torch.Generator().manual_seed(2)
    points, table = torch.rand(30, 3, generator=generator), torch.randn(LAYOUT.entries, 2, generator=generator)
    layers, compact = make_layers(11, 4), table.half() if half else None
    features = encode(points, table, LAYOUT, 3, compact=compact)
    expected = reference.mlp([2 * points - 1, features], layers, True)
    found = field_values(points, table, LAYOUT, layers, smooth=True, active_levels=3, compact=compact)
    torch.testing.assert_close(found, expected)
    grid = (LAYOUT.resolutions, LAYOUT.offsets, 3)
    by_reference = reference.field_values(points, table, compact, *grid, layers=layers, smooth=True)
    torch.testing.assert_close(by_reference, expected)
    assert not field_values(points[:0], table, LAYOUT, layers, smooth=True).numel()


def test_what_fits():
    """Fails when a network that the kernels cannot hold is given to them."""
    assert fits(make_layers(67, 3, 2), 4)
    assert not fits(make_layers(67, 3, 3), 4)
    assert not fits(make_layers(97, 3))
    assert not fits(make_layers(35, 17))
    assert not fits(make_layers(35, 13, width=32))
    assert not fits(make_layers(35, 13, dtype=torch.float64))
    assert not fits(make_layers(35, 13), 5)


def test_bad_input_is_named():
    """Fails when shapes that do not belong together reach a kernel."""
    layers, inputs = make_layers(9, 3), make_sdf_inputs(4, 6)
    with pytest.raises(ValueError, match="mlp: .*expected"):
        mlp(inputs[:1], layers, smooth=True)
    with pytest.raises(ValueError, match="rows expected"):
        mlp([inputs[0], inputs[1][1:]], layers, smooth=True)
    with pytest.raises(ValueError, match="bias"):
        mlp(inputs[:2], [layers[0], layers[1][1:], *layers[2:]], smooth=True)
    with pytest.raises(ValueError, match="jacobian"):
        sdf_mlp(*inputs[:2], inputs[2][1:], layers, scale=2.0)
    with pytest.raises(ValueError, match="field_values"):
        field_values(inputs[0], torch.zeros(LAYOUT.entries, 2), LAYOUT, layers, smooth=True)
