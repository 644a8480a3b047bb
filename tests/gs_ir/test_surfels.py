"""Images of the surfel rasteriser against an independent float64 renderer, and its behaviour at the edges."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from core.camera import Camera
from gs_ir.reference import surfels as reference
from gs_ir.surfels import SurfelRaster, project_surfels, rasterize_surfels
from gs_ir.tiling import tile_surfels
from tests.gs_ir import surfel_scenes
from tests.gs_ir.surfel_scenes import Scene, one_surfel, random_scene

IMAGES = ("features", "alpha", "depth", "median_depth", "normal", "distortion")


def _draw(scene: Scene) -> SurfelRaster:
    return rasterize_surfels(*scene.surfels, **scene.view)


def _assert_same_images(raster: SurfelRaster, expected: dict[str, np.ndarray], tolerance: float) -> None:
    for name in IMAGES:
        found = getattr(raster, name).numpy()
        np.testing.assert_allclose(found, expected[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-5)])
def test_one_tilted_surfel(dtype, tolerance):
    """Fails on a wrong intersection, Gaussian, depth, normal or half pixel: closed form of one disc."""
    scene = one_surfel([0.05, -0.03, 2.0], [0.2, 0.05, 0.15], [-0.02, 0.15, -0.1], opacity=0.7)
    raster = _draw(scene.to(dtype))
    _assert_same_images(raster, surfel_scenes.render(scene), tolerance)
    assert raster.alpha.max() > 0.69
    assert not raster.distortion.any()


@pytest.mark.parametrize("scale", [(0.02, 0.3), (0.001, 0.02), (0.3, 1.0)], ids=["mixed", "below a pixel", "large"])
def test_random_scene_equals_brute_force(scale):
    """Fails when compositing, order, median, distortion, the screen filter or the boxes differ from the definition."""
    scene = random_scene(60, scale, seed=3)
    _assert_same_images(_draw(scene), surfel_scenes.render(scene), 1e-9)


@pytest.mark.parametrize("scale", [(0.02, 0.1), (0.001, 0.02)])
def test_float32_equals_float64(scale):
    """Fails when single precision loses digits (distortion of near surfels, boxes far from the image's origin).

    A contribution at the threshold 1/255, or at the end of a pixel, may be drawn in one precision and not in the other,
    and change that pixel by 1/255; all but a few pixels agree to rounding.
    """
    scene = random_scene(800, scale, seed=5, size=(150, 70))
    exact, single = _draw(scene), _draw(scene.to(torch.float32))
    for name in IMAGES:
        error = (getattr(single, name) - getattr(exact, name)).abs() / getattr(exact, name).abs().amax()
        assert error.quantile(0.995) < 2e-5, name
        assert error.max() < 0.05, name


def test_native_equals_reference():
    """Fails when the loops of a native backend lose a surfel, a row of pixels or a partly covered tile."""
    scene = random_scene(200, (0.005, 0.15), seed=7, size=(67, 35))
    screen_from_world = scene.intrinsics @ scene.camera_from_world[:3]
    size = {"width": scene.width, "height": scene.height}
    frames = project_surfels(*scene.surfels[:4], **scene.view)
    for found, expected in zip(frames, reference.project_surfels(*scene.surfels[:4], screen_from_world, **size)):
        torch.testing.assert_close(found, expected)
    tiles = tile_surfels(frames[2], frames[0][:, 8], scene.width, scene.height)
    expected = reference.rasterize_surfels(frames[0], scene.opacities, scene.features, *tiles, **size)
    raster = _draw(scene)
    for name, image in zip(("features", "alpha", "depth", "median_depth", "distortion"), expected):
        torch.testing.assert_close(getattr(raster, name), image, msg=name)


def test_weights_and_transmittance_sum_to_one():
    """Fails when alpha and the channels disagree on what was blended: sum of w = 1 - T."""
    scene = random_scene(300, (0.05, 0.4), seed=1)
    raster = _draw(replace(scene, features=torch.ones(300, 1, dtype=torch.float64)))
    torch.testing.assert_close(raster.features[..., 0], raster.alpha, rtol=0, atol=1e-13)
    assert raster.alpha.max() <= 1 - 1e-4


@pytest.mark.parametrize("shift", [(1, 0), (5, 3), (16, 11)])
def test_tile_borders_are_invisible(shift):
    """Fails when a surfel is clipped at a tile's border: whole-pixel shifts move the image against the tiles."""
    scene = random_scene(200, (0.002, 0.2), seed=2)
    intrinsics = scene.intrinsics.clone()
    intrinsics[:2, 2] += torch.tensor(shift, dtype=torch.float64)
    wider = replace(scene, intrinsics=intrinsics, width=scene.width + shift[0] + 7, height=scene.height + shift[1] + 9)
    moved, still = _draw(wider), _draw(scene)
    inside = (slice(shift[1], shift[1] + scene.height), slice(shift[0], shift[0] + scene.width))
    for name in IMAGES:
        torch.testing.assert_close(getattr(moved, name)[inside], getattr(still, name), rtol=1e-9, atol=1e-10)


def test_world_frame_does_not_matter():
    """Fails when tangents or normals are left in the wrong space: turn world and camera together."""
    scene = random_scene(100, (0.02, 0.2), seed=4)
    turn = surfel_scenes.rotation([0.4, 1.1, -0.7])
    moved = torch.eye(4, dtype=torch.float64)
    moved[:3, :3] = scene.camera_from_world[:3, :3] @ turn.T
    moved[:3, 3] = scene.camera_from_world[:3, 3]
    turned = replace(
        scene,
        centers=scene.centers @ turn.T,
        tangents_u=scene.tangents_u @ turn.T,
        tangents_v=scene.tangents_v @ turn.T,
        camera_from_world=moved,
    )
    found, expected = _draw(turned), _draw(scene)
    torch.testing.assert_close(found.normal, expected.normal @ turn.T, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found.depth, expected.depth, rtol=1e-9, atol=1e-10)


def test_centroid_is_the_projected_point():
    """Fails on a half-pixel offset: the splat's centroid is where the camera projects its centre, to 0.01 pixels."""
    scene = one_surfel([0.171, -0.093, 2.0], [0.15, 0, 0], [0, 0.15, 0], opacity=0.99, size=(48, 40))
    camera = Camera(scene.intrinsics, scene.camera_from_world, scene.width, scene.height)
    alpha = _draw(scene).alpha
    rows, columns = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(48) + 0.5, indexing="ij")
    centroid = torch.stack([(alpha * columns).sum(), (alpha * rows).sum()]) / alpha.sum()
    assert (centroid - camera.project(scene.centers)[0][0]).abs().max() < 0.01


def test_depth_lies_on_the_camera_rays():
    """Fails when rasteriser and rays disagree by any part of a pixel: depth times the camera's ray is on the disc."""
    scene = one_surfel([0.1, 0.1, 2.0], [0.5, 0, 0.6], [0, 0.5, -0.2], opacity=0.9)
    camera = Camera(scene.intrinsics, scene.camera_from_world, scene.width, scene.height)
    raster = _draw(scene)
    _, directions = camera.all_rays()
    points = directions / directions[..., 2:] * (raster.depth / raster.alpha)[..., None]
    normal = torch.linalg.cross(scene.tangents_u[0], scene.tangents_v[0])
    seen = raster.alpha > 0
    assert seen.float().mean() > 0.3
    assert ((points - scene.centers[0]) @ normal)[seen].abs().max() < 1e-12


def test_boxes_hold_all_pixels_and_little_more():
    """Fails when the opacity-aware box clips a visible pixel, or is looser than a pixel around what is visible."""
    scene = random_scene(200, (0.001, 0.3), seed=6)
    boxes = project_surfels(*scene.surfels[:4], **scene.view)[2].numpy()
    points, tangents_u, tangents_v = surfel_scenes.camera_space(scene)
    angles = np.linspace(0, 2 * np.pi, 4000)
    circle = np.stack([np.cos(angles), np.sin(angles)])
    intrinsics, size = scene.intrinsics.numpy(), np.array([scene.width, scene.height])
    for p, u, v, opacity, box in zip(points, tangents_u, tangents_v, scene.opacities.numpy(), boxes):
        radius = np.sqrt(2 * np.log(255 * opacity))
        rim = intrinsics @ (p[:, None] + radius * np.stack([u, v], 1) @ circle)
        rim = np.concatenate(
            [
                rim[:2] / rim[2],
                surfel_scenes.filter_center(p, u, v, intrinsics)[:, None] + radius / np.sqrt(2) * circle,
            ],
            1,
        )
        low, high = rim.min(1), rim.max(1)
        first, last = np.clip(np.ceil(low - 0.5), 0, size), np.clip(np.floor(high - 0.5) + 1, 0, size)
        if (last <= first).any():
            continue
        assert (box[:2] <= first).all()
        assert (box[2:] >= last).all()
        assert (np.abs(np.concatenate([box[:2] - first, box[2:] - last])) <= 1).all()


def test_screen_filter_alone_uses_the_depth_of_the_centre():
    """Fails when a grazing disc smaller than a pixel scatters depths along its plane."""
    scene = one_surfel([0.013, 0.011, 2.0], [0.001, 0, 0.02], [0, 0.001, 0])
    raster = _draw(scene)
    drawn = raster.alpha > 0.004
    assert drawn.sum() > 9
    depth = (raster.depth / raster.alpha)[drawn]
    assert (depth - 2.0).abs().max() < 3.4 * 0.02
    assert ((depth - 2.0).abs() < 1e-12).sum() >= 9


def test_radius_is_that_of_the_three_sigma_box():
    """Fails when radii, which prune surfels in training, come to depend on opacity or miss the low-pass minimum."""
    large = one_surfel([0, 0, 2.0], [0.25, 0, 0], [0, 0.05, 0], focal=40.0)
    for opacity in (0.1, 0.9):
        radii = _draw(replace(large, opacities=torch.full((1,), opacity, dtype=torch.float64))).radii
        assert radii.tolist() == [15]  # 3 * 0.25 m * 40 px / 2 m
    tiny = one_surfel([0, 0, 2.0], [1e-4, 0, 0], [0, 1e-4, 0])
    assert _draw(tiny).radii.tolist() == [3]  # 3 * sqrt(2) / 2 = 2.1


def test_surfel_that_fills_the_image():
    """Fails when a disc far larger than the image loses tiles or overflows."""
    raster = _draw(one_surfel([0, 0, 2.0], [1e4, 0, 0], [0, 1e4, 0], opacity=0.6).to(torch.float32))
    torch.testing.assert_close(raster.alpha, torch.full_like(raster.alpha, 0.6))
    torch.testing.assert_close(raster.depth, torch.full_like(raster.alpha, 1.2))


def test_surfel_through_the_camera_plane():
    """Fails when a floor that passes under the camera, whose outline is no ellipse, is clipped or drawn behind."""
    scene = one_surfel([0, 0.5, 1.0], [1.0, 0, 0], [0, 0.0, 1.5], opacity=0.9)
    scene = replace(scene, intrinsics=scene.intrinsics + torch.tensor([[0, 0, 0], [0, 0, -4.0], [0, 0, 0]]))
    raster = _draw(scene)
    p, u, v = (x[0].numpy() for x in (scene.centers, scene.tangents_u, scene.tangents_v))
    rows, columns = np.mgrid[:24, :32].reshape(2, -1) + 0.5
    directions = np.stack([(columns - 16) / 40, (rows - 8) / 40, np.ones(24 * 32)], 1)
    z = p[1] / directions[:, 1]
    rho = (z * directions[:, 0]) ** 2 + ((z - 1) / v[2]) ** 2
    expected = np.where((z > 0.2) & (0.9 * np.exp(-rho / 2) >= 1 / 255), 0.9 * np.exp(-rho / 2), 0).reshape(24, 32)
    far_from_filter = ((columns - 16) ** 2 + (rows - 28) ** 2 > 9).reshape(24, 32)
    np.testing.assert_allclose(raster.alpha.numpy()[far_from_filter], expected[far_from_filter], atol=1e-12)
    assert u[0] == 1.0
    assert (expected > 0.5).any()


CULLED = {
    "behind": ([0, 0, -2.0], [0.1, 0, 0], [0, 0.1, 0]),
    "nearer than 0.2 m": ([0, 0, 0.19], [0.1, 0, 0], [0, 0.1, 0]),
    "outside the image": ([9, 0, 2.0], [0.1, 0, 0], [0, 0.1, 0]),
    "edge-on": ([0, 0, 2.0], [0, 0, 0.1], [0, 0.1, 0]),
    "without area": ([0, 0, 2.0], [0.1, 0, 0], [0.1, 0, 0]),
    "point": ([0, 0, 2.0], [0, 0, 0.0], [0, 0, 0.0]),
    "NaN centre": ([float("nan"), 0, 2.0], [0.1, 0, 0], [0, 0.1, 0]),
    "infinite tangent": ([0, 0, 2.0], [float("inf"), 0, 0], [0, 0.1, 0]),
}


@pytest.mark.parametrize("case", CULLED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_culled_surfel_leaves_no_trace(case, dtype):
    """Fails when a surfel that cannot be drawn spoils its neighbours: images and gradients are as without it."""
    center, tangent_u, tangent_v = CULLED[case]
    good = [[0.1, 0, 2.0], [0.1, 0.02, 0], [0, 0.1, 0.05]]
    both = one_surfel([good[0], center], [good[1], tangent_u], [good[2], tangent_v]).to(dtype)
    alone = one_surfel(*good).to(dtype)
    leaves = [x.clone().requires_grad_() for x in both.surfels]
    raster, expected = rasterize_surfels(*leaves, **both.view), _draw(alone)
    assert raster.radii[0] > 0
    assert raster.radii[1] == 0
    for name in IMAGES:
        torch.testing.assert_close(getattr(raster, name).detach(), getattr(expected, name))
    sum(getattr(raster, name).sum() for name in IMAGES).backward()
    for leaf in leaves:
        assert leaf.grad.isfinite().all()
        assert not leaf.grad[1].any()
        assert leaf.grad[0].any()


def test_transparent_surfels_are_culled():
    """Fails when an opacity that can never reach 1/255 still costs an instance."""
    scene = one_surfel([0, 0, 2.0], [0.1, 0, 0], [0, 0.1, 0], opacity=0.0039)
    assert _draw(scene).radii.tolist() == [0]


def test_no_surfels():
    """An empty set gives empty images and gradients, not an error."""
    empty = torch.zeros(0, 3, requires_grad=True)
    view = {"camera_from_world": torch.eye(4), "intrinsics": torch.eye(3), "width": 20, "height": 10}
    raster = rasterize_surfels(empty, empty, empty, torch.zeros(0), torch.zeros(0, 5), **view)
    assert raster.features.shape == (10, 20, 5)
    assert not raster.alpha.any()
    raster.features.sum().backward()
    assert empty.grad.shape == (0, 3)


def test_no_feature_channels():
    """Geometry alone can be drawn."""
    scene = random_scene(20, (0.05, 0.2))
    without = _draw(replace(scene, features=torch.zeros(20, 0, dtype=torch.float64)))
    assert without.features.shape == (scene.height, scene.width, 0)
    torch.testing.assert_close(without.depth, _draw(scene).depth)


def test_shapes_are_checked():
    """Fails when a feature tensor of the wrong length reaches the kernels."""
    scene = random_scene(5, (0.05, 0.2))
    with pytest.raises(ValueError, match=r"opacities \[N\].*found.*\(4, 3\)"):
        rasterize_surfels(*scene.surfels[:4], scene.features[:4], **scene.view)


def test_operators_declare_what_they_return():
    """Fails when the shape functions used by tracing differ from the kernels, or a kernel alters its input."""
    scene = random_scene(30, (0.02, 0.2))
    size = {"width": scene.width, "height": scene.height}
    tests = ("test_schema", "test_faketensor")
    surfels = (*scene.surfels[:4], scene.intrinsics @ scene.camera_from_world[:3])
    torch.library.opcheck(torch.ops.gs_ir.project_surfels.default, surfels, size, test_utils=tests)
    transforms, _, boxes, _ = torch.ops.gs_ir.project_surfels(*surfels, **size)
    torch.library.opcheck(
        torch.ops.gs_ir.tile_surfels.default, (boxes, transforms[:, 8].contiguous(), *size.values()), test_utils=tests
    )
    tiles = tile_surfels(boxes, transforms[:, 8], **size)
    inputs = (transforms, scene.opacities, scene.features, boxes, *tiles, None)
    torch.library.opcheck(torch.ops.gs_ir.rasterize_surfels.default, inputs, size, test_utils=("test_schema",))
