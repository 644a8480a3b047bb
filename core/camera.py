"""The pinhole camera: OpenCV axes (x right, y down, z forward), metres, pixel centres at +0.5."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion (images are undistorted when they are read).

    What follows from it is computed once for each camera, so its tensors must not change in place.
    """

    intrinsics: Tensor
    """[3, 3] in pixels; the centre of pixel (column i, row j) has image coordinates (i + 0.5, j + 0.5)."""
    camera_from_world: Tensor
    """[4, 4] rigid transform."""
    width: int
    height: int

    @cached_property
    def world_from_camera(self) -> Tensor:
        """[4, 4] inverse of ``camera_from_world``."""
        rotation, translation = self.camera_from_world[:3, :3], self.camera_from_world[:3, 3]
        with torch.inference_mode(False):
            inverse = torch.eye(4, dtype=rotation.dtype, device=rotation.device)
            inverse[:3, :3] = rotation.T
            inverse[:3, 3] = -rotation.T @ translation
        return inverse

    @property
    def position(self) -> Tensor:
        """[3] the camera's centre in world space."""
        return self.world_from_camera[:3, 3]

    def to(self, device: torch.device | str) -> "Camera":
        """The same camera with its tensors on ``device``."""
        return replace(self, intrinsics=self.intrinsics.to(device), camera_from_world=self.camera_from_world.to(device))

    def resized(self, width: int, height: int) -> "Camera":
        """The camera of the image resampled to ``width`` x ``height``; K scales by plain division."""
        if (width, height) == (self.width, self.height):
            return self
        horizontal, vertical, last = self.intrinsics.split(1)
        rows = [horizontal * (width / self.width), vertical * (height / self.height), last]
        return replace(self, intrinsics=torch.cat(rows), width=width, height=height)

    def pixel_rays(self, columns: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """World rays through the centres of pixels (``columns``, ``rows``) [R] (integers).

        Returns:
            origins [R, 3] in metres and unit directions [R, 3].
        """
        pixels = torch.stack([columns + 0.5, rows + 0.5, torch.ones_like(rows, dtype=self.intrinsics.dtype)], -1)
        # inv itself would wait for the device to learn whether the matrix is singular.
        local = pixels.to(self.intrinsics.dtype) @ torch.linalg.inv_ex(self.intrinsics).inverse.T
        world_from_camera = self.world_from_camera
        directions = torch.nn.functional.normalize(local @ world_from_camera[:3, :3].T, dim=-1)
        return world_from_camera[:3, 3].expand_as(directions), directions

    def all_rays(self) -> tuple[Tensor, Tensor]:
        """Rays of every pixel: origins and unit directions, both [H, W, 3]."""
        return self.position.expand_as(self.directions), self.directions

    @cached_property
    def directions(self) -> Tensor:
        """[H, W, 3] unit world directions of the rays through every pixel."""
        device = self.intrinsics.device
        with torch.inference_mode(False):
            rows, columns = torch.meshgrid(
                torch.arange(self.height, device=device), torch.arange(self.width, device=device), indexing="ij"
            )
            _, directions = self.pixel_rays(columns.reshape(-1), rows.reshape(-1))
        return directions.reshape(self.height, self.width, 3)

    @cached_property
    def length_per_depth(self) -> Tensor:
        """[H, W] metres along the ray of every pixel for one metre along the camera's axis."""
        with torch.inference_mode(False):
            return 1 / (self.directions @ self.camera_from_world[2, :3])

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Image coordinates [..., 2] in pixels and depth z [...] in metres of world ``points`` [..., 3]."""
        local = points @ self.camera_from_world[:3, :3].T + self.camera_from_world[:3, 3]
        homogeneous = local @ self.intrinsics.T
        return homogeneous[..., :2] / homogeneous[..., 2:], local[..., 2]
