"""Fields in half precision on a GPU, against the same fields in single precision."""

import pytest
import torch

import gs_ir
from implicit_branch.fields.mlp import fusible
from implicit_branch.fields.radiance import RadianceField
from implicit_branch.fields.sdf import SdfField

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(not gs_ir.has_kernel("sdf_mlp", "CUDA"), reason="the native library was built without CUDA"),
]
POINTS = 20_000


@pytest.fixture
def surface() -> SdfField:
    """A ball with details of a centimetre."""
    torch.manual_seed(0)
    field = SdfField(xyz_encoding={"start_level": 16, "log2_hashmap_size": 14}, half_precision=True)
    with torch.no_grad():
        # What a level adds is a fraction of its cell, so that slopes stay of order one.
        sizes = [b - a for a, b in zip(field.encoding.layout.offsets[:-1], field.encoding.layout.offsets[1:])]
        cells = torch.repeat_interleave(1 / torch.tensor(field.encoding.layout.resolutions), torch.tensor(sizes))
        field.encoding.grid.table.normal_().mul_(cells[:, None])
        field.network.layers[0].parametrizations.weight.original1[:, 3:].normal_(0, 0.2)
    return field.cuda()


def _points() -> torch.Tensor:
    return (1.9 * torch.rand(POINTS, 3, generator=torch.Generator().manual_seed(1)) - 0.95).cuda()


def _set_precision(field, half: bool) -> None:
    field.half_precision = field.encoding.grid.half_precision = half


def test_distances_and_normals_are_close(surface):
    """Fails when rounding costs more than a tenth of a millimetre or a twentieth of a degree.

    Worst differences expected: 1e-5 of the distance, 0.01 degrees on average.
    """
    points = _points()
    assert fusible(surface.network.tensors(), points, parts=2)
    fused = surface(points)
    with torch.no_grad():
        torch.testing.assert_close(surface.distance(points), fused.sdf, rtol=0, atol=2e-5)
        torch.testing.assert_close(surface.features(points), fused.features, rtol=1e-4, atol=1e-4)
    _set_precision(surface, False)
    exact = surface(points)
    assert float((fused.sdf - exact.sdf).abs().max()) < 1e-4
    angle = torch.nn.functional.cosine_similarity(fused.gradient, exact.gradient).clamp(-1, 1).acos().rad2deg()
    assert float(angle.mean()) < 0.05


def test_eikonal_step_is_close(surface):
    """Fails when a parameter's gradient, or that of the points, is not that of single precision.

    Worst difference expected, of the gradient's length: 5e-3.
    """
    points, gradients = _points().requires_grad_(), []
    for half in (True, False):
        _set_precision(surface, half)
        sample = surface(points)
        loss = sample.sdf.abs().mean() + (sample.gradient.norm(dim=-1) - 1).square().mean()
        loss = loss + sample.features.square().mean()
        gradients.append(torch.autograd.grad(loss, list(surface.parameters())))
    for found, expected in zip(*gradients, strict=True):
        difference = float((found - expected).norm() / expected.norm())
        assert difference < 2e-2, (tuple(found.shape), difference)


def test_radiance_is_close():
    """Fails when colours change by more than a tenth of an 8-bit step, or the table's gradient is another."""
    torch.manual_seed(0)
    field = RadianceField(
        xyz_encoding={"start_level": 16, "log2_hashmap_size": 14}, geometry_features=13, half_precision=True
    ).cuda()
    with torch.no_grad():
        field.encoding.grid.table.normal_(0, 0.3)
    points, geometry = _points(), torch.randn(POINTS, 13, device="cuda")
    normal, view_dir = (torch.nn.functional.normalize(torch.randn(POINTS, 3, device="cuda"), dim=-1) for _ in range(2))
    results = []
    for half in (True, False):
        _set_precision(field, half)
        colour = field(field.appearance(points), geometry, normal, view_dir)
        (gradient,) = torch.autograd.grad(colour.square().mean(), field.encoding.grid.table)
        results.append((colour.detach(), gradient))
    assert results[0][1].dtype == torch.float32
    assert float((results[0][0] - results[1][0]).abs().max()) < 2e-3
    assert float((results[0][0] - results[1][0]).abs().mean()) < 4e-4
    assert float((results[0][1] - results[1][1]).norm() / results[1][1].norm()) < 2e-2


def test_table_is_rounded_anew_after_a_change(surface):
    """Fails when a rounded table outlives the parameter that it was made of."""
    points = _points()
    with torch.no_grad():
        before = surface.distance(points)
        surface.encoding.grid.table.mul_(2.0)
        after = surface.distance(points)
        _set_precision(surface, False)
        assert not torch.allclose(before, after)
        torch.testing.assert_close(after, surface.distance(points), rtol=0, atol=1e-4)
