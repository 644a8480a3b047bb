"""Per-frame corrections of estimated poses, learned with the fields."""

import torch
from torch import Tensor, nn

from core.frames import BodyPose
from core.rotation import compose_axis_angles


class PoseResiduals(nn.Module):
    """Residuals of body pose, global orientation and translation, one row per training frame, initially zero.

    A residual is a small rotation in the joint's own axes, before the estimated one: what all frames have in common
    then is a change of shape, whatever the poses.
    """

    def __init__(self, *, dataset_length: int, enable: bool = False, start_step: int = 4000) -> None:
        """``dataset_length`` frames; active from ``start_step`` of the 25 000-step reference schedule."""
        super().__init__()
        self.enable, self.start_step, self.active = enable, start_step, False
        self.body_pose = nn.Parameter(torch.zeros(dataset_length, 69))
        self.global_orient = nn.Parameter(torch.zeros(dataset_length, 3))
        self.transl = nn.Parameter(torch.zeros(dataset_length, 3))

    def open(self, reference_step: float) -> None:
        """Switch on when due."""
        self.active = self.enable and reference_step >= self.start_step

    def forward(self, pose: BodyPose, frames: Tensor) -> BodyPose:
        """``pose`` [B, ...] of dataset rows ``frames`` [B], corrected when active.

        Raises:
            IndexError: a row beyond the table.
        """
        if not self.active:
            return pose
        residual = BodyPose(self.global_orient[frames], self.body_pose[frames], self.transl[frames])
        turned = compose_axis_angles(pose.axis_angles, residual.axis_angles).flatten(-2)
        return BodyPose(turned[..., :3], turned[..., 3:], pose.transl + residual.transl)
