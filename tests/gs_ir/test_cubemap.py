"""Cube maps: geometry, seamless lookup, prefilter; native against reference and against brute force."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from gs_ir import cubemap, prefiltering
from gs_ir.cubemap import equirect_to_cubemap, sample_cubemap, texel_directions, texel_solid_angles
from gs_ir.equirect import row_solid_angles, shrink
from gs_ir.prefiltering import prefilter
from gs_ir.reference import cubemap as reference
from gs_ir.reference.spherical_harmonics import basis

F64 = torch.float64


def _directions(count: int, seed: int = 0) -> Tensor:
    raw = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return normalize(raw, dim=-1)


def _mips(sizes: list[int], seed: int = 0, channels: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(6, r, r, channels, generator=generator, dtype=F64) for r in sizes]


def _smooth_light(directions: Tensor) -> Tensor:
    """A sky gradient, a wide lamp and a colour that turns: linear radiance [..., 3]."""
    lamp = torch.exp(6 * (directions @ normalize(torch.tensor([0.5, -0.6, 0.4], dtype=F64), dim=0) - 1))
    x, y, z = directions.unbind(-1)
    return torch.stack([1 - 0.8 * y + 5 * lamp, 1 - 0.7 * y + 4 * lamp + 0.2 * x, 1 + 0.3 * x * z + 3 * lamp], -1)


# ---- Geometry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", [1, 2, 5, 16])
def test_solid_angles_sum_to_the_sphere(resolution: int) -> None:
    """Fails on the product-of-arctangents area of the reference system, 8 % too large."""
    assert 6 * float(texel_solid_angles(resolution, dtype=F64).sum()) == pytest.approx(4 * torch.pi, rel=1e-12)


def test_faces_follow_opengl() -> None:
    """Fails when a face is flipped: corners of each face against the published table, and the inverse mapping."""
    s, t = torch.tensor(0.5, dtype=F64), torch.tensor(-0.25, dtype=F64)
    published = [(1, -t, -s), (-1, -t, s), (s, 1, t), (s, -1, -t), (s, -t, 1), (-s, -t, -1)]
    for face, expected in enumerate(published):
        point = reference.face_points(torch.tensor(face), s, t)
        torch.testing.assert_close(point, torch.tensor(expected, dtype=F64))
        found, *place = reference.face_coordinates(3 * point)
        assert int(found) == face
        torch.testing.assert_close(torch.stack(place), torch.stack([s, t]))


# ---- Lookup ----------------------------------------------------------------------------------------------------------


def test_lookup_at_texel_centres_returns_texels() -> None:
    """Fails on a half-texel shift or a swapped face."""
    (mip,) = _mips([8])
    found = sample_cubemap([mip], texel_directions(8, dtype=F64).reshape(-1, 3), torch.zeros(384, dtype=F64))
    torch.testing.assert_close(found, mip.reshape(-1, 3))


@pytest.mark.parametrize("resolution", [1, 4, 7])
def test_lookup_is_continuous_across_edges(resolution: int) -> None:
    """Fails when a border texel comes from the wrong face or row: values a hair apart on both sides of every edge.

    Noise texels differ by 1, so a wrong neighbour shows as a jump of order 0.1.
    """
    mips = _mips([resolution])
    generator = torch.Generator().manual_seed(1)
    along = 2 * torch.rand(400, generator=generator, dtype=F64) - 1
    signs = 2.0 * torch.randint(0, 2, (400, 2), generator=generator) - 1
    points = torch.stack([along, signs[:, 0], signs[:, 1]], 1)
    points = torch.cat([points, points.roll(1, 1), points.roll(2, 1), torch.sign(points)])
    lod = torch.zeros(len(points), dtype=F64)
    nearby = [points * (1 + 1e-7 * torch.randn(points.shape, generator=generator, dtype=F64)) for _ in range(2)]
    first, second = (sample_cubemap(mips, p, lod) for p in nearby)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


def test_level_of_detail_interpolates() -> None:
    """Fails when levels are chosen by rounding or the last level is never reached."""
    mips = [torch.full((6, r, r, 3), value, dtype=F64) for r, value in ((8, 1.0), (4, 2.0), (4, 5.0))]
    lod = torch.tensor([-1.0, 0.0, 0.5, 1.0, 1.75, 2.0, 9.0], dtype=F64)
    found = sample_cubemap(mips, _directions(7), lod)[:, 0]
    torch.testing.assert_close(found, torch.tensor([1, 1, 1.5, 2, 4.25, 5, 5], dtype=F64))


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_lookup_and_gradients_equal_reference(dtype: torch.dtype) -> None:
    """Fails when the kernel's corner weights or adjoint differ; directions on edges and corners included."""
    mips = [m.to(dtype) for m in _mips([16, 8, 8, 2, 1])]
    texels, sizes = torch.cat([m.reshape(-1, 3) for m in mips]), [m.shape[1] for m in mips]
    d = 3 * _directions(1500).to(dtype)
    d[:100], d[100:200, 0] = d[:100].sign(), d[100:200, 1]
    lod = 4 * torch.rand(1500, generator=torch.Generator().manual_seed(2), dtype=dtype)
    cotangent = torch.randn(1500, 3, generator=torch.Generator().manual_seed(3), dtype=dtype)
    results = []
    for lookup in (torch.ops.gs_ir.sample_cubemap, reference.sample_cubemap):
        inputs = [x.clone().requires_grad_() for x in (texels, d, lod)]
        value = lookup(inputs[0], sizes, inputs[1], inputs[2])
        results.append([value, *torch.autograd.grad(value, inputs, cotangent)])
    for native, expected in zip(*results, strict=True):
        torch.testing.assert_close(native, expected, atol=2e-5 if dtype == torch.float32 else 1e-10, rtol=1e-4)


def test_lookup_gradcheck() -> None:
    """Fails when the adjoint by texels, direction or level of detail is wrong; also at a corner of the cube."""
    mips = [m.requires_grad_() for m in _mips([3, 2, 1], channels=2)]
    d = torch.cat([_directions(8), torch.tensor([[1.0, 0.93, -0.95]], dtype=F64)]).requires_grad_()
    lod = (0.1 + 1.8 * torch.rand(9, generator=torch.Generator().manual_seed(4), dtype=F64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b, c, x, y: sample_cubemap([a, b, c], x, y), (*mips, d, lod))


def test_lookup_rejects_wrong_shapes() -> None:
    """Fails when a batch dimension is read as directions."""
    with pytest.raises(ValueError, match="lod"):
        sample_cubemap(_mips([2]), _directions(4), torch.zeros(3, dtype=F64))


def test_no_directions() -> None:
    """Empty lookups return empty tensors, forward and backward."""
    mip = _mips([2])[0].requires_grad_()
    out = sample_cubemap([mip], torch.zeros(0, 3, dtype=F64), torch.zeros(0, dtype=F64))
    out.sum().backward()
    assert out.shape == (0, 3)
    assert not mip.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("sizes", [[16, 8, 8, 2, 1], [7]])
def test_bordered_levels_give_the_seamless_lookup(dtype: torch.dtype, sizes: list[int]) -> None:
    """Fails when a border texel or a corner's mean differs from the lookup's: random directions, edges and corners."""
    texels = torch.cat([m.reshape(-1, 3) for m in _mips(sizes)]).to(dtype)
    d = 3 * _directions(3000).to(dtype)
    d[:200], d[200:600, 0] = d[:200].sign() + 0.05 * d[:200], d[200:600, 1]
    lod = (len(sizes) - 1) * torch.rand(3000, generator=torch.Generator().manual_seed(2), dtype=dtype)
    bordered = torch.ops.gs_ir.border_cubemap(texels, sizes)
    torch.testing.assert_close(bordered, reference.border_cubemap(texels, sizes), rtol=1e-6, atol=0)
    expected = torch.ops.gs_ir.sample_cubemap(texels, sizes, d, lod)
    for lookup in (torch.ops.gs_ir.sample_bordered, reference.sample_bordered):
        torch.testing.assert_close(lookup(bordered, sizes, d, lod), expected, atol=2e-6, rtol=0)


def test_light_as_one_bordered_tensor() -> None:
    """Fails when levels are out of order: the tensor that kernels of frames read, against the light's own lookup."""
    light = prefilter(_smooth_light(texel_directions(16, dtype=F64)))
    d, roughness = _directions(100), torch.linspace(0, 1, 100, dtype=F64)
    found = torch.ops.gs_ir.sample_bordered(light.bordered(), [m.shape[1] for m in light.mips], d, light.lod(roughness))
    torch.testing.assert_close(found, light.radiance(d, roughness))


# ---- From equirectangular images -------------------------------------------------------------------------------------


def test_bright_texel_lands_on_the_right_face() -> None:
    """Fails when the image is mirrored: centre on +z, top row on -y, right quarter on +x."""
    for row, column, face in ((16, 32, 4), (0, slice(None), 3), (16, 48, 0), (16, 16, 1)):
        image = torch.zeros(32, 64, 3)
        image[row, column] = 1
        assert int(equirect_to_cubemap(image, 8).sum((1, 2, 3)).argmax()) == face


@pytest.mark.parametrize("width", [64, 512])
def test_a_small_sun_keeps_its_energy(width: int) -> None:
    """Fails when large images are subsampled: one texel, 18 degrees or more from the poles."""
    generator = torch.Generator().manual_seed(5)
    for _ in range(8):
        image = torch.zeros(width // 2, width, 3, dtype=F64)
        row = int(torch.randint(width // 20, width // 2 - width // 20, (), generator=generator))
        image[row, int(torch.randint(0, width, (), generator=generator))] = 1000
        area = row_solid_angles(width // 2, width, image)[row]
        found = (equirect_to_cubemap(image, 16) * texel_solid_angles(16, dtype=F64)[..., None]).sum((0, 1, 2))
        torch.testing.assert_close(found, (1000 * area).expand(3), rtol=0.05, atol=0)


@pytest.mark.parametrize(("height", "width", "resolution", "samples"), [(8, 16, 4, 3), (5, 7, 3, 2), (1, 1, 2, 2)])
def test_resampling_equals_reference(height: int, width: int, resolution: int, samples: int) -> None:
    """Fails when the seam, a pole or a weight differs. In float32 against the reference in float64, whose own arcsine
    loses half of the digits near the poles.
    """
    image = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(10), dtype=F64).requires_grad_()
    weights = texel_solid_angles(resolution * samples, dtype=F64)
    expected = reference.resample_equirect(image, weights, resolution)
    found = torch.ops.gs_ir.resample_equirect(image, weights, resolution)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(x.square().sum(), image)[0] for x in (found, expected)))
    single = torch.ops.gs_ir.resample_equirect(image.detach().float(), weights.float(), resolution)
    torch.testing.assert_close(single.double(), expected.detach(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("factor", [1, 2, 6])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_shrinking_equals_reference(dtype: torch.dtype, factor: int) -> None:
    """Fails when a row has the wrong solid angle or a block begins elsewhere."""
    image = torch.rand(12, 30, 3, generator=torch.Generator().manual_seed(11), dtype=dtype).requires_grad_()
    expected, found = shrink(image, factor), torch.ops.gs_ir.shrink_equirect(image, factor)
    torch.testing.assert_close(found, expected, rtol=1e-6 if dtype == torch.float32 else 1e-12, atol=0)
    torch.testing.assert_close(*(torch.autograd.grad(x.square().sum(), image)[0] for x in (found, expected)))


def test_images_of_other_shapes_are_rejected() -> None:
    """Fails when a picture with alpha is read as rgb."""
    with pytest.raises(ValueError, match="expected"):
        equirect_to_cubemap(torch.zeros(8, 16, 4), 4)


# ---- Prefilter -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [None, prefiltering.published_levels(32)])
def test_constant_light_stays_constant(levels: list | None) -> None:
    """Fails without normalisation or with wrong areas: every level 1 within 0.5 %, irradiance / pi 1 within 0.1 %."""
    light = prefilter(torch.ones(6, 32, 32, 3), levels)
    for mip in light.mips:
        torch.testing.assert_close(mip, torch.ones_like(mip), atol=1e-4, rtol=0)
    normals = _directions(100).float()
    for irradiance in (light.irradiance(normals), _from_harmonics(light, normals)):
        torch.testing.assert_close(irradiance, torch.ones(100, 3), atol=1e-4, rtol=0)


def test_irradiance_against_quadrature() -> None:
    """Fails when the cosine lobe or a band is weighted wrongly; cosine sum over a fine cube map.

    Measured: lookup mean 0.2 %, worst 0.7 %; harmonics mean 0.9 %, worst 3 %.
    """
    fine = texel_directions(32, dtype=F64)
    weights = texel_solid_angles(32, dtype=F64).expand(6, 32, 32)
    normals = _directions(200)
    cosine = (normals @ fine.reshape(-1, 3).T).clamp_min(0) * weights.reshape(-1)
    exact = cosine @ _smooth_light(fine).reshape(-1, 3) / torch.pi
    light = prefilter(_smooth_light(fine))
    for found, worst, mean in ((light.irradiance(normals), 0.01, 4e-3), (_from_harmonics(light, normals), 0.05, 0.02)):
        error = (found - exact).abs() / exact
        assert float(error.max()) < worst
        assert float(error.mean()) < mean


def _from_harmonics(light: cubemap.PrefilteredLight, normals: Tensor) -> Tensor:
    return basis(normals, 2) @ light.irradiance_sh


def test_levels_against_brute_force() -> None:
    """Fails when a level uses the wrong lobe: GGX mean around texel centres by quadrature on a 96 x 96 cube map.

    Measured worst relative error over all levels 0.6 %.
    """
    light = prefilter(_smooth_light(texel_directions(32, dtype=F64)))
    fine = texel_directions(96, dtype=F64).reshape(-1, 3)
    weights = texel_solid_angles(96, dtype=F64).expand(6, 96, 96).reshape(-1)
    radiance = _smooth_light(fine)
    for mip, roughness in zip(light.mips, light.roughness, strict=True):
        chosen = torch.arange(3, mip[..., 0].numel(), mip[..., 0].numel() // 40)
        n = texel_directions(mip.shape[1], dtype=F64).reshape(-1, 3)[chosen]
        cosine = n @ fine.T
        squared = roughness**4
        lobe = weights * cosine.clamp_min(0) / ((1 + cosine) / 2 * (squared - 1) + 1).square()
        exact = lobe @ radiance / lobe.sum(1, keepdim=True)
        assert float(((mip.reshape(-1, 3)[chosen] - exact) / exact).abs().max()) < 0.015, roughness


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(("source", "target", "alpha"), [(16, 8, 0.3), (16, 16, 0.03), (8, 16, 1.0), (3, 5, 0.5)])
def test_convolution_equals_reference(dtype: torch.dtype, source: int, target: int, alpha: float) -> None:
    """Fails when culling drops a tile that the cone reaches, or a texel is stored in the wrong place."""
    values = torch.rand(6, source, source, 3, generator=torch.Generator().manual_seed(6), dtype=dtype)
    min_cosine = prefiltering._min_cosine(alpha)
    found = torch.ops.gs_ir.convolve_ggx(values, target, alpha, min_cosine)
    expected = reference.convolve_ggx(values.double(), target, alpha, min_cosine)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3 if dtype == torch.float32 else 1e-9, atol=1e-9)


def test_prefilter_gradcheck() -> None:
    """Fails when the convolution is not its own adjoint or the pyramid's is missing."""
    texels = torch.rand(6, 32, 32, 3, generator=torch.Generator().manual_seed(7), dtype=F64).requires_grad_()
    directions = [torch.rand(m.shape, generator=torch.Generator().manual_seed(8), dtype=F64) for m in _mips([32, 16])]

    def project(x: Tensor) -> Tensor:
        light = prefilter(x, [(32, 0.2), (16, 1.0)])
        return sum((m * d).sum() for m, d in zip(light.mips, directions, strict=True)) + light.irradiance_sh.sum()

    assert torch.autograd.gradcheck(project, texels, fast_mode=True)


def test_harmonics_and_single_levels_alone() -> None:
    """Fails when the backward mixes up levels where only some outputs have cotangents."""
    texels = torch.rand(6, 64, 64, 3, generator=torch.Generator().manual_seed(3), dtype=F64).requires_grad_()

    def outputs() -> list[Tensor]:
        light = prefilter(texels)
        return [*light.mips, light.irradiance_sh]

    cotangents = [torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=F64) for x in outputs()]
    alone = [torch.autograd.grad(outputs()[i], texels, c)[0] for i, c in enumerate(cotangents)]
    together = torch.autograd.grad(outputs(), texels, cotangents)[0]
    torch.testing.assert_close(sum(alone), together, rtol=1e-9, atol=1e-12)


def test_prefilter_equals_with_and_without_gradient() -> None:
    """Fails when the path that bypasses autograd filters otherwise, or cuts the gradient of an image."""
    image = torch.rand(64, 128, 3, generator=torch.Generator().manual_seed(5)).requires_grad_()
    learned = prefilter(cubemap.equirect_to_cubemap(image, 16))
    with torch.no_grad():
        fixed = prefilter(cubemap.equirect_to_cubemap(image, 16))
    for a, b in zip([*learned.mips, learned.irradiance_sh], [*fixed.mips, fixed.irradiance_sh], strict=True):
        assert torch.equal(a, b)
        assert a.requires_grad
        assert not b.requires_grad
    assert torch.autograd.grad(learned.mips[-1].sum(), image)[0].abs().sum() > 0


def test_prefilter_is_deterministic() -> None:
    """Fails when threads race for a sum."""
    texels = torch.rand(6, 32, 32, 3, generator=torch.Generator().manual_seed(9))
    first, second = prefilter(texels), prefilter(texels)
    assert all(torch.equal(a, b) for a, b in zip(first.mips, second.mips, strict=True))


def test_roughness_to_level() -> None:
    """Fails when the interpolation of roughness is not the inverse of the list of levels."""
    light = prefilter(torch.rand(6, 16, 16, 3))
    knots = torch.tensor(light.roughness)
    torch.testing.assert_close(light.lod(knots), torch.arange(len(knots)).float())
    torch.testing.assert_close(light.lod(torch.tensor([0.0, 0.9, 1.0])), torch.tensor([0.0, 6.5, 7.0]))


def test_rotated_light_equals_rotated_map() -> None:
    """Fails when the rotation is inverted: the prefiltered light turned by a quarter against a turned map."""
    turn = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]], dtype=F64)  # +z to +x, +x to -z
    base = texel_directions(16, dtype=F64)
    turned_map = prefilter(_smooth_light(base @ turn))  # the light arriving at d is that of turn^-1 d
    turned = prefilter(_smooth_light(base)).rotated(torch.pi / 2)
    d, roughness = _directions(50), torch.full((50,), 0.5, dtype=F64)
    torch.testing.assert_close(turned.irradiance(d), turned_map.irradiance(d), rtol=1e-6, atol=0)
    torch.testing.assert_close(turned.radiance(d, roughness), turned_map.radiance(d, roughness), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(6, 24, 24, 3), (6, 8, 8, 3), (5, 16, 16, 3), (6, 16, 32, 3)])
def test_prefilter_rejects_other_shapes(shape: tuple[int, ...]) -> None:
    """Fails when a resolution that the pyramid cannot halve passes."""
    with pytest.raises(ValueError, match="expected"):
        prefilter(torch.zeros(shape))
