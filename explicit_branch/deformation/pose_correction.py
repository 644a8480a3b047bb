"""Learned corrections of the body poses of the training frames."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from core.frames import BodyPose


class PoseCorrection(nn.Module):
    """Maps the pose of a training frame to a better one."""

    @abstractmethod
    def forward(self, pose: BodyPose, frame_index: int | None, iteration: float) -> BodyPose:
        """Corrected ``pose``; poses that belong to no training frame (``frame_index`` None) pass unchanged."""

    def regularisation(self) -> Tensor | None:
        """A scalar that keeps corrections small; None where there is nothing to learn."""
        return None


class KeepPose(PoseCorrection):
    """Poses as they are (`none`)."""

    def __init__(self, *, frames: int) -> None:
        super().__init__()
        del frames

    def forward(self, pose: BodyPose, frame_index: int | None, iteration: float) -> BodyPose:
        return pose


class FrameOffsets(PoseCorrection):
    """One learned offset of root, body and translation for every training frame (`direct`).

    Shape stays fixed: teacher, student and occlusion probes share one canonical body.
    """

    def __init__(self, *, frames: int, delay: int = 5000) -> None:
        super().__init__()
        self.delay = delay
        self.offsets = nn.Parameter(torch.zeros(frames, 75))

    def forward(self, pose: BodyPose, frame_index: int | None, iteration: float) -> BodyPose:
        if frame_index is None or iteration < self.delay:
            return pose
        root, body, translation = self.offsets[frame_index].split([3, 69, 3])
        return BodyPose(pose.global_orient + root, pose.body_pose + body, pose.transl + translation)

    def regularisation(self) -> Tensor:
        """Mean squared offset."""
        return self.offsets.square().mean()
