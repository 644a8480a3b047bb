"""Both lobes in one operator: the kernel against the reference, and gradients against finite differences."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from gs_ir.cubemap import PrefilteredLight
from gs_ir.reference.shading import dominant_direction, multi_bounce_visibility, specular_visibility
from gs_ir.shading import LobeRules, shade
from tests.gs_ir.shading_scenes import F64, KNOTS, RULES, SIZES, scene, shade_by_reference, shade_natively


def _values_and_gradients(function: Callable, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Under random cotangents, some of them zero."""
    lobes = function(*inputs)
    generator = torch.Generator().manual_seed(1)
    cotangents = [torch.randn(x.shape, generator=generator, dtype=F64).to(x.dtype) for x in lobes]
    for cotangent in cotangents:
        cotangent[::4] = 0
    gradients = torch.autograd.grad(lobes, inputs, cotangents, allow_unused=True, materialize_grads=True)
    return [*lobes, *gradients]


@pytest.mark.parametrize("count", [0, 1, 700])
@pytest.mark.parametrize("rules", RULES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-4), (F64, 1e-10)])
@pytest.mark.parametrize(("turned", "open_sky"), [(False, False), (True, True), (True, False)])
def test_values_and_gradients_against_the_reference(
    count: int, rules: tuple[bool, ...], dtype: torch.dtype, tolerance: float, turned: bool, open_sky: bool
) -> None:
    """Fails when a factor, a clamp's derivative or a lookup of the loops differs from PyTorch's composition."""
    inputs = scene(count, dtype, open_sky=open_sky)
    found = _values_and_gradients(partial(shade_natively, rules=rules, turned=turned), inputs)
    expected = _values_and_gradients(partial(shade_by_reference, rules=rules, turned=turned), inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rules", RULES, ids=str)
def test_gradients_against_finite_differences(rules: tuple[bool, ...]) -> None:
    """Fails when an adjoint is wrong in both implementations: elements between the kinks, texels included."""
    inputs = scene(6, F64, special=False)
    function = partial(shade_natively, rules=rules, turned=True)
    torch.autograd.gradcheck(function, inputs, eps=1e-7, atol=1e-5, rtol=1e-5, fast_mode=True)


def test_a_fixed_light_gets_no_gradient() -> None:
    """Fails when the other gradients depend on whether the light is trained."""
    inputs = scene(50, F64)
    function = partial(shade_natively, rules=(True, True, True), turned=False)
    trained = _values_and_gradients(function, inputs)
    texels = inputs[-1].detach()
    fixed = _values_and_gradients(lambda *elements: function(*elements, texels), inputs[:-1])
    for a, b in zip(fixed, trained):
        assert torch.equal(a, b)


def test_views_are_read_in_their_order() -> None:
    """Fails when strides are ignored: columns of a material, as the raster delivers them."""
    normals, to_viewer, albedo, roughness, metallic, visibility, texels = (x.detach() for x in scene(40, F64))
    columns = torch.cat([albedo, roughness[:, None], metallic[:, None]], 1)
    views = (normals, to_viewer, columns[:, :3], columns[:, 3], columns[:, 4], visibility, texels)
    function = partial(shade_natively, rules=(False, False, True), turned=False)
    for a, b in zip(function(*views), function(normals, to_viewer, albedo, roughness, metallic, visibility, texels)):
        assert torch.equal(a, b)


def test_wrong_shapes_are_refused() -> None:
    """Fails when a mistaken shape is read past its end."""
    normals, to_viewer, albedo, roughness, metallic, visibility, _ = (x.detach() for x in scene(5, F64))
    light = PrefilteredLight([torch.rand(6, r, r, 3, dtype=F64) for r in SIZES], KNOTS, torch.zeros(9, 3, dtype=F64))
    good = {"albedo": albedo, "roughness": roughness, "metallic": metallic, "visibility": visibility, "light": light}
    for name in ("roughness", "metallic", "visibility"):
        with pytest.raises(ValueError, match="shade"):
            shade(normals, to_viewer, **(good | {name: good[name][:3]}), rules=LobeRules())
    with pytest.raises(ValueError, match="shade"):
        shade(normals[:4], to_viewer, **good, rules=LobeRules())
    single = PrefilteredLight(light.mips[-1:], [1.0], light.irradiance_sh)
    with pytest.raises(ValueError, match="two levels"):
        shade(normals, to_viewer, **(good | {"light": single}), rules=LobeRules())


def test_lobe_direction() -> None:
    """Fails when the lean towards the normal is reversed: a mirror keeps its direction, a rough lobe nears n."""
    normals = torch.tensor([[0.0, 0.0, 1.0]]).expand(3, 3)
    mirrored = normalize(torch.tensor([[1.0, 0.0, 0.3]]), dim=-1).expand(3, 3)
    found = dominant_direction(normals, mirrored, torch.tensor([0.0, 0.6, 1.0]))
    torch.testing.assert_close(found[0], mirrored[0], atol=2e-3, rtol=0)
    torch.testing.assert_close(found[2], normals[2], atol=2e-3, rtol=0)
    assert float(mirrored[0, 2]) < float(found[1, 2]) < 1


def test_specular_visibility_limits() -> None:
    """Fails when the exponent's sign is wrong: open stays open, a rough surface from above keeps the ambient value.

    A mirror between half and fully open is brighter than the ambient value.
    """
    visibility = torch.tensor([1.0, 0.4, 0.9])
    above = torch.ones(3)
    assert float(specular_visibility(visibility, above, torch.full((3,), 0.5))[0]) == pytest.approx(1, abs=1e-4)
    rough = specular_visibility(visibility, above, above)
    torch.testing.assert_close(rough, visibility, atol=1e-3, rtol=0)
    mirror = specular_visibility(visibility, above, 0 * above)
    assert (mirror[1:] > visibility[1:]).all()
    assert (mirror <= 1).all()


def test_multi_bounce_only_brightens_and_by_albedo() -> None:
    """Fails when coefficients are swapped: black surroundings add nothing, white ones most, open and closed stay."""
    visibility = torch.linspace(0, 1, 21)
    black, white = (multi_bounce_visibility(visibility, torch.full((21, 3), a))[:, 0] for a in (0.0, 1.0))
    torch.testing.assert_close(black, visibility, atol=0.09, rtol=0)
    assert (white[1:-1] > visibility[1:-1] + 0.01).all()
    torch.testing.assert_close(white[[0, -1]], torch.tensor([0.0, 1.0]), atol=1e-3, rtol=0)
    exact = visibility / (1 - 0.5 * (1 - visibility))  # interreflection in a cavity of albedo 0.5
    fitted = multi_bounce_visibility(visibility, torch.full((21, 3), 0.5))[:, 0]
    torch.testing.assert_close(fitted, exact, atol=0.06, rtol=0)
