"""Adjoint of the surfel rasteriser: finite differences in float64, autograd of the reference, and its definition."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from gs_ir.reference import surfels as reference
from gs_ir.surfels import project_surfels, rasterize_surfels
from gs_ir.tiling import tile_surfels
from tests.gs_ir.surfel_scenes import Scene, one_surfel, random_scene

NAMES = ("centers", "tangents_u", "tangents_v", "opacities", "features")
# the distortion's unit is small: scaled so that its gradient weighs as much as the others'
SCALES = {"features": 1.0, "alpha": 1.0, "depth": 1.0, "median_depth": 1.0, "normal": 1.0, "distortion": 1e3}


def _random_loss(scene: Scene, surfels, seed: int = 0, **options) -> Tensor:
    """A fixed random linear functional of all images."""
    raster = rasterize_surfels(*surfels, **scene.view, **options)
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), dtype=surfels[0].dtype)
    for name, scale in SCALES.items():
        image = getattr(raster, name)
        weights = torch.randn(image.shape, generator=generator, dtype=torch.float64).to(image.dtype)
        total = total + scale * (image * weights).sum()
    return total


def _gradients(scene: Scene, **options) -> list[Tensor]:
    surfels = [x.clone().requires_grad_() for x in scene.surfels]
    return list(torch.autograd.grad(_random_loss(scene, surfels, **options), surfels))


SCENES = {
    "discs": random_scene(7, (0.1, 0.5), seed=11, size=(13, 11), channels=2),
    "screen filter": random_scene(9, (0.001, 0.01), seed=12, size=(9, 18), channels=2),
    "both": random_scene(12, (0.01, 0.2), seed=13, size=(19, 8), channels=1),
    "opaque": replace(
        random_scene(8, (0.2, 0.6), seed=14, size=(9, 9), channels=1), opacities=torch.full((8,), 1.0).double()
    ),
}


@pytest.mark.parametrize("scene", SCENES)
def test_gradcheck(scene):
    """Fails on a wrong adjoint of any image by any input: discs, filter, clamped alpha, pixels that end early.

    Three random sums over the pixels stand for each image, so that the check needs as many backward passes and not one
    a pixel; the output's number divided by three is the number of the image in SCALES.
    """
    scene = SCENES[scene]
    surfels = [x.clone().requires_grad_() for x in scene.surfels]
    generator = torch.Generator().manual_seed(0)
    channels = {"features": scene.features.shape[1], "normal": 3}
    weights = {
        name: scale * torch.randn(3, scene.height, scene.width, channels.get(name, 1), generator=generator).double()
        for name, scale in SCALES.items()
    }

    def draw(*arguments: Tensor) -> Tensor:
        raster = rasterize_surfels(*arguments, **scene.view)
        return torch.cat([weights[name].flatten(1) @ getattr(raster, name).flatten() for name in SCALES])

    assert torch.autograd.gradcheck(draw, surfels, eps=1e-7, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("scale", [(0.02, 0.2), (0.001, 0.02)])
def test_native_equals_reference(scale):
    """Fails when the reverse traversal and autograd of the separately written reference disagree."""
    scene = random_scene(150, scale, seed=21, size=(61, 35))
    frames, _, boxes, _ = project_surfels(*scene.surfels[:4], **scene.view)
    size = {"width": scene.width, "height": scene.height}
    tiles = tile_surfels(boxes, frames[:, 8], **size)
    leaves = [x.clone().requires_grad_() for x in (frames, scene.opacities, scene.features)]
    native = torch.ops.gs_ir.rasterize_surfels(*leaves, boxes, *tiles, None, **size)[:5]
    expected = reference.rasterize_surfels(*leaves, *tiles, **size)
    generator = torch.Generator().manual_seed(0)
    cotangents = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in expected]
    pairs = zip(*(torch.autograd.grad(images, leaves, cotangents) for images in (native, expected)), strict=True)
    for found, wanted in pairs:
        assert (found - wanted).norm() < 1e-10 * wanted.norm()


@pytest.mark.parametrize("scale", [(0.02, 0.1), (0.001, 0.02)])
def test_float32_equals_float64(scale):
    """Fails when single precision ruins the division that recovers transmittance or the plane's adjoint.

    Surfels on the threshold of a pixel may be blended in one precision only, and their gradients then differ; they are
    few, so the median and the 98th percentile of the relative error are asked for, not the largest.
    """
    scene = random_scene(600, scale, seed=22, size=(90, 60))
    exact, single = _gradients(scene), _gradients(scene.to(torch.float32))
    for name, wanted, found in zip(NAMES, exact, single, strict=True):
        error = (found - wanted).reshape(len(wanted), -1).norm(dim=1)
        relative = error / (wanted.reshape(len(wanted), -1).norm(dim=1) + 1e-3 * wanted.abs().max())
        assert relative.median() < 5e-5, name
        assert relative.quantile(0.98) < 2e-3, name


def test_normals_get_their_gradient_with_the_side_that_is_seen():
    """Fails when the flip towards the camera is left out of the adjoint: both sides of a disc must turn alike."""
    front = one_surfel([0, 0, 2.0], [0.3, 0, 0.1], [0, 0.3, 0.05])
    back = replace(front, tangents_u=front.tangents_v, tangents_v=front.tangents_u)
    gradients = []
    for scene in (front, back):
        surfels = [x.clone().requires_grad_() for x in scene.surfels]
        rasterize_surfels(*surfels, **scene.view).normal[..., 0].sum().backward()
        gradients.append([x.grad for x in surfels])
    torch.testing.assert_close(gradients[0][1], gradients[1][2])
    torch.testing.assert_close(gradients[0][2], gradients[1][1])
    torch.testing.assert_close(gradients[0][0], gradients[1][0])


def test_exactly_the_blended_surfels_get_gradients():
    """Fails when a visible surfel is skipped in the backward, or a hidden or culled one receives something."""
    scene = random_scene(800, (0.02, 0.15), seed=23, size=(40, 40))
    scene = replace(scene, opacities=scene.opacities.clamp(min=0.6))
    *geometry, by_features = _gradients(scene)
    blended = by_features.any(1)
    assert 50 < int(blended.sum()) < 790  # some are hidden behind closed pixels
    for name, gradient in zip(NAMES, geometry):
        nonzero = gradient.reshape(800, -1).any(1)
        # an opacity above the clamp everywhere it is seen would be an exception; this scene has none
        assert torch.equal(nonzero, blended), name


def test_screen_statistic_equals_its_definition():
    """Fails when the densification statistic is not (dL/dT_u.z, dL/dT_v.z) T_w.z (W/2, H/2)."""
    scene = random_scene(12, (0.01, 0.2), seed=24, size=(30, 20))
    surfels = [x.clone().requires_grad_() for x in scene.surfels]
    screen_points = torch.zeros(12, 2, dtype=torch.float64, requires_grad=True)
    rasterize_surfels(*surfels, **scene.view, screen_points=screen_points).features.square().sum().backward()

    transforms, normals, boxes, _ = project_surfels(*scene.surfels[:4], **scene.view)
    size = {"width": scene.width, "height": scene.height}
    tiles = tile_surfels(boxes, transforms[:, 8], **size)

    def loss(moved: Tensor) -> Tensor:
        return (
            torch.ops.gs_ir.rasterize_surfels(moved, scene.opacities, scene.features, boxes, *tiles, None, **size)[0]
            .square()
            .sum()
        )

    step = 1e-6
    for axis, entry, extent in ((0, 2, scene.width), (1, 5, scene.height)):
        for surfel in torch.nonzero(boxes.any(1))[:, 0].tolist():
            offset = torch.zeros_like(transforms)
            offset[surfel, entry] = step
            slope = (loss(transforms + offset) - loss(transforms - offset)) / (2 * step)
            expected = slope * transforms[surfel, 8] * extent / 2
            torch.testing.assert_close(screen_points.grad[surfel, axis], expected, rtol=1e-5, atol=1e-4)


def test_screen_statistic_does_not_change_the_gradients():
    """Fails when asking for the statistic adds to, or replaces, a gradient."""
    scene = random_scene(40, (0.01, 0.2), seed=25)
    screen_points = torch.zeros(40, 2, dtype=torch.float64, requires_grad=True)
    for found, expected in zip(_gradients(scene, screen_points=screen_points), _gradients(scene), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.skipif(
    not torch._C._dispatch_has_kernel_for_dispatch_key("gs_ir::rasterize_surfels", "CPU"),
    reason="no native library: PyTorch's own sums, which the reference uses, depend on the number of threads",
)
def test_results_repeat_to_the_bit():
    """Fails when the sum over tiles depends on the threads' timing or number."""
    scene = random_scene(1500, (0.01, 0.1), seed=26, size=(100, 90)).to(torch.float32)
    threads = torch.get_num_threads()
    runs = []
    try:
        for count in (1, 2, 2, 3):
            torch.set_num_threads(count)
            runs.append(_gradients(scene))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        for found, expected in zip(run, runs[0], strict=True):
            assert torch.equal(found, expected)
