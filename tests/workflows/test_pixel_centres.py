"""The three paths from a point to a pixel agree: projection, teacher rays, surfel raster."""

from dataclasses import replace

import torch

from core.camera import Camera
from gs_ir.surfels import rasterize_surfels
from implicit_branch.sampling.rays import CameraTable


def _camera() -> Camera:
    turn = torch.tensor([[0.98, 0.05, 0.19], [-0.04, 0.998, -0.03], [-0.19, 0.02, 0.98]], dtype=torch.float64)
    rotation, _ = torch.linalg.qr(turn)
    rotation = rotation * torch.sign(torch.linalg.det(rotation))
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3], pose[:3, 3] = rotation, torch.tensor([0.1, -0.05, 2.5])
    intrinsics = torch.tensor([[90.0, 0, 31.3], [0, 88.0, 24.6], [0, 0, 1]], dtype=torch.float64)
    return Camera(intrinsics, pose, width=64, height=48)


def test_rays_pass_through_projected_points():
    """Fails when rays leave through pixel corners (half a pixel off), in the camera or in the teacher's table."""
    camera = _camera()
    columns, rows = torch.tensor([0, 17, 63]), torch.tensor([0, 30, 47])
    origins, directions = camera.pixel_rays(columns, rows)
    image, _ = camera.project(origins + 1.7 * directions)
    torch.testing.assert_close(image, torch.stack([columns + 0.5, rows + 0.5], -1).double(), atol=1e-9, rtol=0)
    single = replace(camera, intrinsics=camera.intrinsics.float(), camera_from_world=camera.camera_from_world.float())
    _, teacher = CameraTable([single]).rays(torch.tensor([0]), (rows * camera.width + columns)[None])
    torch.testing.assert_close(teacher[0].double(), directions, atol=2e-6, rtol=0)


def test_raster_centroid_is_where_the_point_projects():
    """Fails when the rasteriser samples pixels at integers, as the published one does."""
    camera = _camera()
    direction = camera.all_rays()[1][20, 37]
    center = (camera.position + 2.0 * direction + torch.tensor([0.003, -0.002, 0.0]))[None]
    axes = camera.world_from_camera[:3, :3]
    raster = rasterize_surfels(
        center, 0.06 * axes[None, :, 0], 0.06 * axes[None, :, 1], torch.tensor([0.9]).double(),
        torch.ones(1, 1).double(), camera_from_world=camera.camera_from_world, intrinsics=camera.intrinsics,
        width=camera.width, height=camera.height,
    )  # fmt: skip
    rows, columns = torch.meshgrid(torch.arange(48) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    weight = raster.alpha / raster.alpha.sum()
    centroid = torch.stack([(weight * columns).sum(), (weight * rows).sum()])
    # The disc faces the camera almost exactly, so its picture is symmetric about its centre's projection.
    torch.testing.assert_close(centroid, camera.project(center)[0][0], atol=0.05, rtol=0)
