"""Rays of training pixels and images, and where they are sampled."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from core.camera import Camera
from gs_ir.marching import RaySamples, insert_samples, march, render_weights, resample
from implicit_branch.sampling.lists import EXACT, Lists


@dataclass(frozen=True)
class RayBundle:
    """World rays of several frames."""

    origins: Tensor
    """[R, 3] metres."""
    directions: Tensor
    """[R, 3] unit."""
    frame_index: Tensor
    """[R] int64, counting the frames of the posed space."""

    def __len__(self) -> int:
        return self.origins.shape[0]

    def __getitem__(self, index) -> "RayBundle":
        return RayBundle(self.origins[index], self.directions[index], self.frame_index[index])

    @classmethod
    def of_camera(cls, camera: Camera) -> "RayBundle":
        """Every pixel of ``camera``, row by row, as rays of frame 0."""
        origins, directions = (rays.reshape(-1, 3) for rays in camera.all_rays())
        return cls(origins, directions, torch.zeros(len(origins), dtype=torch.int64, device=origins.device))

    def at(self, rays: Tensor, depth: Tensor) -> Tensor:
        """World points [N, 3] at ``depth`` [N] metres along the rays numbered ``rays`` [N]."""
        return torch.addcmul(self.origins[rays], depth[:, None], self.directions[rays])


class CameraTable:
    """Cameras of all frames of a dataset as stacked tensors."""

    def __init__(self, cameras: list[Camera]) -> None:
        """All ``cameras`` have one image size."""
        self.width = cameras[0].width
        pose = torch.stack([c.world_from_camera for c in cameras])
        pixel_to_local = torch.linalg.inv(torch.stack([c.intrinsics for c in cameras]))
        self._pixel_to_world = (pose[:, :3, :3] @ pixel_to_local).transpose(1, 2).contiguous()
        self._positions = pose[:, None, :3, 3].contiguous()

    def to(self, device: torch.device | str) -> "CameraTable":
        """Move the tensors."""
        self._pixel_to_world, self._positions = self._pixel_to_world.to(device), self._positions.to(device)
        return self

    def rays(self, frames: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Origins and unit directions [B, n, 3] through the centres of flat ``pixels`` [B, n] of ``frames`` [B]."""
        # Twice the coordinates of the centres, which are whole numbers.
        columns, rows = 2 * (pixels % self.width) + 1, 2 * (pixels // self.width) + 1
        doubled = torch.stack([columns, rows, torch.full_like(rows, 2)], -1)
        directions = doubled.to(self._positions.dtype) @ self._pixel_to_world[frames]
        return self._positions[frames].expand_as(directions), torch.nn.functional.normalize(directions, dim=-1)


@dataclass(frozen=True)
class PrimarySampling:
    """How densely primary rays are sampled."""

    step: float = 0.02
    """Metres between coarse samples."""
    rounds: int = 2
    """Importance rounds; 0 leaves the coarse intervals."""
    samples: int = 16
    """Positions inverted per ray and round."""
    negligible: float = 1e-4
    """Intervals whose expected compositing weight is below are not evaluated (with importance rounds)."""

    @property
    def dropping(self) -> bool:
        """Whether negligible intervals are dropped."""
        return self.rounds > 0 and self.negligible > 0


@torch.no_grad()
def sample_rays(
    rays: RayBundle,
    occupancy: Tensor,
    boxes: Tensor,
    alpha: Callable[[Tensor, Tensor, Tensor], Tensor],
    sampling: PrimarySampling,
    *,
    jitter: Tensor,
    lists: Lists = EXACT,
) -> RaySamples:
    """Intervals along ``rays`` where there may be something to see.

    Coarse intervals through occupied cells; then each round appends positions drawn from the compositing weights
    with a background bin, so that opaque rays gain many samples and empty ones few.

    Args:
        rays: R rays.
        occupancy: [B, Z, Y, X] uint8 and its ``boxes`` [B, 2, 3].
        alpha: (points [N, 3], frame_index [N], lengths [N]) to opacity [N].
        sampling: the densities.
        jitter: [R] in [0, 1), the ray's offset in steps.
        lists: how the intervals are listed.
    """
    samples = march(
        rays.origins, rays.directions, occupancy, boxes, rays.frame_index, step=sampling.step, jitter=jitter,
        capacity=lists.room("coarse intervals"),
    )  # fmt: skip
    lists.found("coarse intervals", samples.total)
    for number in range(sampling.rounds):
        points = rays.at(samples.ray_indices, samples.midpoints)
        opacities = alpha(points, rays.frame_index[samples.ray_indices], samples.t_ends - samples.t_starts)
        weights = render_weights(opacities, samples.packed_info)
        name = f"intervals of round {number}"
        samples = insert_samples(samples, *resample(samples, weights, sampling.samples), lists.room(name))
        lists.found(name, samples.total)
    return samples


@dataclass(frozen=True)
class Kept:
    """Intervals that were kept of a longer list."""

    samples: RaySamples
    rows: Tensor
    """[S] int64, where they were."""
    used: Tensor | None
    """[S] bool, false for rows that hold nothing; None: all hold something."""


def keep(samples: RaySamples, wanted: Tensor, lists: Lists = EXACT) -> Kept:
    """The intervals where ``wanted`` [S] (bool) is true."""
    rows, used = lists.select("kept intervals", wanted)
    counts = torch.zeros_like(samples.packed_info[:, 1]).index_add(0, samples.ray_indices, wanted.long())
    ends = counts.cumsum(0)
    packed_info = torch.stack([ends - counts, ends], 1).clamp_max(len(rows))
    packed_info[:, 1] -= packed_info[:, 0]
    return Kept(
        RaySamples(samples.t_starts[rows], samples.t_ends[rows], samples.ray_indices[rows], packed_info), rows, used
    )
