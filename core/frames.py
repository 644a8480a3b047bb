"""What a dataset yields and a render produces: poses, frames and G-buffers."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from core.camera import Camera


@dataclass(frozen=True)
class BodyPose:
    """An SMPL pose. A leading batch dimension is allowed on every tensor."""

    global_orient: Tensor
    """[..., 3] axis-angle of the root, radians."""
    body_pose: Tensor
    """[..., 69] axis-angle of joints 1-23, radians."""
    transl: Tensor
    """[..., 3] metres, added after skinning (the root rotates about the pelvis)."""

    @property
    def axis_angles(self) -> Tensor:
        """[..., 24, 3] axis-angle of all joints, root first."""
        full = torch.cat([self.global_orient, self.body_pose], -1)
        return full.reshape(*full.shape[:-1], 24, 3)

    def __getitem__(self, index) -> "BodyPose":
        return BodyPose(self.global_orient[index], self.body_pose[index], self.transl[index])

    def to(self, device: torch.device | str) -> "BodyPose":
        """The same pose with its tensors on ``device``."""
        return BodyPose(self.global_orient.to(device), self.body_pose.to(device), self.transl.to(device))


@dataclass(frozen=True)
class Frame:
    """One frame: a camera, a pose, and the images that exist for it."""

    index: int
    """Position in the dataset (row of a per-frame table)."""
    name: str
    """Stem for file names, for example ``0004``."""
    camera: Camera
    pose: BodyPose
    image: Tensor | None = None
    """[H, W, 3] sRGB in [0, 1], over white outside the mask."""
    mask: Tensor | None = None
    """[H, W] coverage in [0, 1]; binary for captures, soft for teacher renders."""
    albedo: Tensor | None = None
    """[H, W, 3] linear; ground truth of a capture, or the teacher's map."""
    normal: Tensor | None = None
    """[H, W, 3] unit vectors in OpenGL camera axes, zero where there is none."""
    roughness: Tensor | None = None
    """[H, W] perceptual roughness."""
    metallic: Tensor | None = None
    """[H, W]."""
    depth: Tensor | None = None
    """[H, W] metres along the ray."""
    valid: Tensor | None = None
    """[H, W] bool: pixels that metrics look at; None means all."""
    hdri: Path | None = None
    """The light of this frame, where the dataset names one."""

    def to(self, device: torch.device | str) -> "Frame":
        """The same frame with its tensors on ``device``."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self)
                 if hasattr(getattr(self, f.name), "to")}  # fmt: skip
        return replace(self, **moved)


class FrameSet(Protocol):
    """A dataset: a sequence of frames of one subject."""

    name: str
    """Dataset kind, for example ``peoplesnapshot``."""
    subject: str
    gender: str
    """``male``, ``female`` or ``neutral``."""
    betas: Tensor
    """[10] SMPL shape."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Frame: ...

    def __iter__(self) -> Iterator[Frame]: ...


@dataclass(frozen=True)
class GBuffer:
    """Per-pixel surface properties: averages over the covered part of the pixel, zero where alpha is 0."""

    alpha: Tensor
    """[H, W] coverage."""
    depth: Tensor
    """[H, W] metres along the ray."""
    normal: Tensor
    """[H, W, 3] unit, world space."""
    albedo: Tensor
    """[H, W, 3] linear."""
    roughness: Tensor
    """[H, W] perceptual."""
    metallic: Tensor
    """[H, W]."""
    occlusion: Tensor | None = None
    """[H, W] ambient visibility: 1 = open."""
    lobe_visibility: Tensor | None = None
    """[H, W, 6] shares of diffuse and specular light (rgb each) that arrive, where shadows have directions."""


def world_to_opengl_normals(normals_world: Tensor, camera: Camera) -> Tensor:
    """World normals [..., 3] in OpenGL camera axes (x right, y up, z to the viewer), the convention on disk."""
    in_camera = normals_world @ camera.camera_from_world[:3, :3].T
    return in_camera * in_camera.new_tensor([1.0, -1.0, -1.0])
