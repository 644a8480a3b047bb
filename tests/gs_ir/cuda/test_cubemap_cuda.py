"""CUDA kernels of cube maps: lookups, bordered levels, the GGX convolution."""

import pytest
import torch
from torch import Tensor

from gs_ir import cubemap, prefiltering
from gs_ir.equirect import shrink
from gs_ir.reference import cubemap as reference
from tests.gs_ir.cuda.agreement import assert_agree

F64 = torch.float64
TOLERANCE = {torch.float32: {"rtol": 1e-4, "atol": 2e-5}, F64: {"rtol": 1e-9, "atol": 1e-10}}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, F64])


def _texels(sizes: list[int], dtype: torch.dtype, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(len(sizes))
    return torch.rand(sum(6 * r * r for r in sizes), channels, generator=generator, dtype=F64).to(dtype)


def _queries(count: int, levels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Directions, many near the edges and corners of the cube, and levels of detail between whole numbers."""
    generator = torch.Generator().manual_seed(count)
    d = torch.randn(count, 3, generator=generator, dtype=F64)
    third = count // 3
    d[:third] = d[:third].sign() + 0.05 * d[:third]
    d[third : 2 * third, 0] = 1.001 * d[third : 2 * third, 1]
    lod = (levels - 1) * (0.01 + 0.98 * torch.rand(count, generator=generator, dtype=F64))
    return d.to(dtype), lod.to(dtype)


@DTYPES
@pytest.mark.parametrize("count", [0, 1, 1000])
@pytest.mark.parametrize(("sizes", "channels"), [([16, 8, 8, 2, 1], 3), ([7], 1)])
def test_lookup_and_gradients(dtype: torch.dtype, count: int, sizes: list[int], channels: int) -> None:
    """Fails when a level, a neighbouring face or a tap's gradient is wrong; expected at most 1e-5 in float32: gradients
    of texels sum in any order.
    """
    d, lod = _queries(count, len(sizes), dtype)
    texels = _texels(sizes, dtype, channels).requires_grad_()
    inputs = (texels, sizes, d.requires_grad_(), lod.requires_grad_())
    assert_agree(torch.ops.gs_ir.sample_cubemap, inputs, reference=reference.sample_cubemap, **TOLERANCE[dtype])


@DTYPES
def test_directions_without_cotangent(dtype: torch.dtype) -> None:
    """Fails when a skipped direction's gradient is left unwritten, or one with a single channel's is skipped."""
    sizes = [16, 8, 2]
    d, lod = _queries(300, len(sizes), dtype)
    grad = torch.rand(300, 3, generator=torch.Generator().manual_seed(6), dtype=F64).to(dtype)
    grad[::3] = 0
    grad[1::3, :2] = 0
    inputs = (grad, _texels(sizes, dtype), sizes, d, lod)
    assert_agree(torch.ops.gs_ir.sample_cubemap_backward, inputs, **TOLERANCE[dtype])


@DTYPES
@pytest.mark.parametrize("sizes", [[16, 8, 8, 2, 1], [7], [33, 5]])
def test_bordered_levels(dtype: torch.dtype, sizes: list[int]) -> None:
    """Fails when a border texel comes from the wrong face or level, or a lookup reads past its face; expected at most
    1e-7 and 2e-6.
    """
    texels = _texels(sizes, dtype)
    border = torch.ops.gs_ir.border_cubemap
    assert_agree(border, (texels, sizes), reference=reference.border_cubemap, **TOLERANCE[dtype])
    for count in (0, 1, 1000):
        inputs = (border(texels, sizes), sizes, *_queries(count, len(sizes), dtype))
        assert_agree(torch.ops.gs_ir.sample_bordered, inputs, reference=reference.sample_bordered, **TOLERANCE[dtype])


@DTYPES
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("source", "target", "alpha"),
    [(16, 8, 0.3), (16, 16, 0.03), (8, 16, 1.0), (3, 5, 0.5), (1, 1, 1.0), (64, 37, 0.05), (40, 33, 0.6)],
)
def test_convolution(dtype: torch.dtype, channels: int, source: int, target: int, alpha: float) -> None:
    """Fails when a group or block inside the cone is skipped, or a texel is read from or written to another's place.

    Expected at most 4e-4 of the value in float32 for alpha = 0.03 (the reference's cosines lose digits there), 1e-5
    elsewhere.
    """
    generator = torch.Generator().manual_seed(source)
    values = torch.rand(6, source, source, channels, generator=generator, dtype=F64).to(dtype).requires_grad_()
    inputs = (values, target, alpha, prefiltering._min_cosine(alpha))
    rtol = 1e-3 if dtype == torch.float32 else 1e-9
    atol = rtol * alpha**-4  # of the largest weight: gradients cancel
    assert_agree(torch.ops.gs_ir.convolve_ggx, inputs, reference=reference.convolve_ggx, rtol=rtol, atol=atol)


def test_convolution_of_a_fine_cubemap_is_deterministic() -> None:
    """Fails when sums race: the finest level of a light of 256, whose warps gather alone. Against the CPU's kernel."""
    values = torch.rand(6, 256, 256, 3, generator=torch.Generator().manual_seed(0))
    alpha = prefiltering.FINE_ROUGHNESS[0] ** 2
    arguments = (256, alpha, prefiltering._min_cosine(alpha))
    first, second = (torch.ops.gs_ir.convolve_ggx(values.cuda(), *arguments) for _ in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first.cpu(), torch.ops.gs_ir.convolve_ggx(values, *arguments), rtol=1e-3, atol=0)


@DTYPES
@pytest.mark.parametrize(("height", "width", "resolution", "samples"), [(64, 128, 19, 4), (5, 7, 3, 2), (1, 1, 2, 2)])
def test_resampling(dtype: torch.dtype, height: int, width: int, resolution: int, samples: int) -> None:
    """Fails when the seam, a pole or a weight differs from the CPU's; expected at most 5e-5 in float32."""
    image = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(2), dtype=F64).to(dtype)
    weights = cubemap.texel_solid_angles(resolution * samples, dtype=dtype)
    resample = torch.ops.gs_ir.resample_equirect
    tolerance = 5e-4 if dtype == torch.float32 else 1e-9  # of places in the image, hence of noise
    reference_or_none = reference.resample_equirect if dtype == F64 else None
    assert_agree(resample, (image, weights, resolution), reference=reference_or_none, rtol=tolerance, atol=tolerance)
    if dtype == F64:  # the reference's arcsine in float32 loses half of the digits at the poles
        assert_agree(resample, (image.requires_grad_(), weights, resolution), rtol=tolerance, atol=tolerance)


@DTYPES
@pytest.mark.parametrize("factor", [1, 2, 6])
def test_shrinking(dtype: torch.dtype, factor: int) -> None:
    """Fails when a row has the wrong solid angle or a block begins elsewhere; expected at most 3e-7 in float32."""
    image = torch.rand(12, 300, 3, generator=torch.Generator().manual_seed(3), dtype=F64).to(dtype).requires_grad_()
    tolerance = 1e-6 if dtype == torch.float32 else 1e-12
    assert_agree(torch.ops.gs_ir.shrink_equirect, (image, factor), reference=shrink, rtol=tolerance, atol=tolerance)


def test_a_prepared_light_waits_for_nothing() -> None:
    """Fails when preparing or looking up a light copies from the host or reads back, once its constants are there."""
    image = torch.rand(256, 512, 3, generator=torch.Generator().manual_seed(4)).cuda()
    d = torch.randn(100, 3, generator=torch.Generator().manual_seed(5)).cuda()
    roughness = torch.linspace(0, 1, 100).cuda()

    def use() -> None:
        light = prefiltering.prefilter(cubemap.equirect_to_cubemap(image, 32)).rotated(0.5)
        light.irradiance(d)
        light.radiance(d, roughness)
        light.bordered()

    use()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        use()
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.parametrize("resolution", [16, 64])
def test_prefilter(resolution: int) -> None:
    """Fails when a level of the light or its gradient differs from the CPU's; expected at most 1e-4 of the value."""
    texels = torch.rand(6, resolution, resolution, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()

    def levels(x: Tensor) -> list[Tensor]:
        light = prefiltering.prefilter(x)
        return [*light.mips, light.irradiance_sh]

    assert_agree(levels, (texels,), rtol=1e-3, atol=1e-4)


@DTYPES
@pytest.mark.parametrize(("resolution", "halvings"), [(16, 4), (32, 1), (64, 2), (256, 4), (32, 0)])
def test_pyramid(dtype: torch.dtype, resolution: int, halvings: int) -> None:
    """Fails when a square or face is stored in another's place, or weights are not handed on; expected 1e-6."""
    texels = _texels([resolution], dtype).reshape(6, resolution, resolution, 3)
    angles = cubemap.texel_solid_angles(resolution, dtype=dtype)
    inputs = (texels, angles, halvings)
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else TOLERANCE[dtype]
    assert_agree(torch.ops.gs_ir.cubemap_pyramid, inputs, reference=reference.cubemap_pyramid, **tolerance)


@DTYPES
@pytest.mark.parametrize("count", [0, 1, 4])
def test_levels_beside_each_other(dtype: torch.dtype, count: int) -> None:
    """Fails when the levels on the second stream start before their sources are written, or are read before they end:
    equal to one convolution after the other, to the last bit, however often.
    """
    sizes, alphas = [64, 32, 16, 16][:count], [0.03, 0.1, 0.3, 1.0][:count]
    for seed in range(10):
        generator = torch.Generator("cuda").manual_seed(seed)
        values = [torch.rand(6, r, r, 3, generator=generator, dtype=dtype, device="cuda") + 1 for r in sizes]
        factors = [torch.rand(6, r, r, 1, generator=generator, dtype=dtype, device="cuda") for r in sizes]
        levels = [values, sizes, alphas, [prefiltering._min_cosine(a) for a in alphas], factors, factors]
        found = torch.ops.gs_ir.convolve_levels(*levels)
        sums = [x.sum() for x in found]
        for mip, total, level in zip(found, sums, zip(*levels, strict=True), strict=True):
            assert torch.equal(mip, torch.ops.gs_ir.convolve_ggx(*level))
            assert torch.equal(mip.sum(), total)
