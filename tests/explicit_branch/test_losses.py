"""Losses against closed forms."""

import pytest
import torch

from core.camera import Camera
from core.frames import BodyPose, Frame
from core.metrics import STANDARD_DATA_RANGE, ssim
from explicit_branch import losses
from explicit_branch.observation import Observation, ResidentFrames


def test_isometry_ignores_rigid_motion():
    """Fails when the loss punishes posing itself instead of stretching."""
    torch.manual_seed(0)
    points, neighbours = torch.randn(50, 3), torch.randint(50, (50, 4))
    rotation = torch.linalg.qr(torch.randn(3, 3))[0]
    assert float(losses.isometry(points, points @ rotation.T + 2, neighbours)) < 1e-6
    stretched = float(losses.isometry(points, 2 * points, neighbours))
    distances = (points[:, None] - points[neighbours]).norm(dim=-1)
    assert stretched == pytest.approx(float(distances.mean()), rel=1e-4)


def test_anisotropy_and_size_act_beyond_their_limits_only():
    """Fails when admissible surfels are pulled."""
    scales = torch.tensor([[0.01, 0.03], [0.01, 0.05]])
    assert float(losses.anisotropy(scales.log(), 3.0)) == pytest.approx(1.0, rel=1e-5)
    assert float(losses.oversize(scales, 0.02)) == pytest.approx((0.01 + 0.03) / 4)


def test_depth_normals_of_a_tilted_plane():
    """Fails when an axis is flipped, the depth is taken along the ray, or pixel centres move."""
    camera = Camera(torch.tensor([[40.0, 0, 16], [0, 40, 16], [0, 0, 1]]), torch.eye(4), 32, 32)
    normal = torch.nn.functional.normalize(torch.tensor([0.3, -0.2, -1.0]), dim=0)
    _, directions = camera.all_rays()
    distance = -2.0 / (directions @ normal) * -1
    depth = distance.abs() * directions[..., 2]
    found = losses.depth_normals(depth, camera)[1:-1, 1:-1]
    torch.testing.assert_close(found, normal.expand_as(found), atol=2e-3, rtol=0)
    alpha = torch.ones(32, 32)
    assert float(losses.normal_consistency(normal.expand(32, 32, 3), alpha, depth, camera)) < 1e-4


def observation(image: torch.Tensor, mask: torch.Tensor) -> Observation:
    camera = Camera(torch.eye(3), torch.eye(4), image.shape[1], image.shape[0])
    pose = BodyPose(torch.zeros(3), torch.zeros(69), torch.zeros(3))
    frame = Frame(0, "0000", camera, pose, image=image, mask=mask)
    return ResidentFrames([frame], None, torch.device("cpu"), distilled=False)[0]


def test_material_variation_stops_at_image_edges():
    """Fails when the weight does not fall where the image changes."""
    materials = torch.zeros(8, 8, 5)
    materials[:, 4:] = 1
    flat, edge = torch.zeros(8, 8, 3), torch.zeros(8, 8, 3)
    edge[:, 4:] = 1
    mask = torch.ones(8, 8)
    smooth = float(losses.material_variation(materials, observation(flat, mask).edges))
    assert smooth == pytest.approx(5 / 7)
    edges = observation(edge, mask).edges
    assert float(losses.material_variation(materials, edges)) == pytest.approx(smooth * 2.718281828**-1, rel=1e-5)


def test_dissimilarity_is_that_of_the_metric():
    """Fails when a window, a constant or a variance differs from ``core.metrics.ssim``; measured 3e-6 in float32."""
    torch.manual_seed(0)
    target = torch.rand(20, 33, 3)
    images = torch.stack([target, (target + 0.1 * torch.rand(20, 33, 3)).clamp(0, 1), torch.rand(20, 33, 3)])
    expected = torch.stack([1 - ssim(image, target, STANDARD_DATA_RANGE) for image in images])
    windows = observation(target, torch.ones(20, 33)).windows
    torch.testing.assert_close(losses.dissimilarity(images, target, windows).double(), expected, rtol=0, atol=2e-5)
    with pytest.raises(ValueError, match="pixels a side"):
        losses.dissimilarity(images[:, :6], target[:6], windows)


def test_structure_is_compared_inside_the_mask_box():
    """Fails when SSIM is taken over the empty background, or windows reach out of the box around the mask."""
    torch.manual_seed(0)
    target, images, mask = torch.rand(32, 40, 3), torch.rand(2, 32, 40, 3), torch.zeros(32, 40)
    mask[8:24, 10:27] = 1
    seen = observation(target, mask)
    assert seen.box == (slice(8, 24), slice(10, 27))
    crop = observation(target[8:24, 10:27], torch.ones(16, 17))
    expected = losses.dissimilarity(images[:, 8:24, 10:27], crop.frame.image, crop.windows)
    torch.testing.assert_close(losses.dissimilarity(images, target, seen.windows), expected)


def test_a_mask_smaller_than_a_window_has_one():
    """Fails when the weights of the windows are empty, and so not a number."""
    mask = torch.zeros(20, 20)
    mask[17:19, 18:20] = 1
    assert observation(torch.rand(20, 20, 3), mask).windows.sum() == pytest.approx(1)
