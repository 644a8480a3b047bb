"""Fields: closed-form derivatives against autograd, densities against closed forms."""

import sys
import types

import pytest
import torch

from core.errors import InputError
from gs_ir.mlp import fits
from gs_ir.reference import hash_grid as reference
from implicit_branch.fields import mlp, sdf
from implicit_branch.fields.density import LaplaceDensity
from implicit_branch.fields.encoding import HashEncoding
from implicit_branch.fields.material import ALBEDO_RANGE, MaterialField
from implicit_branch.fields.mlp import LipschitzMlp, SoftplusMlp
from implicit_branch.fields.radiance import RadianceField
from implicit_branch.fields.sdf import SdfField
from tests.implicit_branch.conftest import GRID


def _sdf_field() -> SdfField:
    torch.manual_seed(0)
    field = SdfField(xyz_encoding=GRID, n_neurons=16, n_hidden_layers=2).double()
    with torch.no_grad():
        field.encoding.grid.table.normal_(0, 0.3)
        for layer in field.network.layers:
            layer.parametrizations.weight.original1.add_(0.1 * torch.randn_like(layer.weight))
    return field


def test_gradient_is_that_of_autograd():
    """Fails when the closed form forgets a factor: the box's side, the 2 of the raw coordinates, a layer's slope."""
    field = _sdf_field()
    points = (torch.rand(50, 3, dtype=torch.float64) * 1.6 - 0.8).requires_grad_()
    expected = torch.autograd.grad(field.distance(points).sum(), points)[0]
    torch.testing.assert_close(field(points).gradient, expected)


def test_eikonal_loss_reaches_every_parameter_as_double_backward_does(monkeypatch):
    """Fails when the gradient of the gradient misses a path: table, weights, weight norms, biases."""
    field = _sdf_field()
    layout = field.encoding.layout
    # The kernels have no second derivative by the points, so the oracle encodes with the plain PyTorch reference.
    monkeypatch.setattr(
        field.encoding.grid, "forward",
        lambda unit, levels: reference.encode(
            unit, field.encoding.grid.table, None, list(layout.resolutions), list(layout.offsets), levels, moving=True
        ),
    )  # fmt: skip
    points = (torch.rand(20, 3, dtype=torch.float64) * 1.6 - 0.8).requires_grad_()
    spatial = torch.autograd.grad(field.distance(points).sum(), points, create_graph=True)[0]
    parameters = list(field.parameters())
    expected = torch.autograd.grad((spatial.norm(dim=-1) - 1).square().sum(), parameters, allow_unused=True)
    actual = torch.autograd.grad(
        (field(points.detach()).gradient.norm(dim=-1) - 1).square().sum(), parameters, allow_unused=True
    )
    for a, b in zip(actual, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


def _pretend_gpu(monkeypatch) -> None:
    """Let the fused operators run on the CPU, where their references do."""
    for module in (mlp, sdf):
        monkeypatch.setattr(module, "fusible", lambda layers, points, parts=1: fits(layers, parts))


def test_fused_surface_is_the_same(monkeypatch):
    """Fails when columns come in another order, or the box's scale or a parameter's gradient is lost."""
    torch.manual_seed(0)
    field = SdfField(xyz_encoding=GRID, n_neurons=64, half_precision=True)
    with torch.no_grad():
        field.encoding.box.mul_(torch.tensor([1.3, 0.9, 1.1]))
        field.encoding.grid.table.normal_(0, 0.1)
        field.network.layers[0].parametrizations.weight.original1[:, 3:].normal_()
    points = (torch.rand(50, 3) * 1.6 - 0.8).requires_grad_()

    def run() -> tuple[list, tuple]:
        sample = field(points)
        loss = sample.sdf.sum() + (sample.gradient.norm(dim=-1) - 1).square().sum() + sample.features.square().sum()
        with torch.no_grad():
            values = [*sample, field.distance(points), field.features(points)]
        return values, torch.autograd.grad(loss, [points, *field.parameters()])

    expected = run()
    _pretend_gpu(monkeypatch)
    found = run()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[0][3], found[0][0])


def test_fused_radiance_and_material_are_the_same(monkeypatch):
    """Fails when a part of the inputs goes to another's weights."""
    torch.manual_seed(0)
    radiance = RadianceField(xyz_encoding=GRID, geometry_features=13, half_precision=True)
    material = MaterialField(appearance_features=13, geometry_features=13, half_precision=True)
    points, geometry = torch.rand(20, 3), torch.randn(20, 13)
    normal, view_dir = (torch.nn.functional.normalize(torch.randn(20, 3), dim=-1) for _ in range(2))

    def run() -> tuple:
        appearance = radiance.appearance(points)
        shaded = radiance(appearance, geometry, normal, view_dir)
        found = material(appearance, geometry)
        parameters = [*radiance.parameters(), *(p for layer in material.network.layers for p in layer.parameters())]
        return shaded, found, torch.autograd.grad(shaded.sum() + found.albedo.square().sum(), parameters)

    expected = run()
    _pretend_gpu(monkeypatch)
    torch.testing.assert_close(run(), expected)


def test_sphere_start():
    """Fails when geometric initialisation loses its signs: the field must be about |x| - radius, negative inside."""
    torch.manual_seed(0)
    field = SdfField(xyz_encoding=GRID, sphere_init_radius=0.5)
    points = torch.nn.functional.normalize(torch.randn(500, 3), dim=-1)
    distance = field.distance(points * 0.9)
    assert (field.distance(points * 0.1) < 0).all()
    assert (distance - 0.4).abs().mean() < 0.2


def test_levels_open_on_schedule():
    """Fails when a level opens early or late: 4 before step 500, then one every 125, all 16 at 1875."""
    encoding = HashEncoding(log2_hashmap_size=8)
    opened = []
    for step in (0, 499, 500, 624, 625, 1875, 25000):
        encoding.open_levels(step)
        opened.append(encoding.active_levels)
    assert opened == [4, 4, 5, 5, 6, 16, 16]


def test_tinycudann_backend_matches_ours(monkeypatch):
    """Fails when the optional backend's Jacobian product differs; our own grid stands in for the package."""
    grid = dict(GRID, start_level=3)
    ours = HashEncoding(**grid).double()

    class FakeEncoding(torch.nn.Module):
        def __init__(self, inputs, config, dtype):
            super().__init__()
            assert inputs == 3
            assert config["n_levels"] == GRID["n_levels"]

        def forward(self, unit):
            return ours.grid(unit, GRID["n_levels"])

    monkeypatch.setitem(sys.modules, "tinycudann", types.SimpleNamespace(Encoding=FakeEncoding))
    theirs = HashEncoding(**grid, backend="tinycudann").double()
    points = torch.rand(10, 3, dtype=torch.float64) - 0.5
    cotangent = torch.randn(10, ours.features, dtype=torch.float64)
    for encoding_value, other in zip(ours.with_pull_back(points), theirs.with_pull_back(points), strict=True):
        if callable(encoding_value):
            torch.testing.assert_close(encoding_value(cotangent), other(cotangent))
        else:
            torch.testing.assert_close(encoding_value, other)


def test_absent_backend_says_how_to_install_it(monkeypatch):
    """Fails when asking for tinycudann without having it ends in an import error."""
    monkeypatch.setitem(sys.modules, "tinycudann", None)
    with pytest.raises(InputError, match="pip install"):
        HashEncoding(**GRID, backend="tinycudann")


def test_density_of_a_slab_is_its_closed_form():
    """Fails when the Laplace CDF has the wrong side or scale: a ray into a plane crosses beta/2-integrable density."""
    density = LaplaceDensity(beta=0.01, floor_start=0.01, floor_end=1e-3)
    beta = float(density.scale().detach())
    assert beta == pytest.approx(0.02)
    depth = torch.linspace(-0.3, 0.0, 30001, dtype=torch.float64)
    # Outside (sdf = -depth > 0): integral of exp(-s / beta) / (2 beta) over s from 0 is 1/2.
    optical = torch.trapezoid(density(-depth).detach().double(), depth)
    assert float(optical) == pytest.approx(0.5, abs=1e-4)
    assert float(density(torch.tensor([-1.0])).detach()) == pytest.approx(1 / beta)


def test_alpha_hardens_as_beta_falls():
    """Fails when the floor is annealed the wrong way: inside must become opaque, outside empty."""
    density = LaplaceDensity(beta=0.0, floor_start=0.05, floor_end=1e-4)
    sdf, lengths = torch.tensor([-0.01, 0.01]), torch.tensor([0.01, 0.01])
    soft = density.alpha(sdf, lengths).detach()
    density.anneal(1.0)
    hard = density.alpha(sdf, lengths).detach()
    assert soft[0] < 0.3
    assert hard[0] > 1 - 1e-6
    assert hard[1] < 1e-6


def test_material_ranges_and_start():
    """Fails when an output leaves its physical range or the start is not cloth."""
    torch.manual_seed(0)
    field = MaterialField(appearance_features=8, geometry_features=4)
    material = field(torch.randn(1000, 8), torch.randn(1000, 4))
    assert material.albedo.min() >= ALBEDO_RANGE[0]
    assert material.albedo.max() <= ALBEDO_RANGE[1]
    assert float(material.roughness.mean()) == pytest.approx(0.55, abs=0.05)
    assert float(material.metallic.mean()) < 0.1


def test_lipschitz_network_starts_inactive_and_bounds():
    """Fails when the rescaling acts at the start, or does not hold the bound once it is small."""
    torch.manual_seed(0)
    network = LipschitzMlp(6, 3, hidden=8, layers=1)
    points, step = torch.randn(200, 6), 1e-2 * torch.randn(200, 6)
    plain = torch.relu(points @ network.layers[0].weight.T) @ network.layers[1].weight.T
    torch.testing.assert_close(network(points), plain)
    with torch.no_grad():
        for bound in network.bounds:
            bound.fill_(-2.0)
    change = (network(points + step) - network(points)).abs().amax(1)
    assert (change <= network.bound() * step.abs().amax(1) + 1e-6).all()


def test_softplus_network_value_equals_forward():
    """Fails when value and value-with-gradient go different ways."""
    network = SoftplusMlp(5, 4, hidden=8, layers=2)
    inputs = torch.randn(10, 5)
    torch.testing.assert_close(network.with_gradient(inputs)[0], network(inputs))
