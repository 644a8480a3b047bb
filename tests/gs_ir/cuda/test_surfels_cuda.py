"""CUDA kernels of the rasteriser: projection, tile lists, drawing and its adjoint."""

from dataclasses import replace

import pytest
import torch

from gs_ir.reference import surfels as reference
from gs_ir.surfels import project_surfels, rasterize_surfels
from gs_ir.tiling import tile_surfels
from tests.gs_ir.cuda.agreement import assert_agree
from tests.gs_ir.surfel_scenes import Scene, random_scene

SCENES = [(1, (0.05, 0.1), (33, 17)), (300, (0.005, 0.15), (67, 35)), (3000, (0.001, 0.03), (200, 130))]
IMAGES = ("features", "alpha", "depth", "median_depth", "normal", "distortion")


def _scene(surfels: int, scale: tuple, size: tuple, features: int = 5) -> Scene:
    scene = random_scene(surfels, scale, seed=surfels, size=size)
    generator = torch.Generator().manual_seed(1)
    return replace(scene, features=torch.rand(surfels, features, generator=generator, dtype=torch.float64))


def _images(scene: Scene, **options):
    def draw(*surfels):
        device = surfels[0].device
        view = {k: v.to(device, surfels[0].dtype) if torch.is_tensor(v) else v for k, v in scene.view.items()}
        raster = rasterize_surfels(*surfels, **view, **options)
        return tuple(getattr(raster, name) for name in IMAGES)

    return draw


def _leaves(scene: Scene, dtype: torch.dtype) -> tuple:
    return tuple(x.to(dtype).requires_grad_() for x in scene.surfels)


@pytest.mark.parametrize(("surfels", "scale", "size"), SCENES)
@pytest.mark.parametrize("features", [0, 3, 5, 16, 18, 40])
def test_drawing_and_gradients(surfels, scale, size, features):
    """Fails when a pixel, a surfel, a channel or a term of the adjoint is lost; float64 leaves no room for rounding."""
    scene = _scene(surfels, scale, size, features)
    assert_agree(_images(scene), _leaves(scene, torch.float64), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("surfels", "scale", "size"), SCENES)
def test_drawing_equals_reference(surfels, scale, size):
    """Fails when kernels of both backends share a mistake: the reference tests every pixel against every surfel."""
    scene = _scene(min(surfels, 300), scale, size)
    dtype = torch.float64
    camera = scene.intrinsics @ scene.camera_from_world[:3]
    sizes = {"width": scene.width, "height": scene.height}

    def draw(transforms, opacities, values, boxes, offsets, members):
        arguments = transforms, opacities, values, boxes, offsets, members, None
        return torch.ops.gs_ir.rasterize_surfels(*arguments, **sizes)[:5]

    def expected(transforms, opacities, values, boxes, offsets, members):
        return reference.rasterize_surfels(transforms, opacities, values, offsets, members, **sizes)

    frames = reference.project_surfels(*(x.to(dtype) for x in scene.surfels[:4]), camera, **sizes)
    tiles = tile_surfels(frames[2], frames[0][:, 8], scene.width, scene.height)
    leaves = [x.detach().requires_grad_() for x in (frames[0], scene.opacities, scene.features)]
    assert_agree(draw, (*leaves, frames[2], *tiles), reference=expected, rtol=1e-7, atol=1e-7)


def test_float32_equals_float64():
    """Fails when single precision loses digits on the GPU; pixels at a threshold may differ by one contribution."""
    scene = _scene(*SCENES[2])
    single = _images(scene)(*(x.float().cuda() for x in scene.surfels))
    exact = _images(scene)(*(x.cuda() for x in scene.surfels))
    for name, a, b in zip(IMAGES, single, exact):
        error = (a - b).abs() / b.abs().amax()
        assert error.quantile(0.995) < 2e-5, name
        assert error.max() < 0.05, name


def test_float32_gradients_equal_the_cpu(fresh_memory):
    """Fails when forward and backward disagree on what a pixel blended; worst relative difference expected 2e-3."""
    scene = _scene(*SCENES[1])

    def gradients(device):
        leaves = [x.detach().float().to(device).requires_grad_() for x in scene.surfels]
        images = _images(scene)(*leaves)
        generator = torch.Generator().manual_seed(3)
        cotangents = [torch.randn(i.shape, generator=generator).to(device) for i in images]
        return [g.cpu() for g in torch.autograd.grad(images, leaves, cotangents)]

    for found, expected in zip(gradients("cuda"), gradients("cpu")):
        assert (found - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize(("surfels", "scale", "size"), SCENES)
def test_projection(surfels, scale, size):
    """Fails when culling, boxes or normals differ, or their adjoint."""
    scene = _scene(surfels, scale, size)

    def project(*surfels):
        device = surfels[0].device
        view = {k: v.to(device, surfels[0].dtype) if torch.is_tensor(v) else v for k, v in scene.view.items()}
        return project_surfels(*surfels, **view)

    leaves = (*(x.detach().requires_grad_() for x in scene.surfels[:3]), scene.opacities)
    assert_agree(project, leaves, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 5000])
def test_tile_lists(count, dtype):
    """Fails when an instance is lost or the order is not (tile, depth, index); ties and empty boxes included."""
    generator = torch.Generator().manual_seed(count)
    corner = torch.randint(0, 300, (count, 2), generator=generator)
    extent = torch.randint(0, 60, (count, 2), generator=generator)
    boxes = torch.cat([corner, (corner + extent).clamp_max(300)], 1).int()
    depths = torch.randint(1, 50, (count,), generator=generator).to(dtype) / 7
    assert_agree(lambda b, d: tile_surfels(b, d, 300, 300), (boxes, depths), rtol=0, atol=0)


def test_capacity_keeps_the_images():
    """Fails when lists of fixed capacity change the result, or a full list is not reported."""
    scene = _scene(*SCENES[1])
    surfels = [x.float().cuda() for x in scene.surfels]
    view = {k: v.float().cuda() if torch.is_tensor(v) else v for k, v in scene.view.items()}
    exact = rasterize_surfels(*surfels, **view)
    roomy = rasterize_surfels(*surfels, **view, capacity=10 * int(exact.instances))
    for name in IMAGES:
        assert torch.equal(getattr(exact, name), getattr(roomy, name)), name
    assert int(roomy.instances) == int(exact.instances)
    tight = rasterize_surfels(*surfels, **view, capacity=int(exact.instances) // 2)
    assert int(tight.instances) == int(exact.instances) // 2


def test_forward_is_bit_stable_and_backward_on_request(fresh_memory):
    """Fails when the order of blending or, in deterministic mode, of gradient sums depends on the schedule."""
    scene = _scene(*SCENES[2])

    def run():
        leaves = [x.detach().float().cuda().requires_grad_() for x in scene.surfels]
        images = _images(scene)(*leaves)
        return images, torch.autograd.grad([i.sum() for i in images], leaves)

    first, second = run(), run()
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0]))
    if fresh_memory == "poisoned":
        assert all(torch.equal(a, b) for a, b in zip(first[1], second[1]))


@pytest.mark.parametrize("fault", ["empty", "behind", "nan", "huge", "transparent"])
def test_odd_inputs(fault):
    """Fails when a surfel that cannot be drawn crashes, poisons its neighbours, or is drawn."""
    scene = _scene(*SCENES[1])
    surfels = [x.clone().float() for x in scene.surfels]
    if fault == "empty":
        surfels = [x[:0] for x in surfels]
    elif fault == "behind":
        surfels[0][::2, 2] = -1.0
    elif fault == "nan":
        surfels[0][::3, 1] = float("nan")
    elif fault == "huge":
        surfels[1][5] = torch.tensor([50.0, 0, 0])
        surfels[2][5] = torch.tensor([0, 50.0, 0])
    else:
        surfels[3][::2] = 0
    found = _images(scene)(*(x.cuda() for x in surfels))
    expected = _images(scene)(*surfels)
    for name, a, b in zip(IMAGES, found, expected):
        assert a.isfinite().all(), name
        assert ((a.cpu() - b).abs() > 1e-3 * (1 + b.abs())).float().mean() < 5e-3, name


def test_statistic_of_densification():
    """Fails when the screen-space gradient differs from the CPU's."""
    scene = _scene(*SCENES[1])

    def draw(*inputs):
        return _images(scene, screen_points=inputs[5])(*inputs[:5])

    points = torch.zeros(len(scene.centers), 2, dtype=torch.float64, requires_grad=True)
    assert_agree(draw, (*_leaves(scene, torch.float64), points), rtol=1e-7, atol=1e-7)
