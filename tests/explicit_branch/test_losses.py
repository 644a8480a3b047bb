"""Losses against closed forms."""

import pytest
import torch

from core.camera import Camera
from explicit_branch import losses


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
    assert float(losses.anisotropy(scales, 3.0)) == pytest.approx(1.0)
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


def test_material_variation_stops_at_image_edges():
    """Fails when the weight does not fall where the image changes."""
    materials = torch.zeros(8, 8, 5)
    materials[:, 4:] = 1
    flat, edge = torch.zeros(8, 8, 3), torch.zeros(8, 8, 3)
    edge[:, 4:] = 1
    mask = torch.ones(8, 8)
    smooth = float(losses.material_variation(materials, flat, mask))
    assert smooth == pytest.approx(5 / 7)
    assert float(losses.material_variation(materials, edge, mask)) == pytest.approx(smooth * 2.718281828**-1, rel=1e-5)


def test_photometric_looks_at_structure_inside_the_mask():
    """Fails when SSIM is taken over the empty background."""
    torch.manual_seed(0)
    target, mask = torch.rand(32, 32, 3), torch.zeros(32, 32)
    mask[8:24, 8:24] = 1
    weights = {"l1": 0.0, "dssim": 1.0, "perceptual": 0.0, "network": None}
    outside = target.clone()
    outside[:4] = 0
    assert float(losses.photometric(outside, target, mask, **weights)) == pytest.approx(0, abs=1e-9)
    inside = target.clone()
    inside[10:14] = 0
    assert float(losses.photometric(inside, target, mask, **weights)) > 0.05
