"""Refined poses on disk, and training frames that take them up."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from core.camera import Camera
from core.errors import InputError
from core.frames import BodyPose, Frame
from implicit_branch.deformation.pose_correction import PoseResiduals
from workflows.refined_poses import RefinedFrames, with_refined_poses, write_refined_poses

COUNT = 6


@dataclass
class Capture:
    """A dataset of poses."""

    frames: list[Frame]
    name: str = "rana"
    subject: str = "subject"
    gender: str = "male"
    betas: Tensor = field(default_factory=lambda: torch.zeros(10))

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:
        return self.frames[index]

    def __iter__(self):
        return iter(self.frames)


@pytest.fixture
def given() -> BodyPose:
    """Poses of all training frames."""
    generator = torch.Generator().manual_seed(0)
    return BodyPose(*(0.3 * torch.randn(COUNT, width, generator=generator) for width in (3, 69, 3)))


@pytest.fixture
def capture(given) -> Capture:
    """Every second frame, with numbers of its own as a reader with a step has."""
    camera = Camera(torch.eye(3), torch.eye(4), 8, 8)
    return Capture([Frame(i, f"{i:04d}", camera, given[2 * i]) for i in range(COUNT // 2)])


@pytest.fixture
def residuals() -> PoseResiduals:
    """A table that moves every frame differently."""
    table = PoseResiduals(dataset_length=COUNT, enable=True, start_step=0)
    table.open(1)
    with torch.no_grad():
        for number, part in enumerate(table.parameters()):
            part.copy_(0.01 * (1 + number) * torch.arange(part.numel()).reshape(part.shape) / part.numel())
    return table


def test_frames_take_up_their_own_refined_pose(given, capture, residuals, tmp_path):
    """Fails when a frame gets another row's residual: its number in the range that is read is not its row."""
    path = tmp_path / "refined_poses.npz"
    write_refined_poses(residuals, given, path)
    expected = residuals(given, torch.arange(COUNT))
    refined = with_refined_poses(capture, path)
    assert len(refined) == len(capture)
    for row, frame in enumerate(refined):
        for part in ("global_orient", "body_pose", "transl"):
            torch.testing.assert_close(getattr(frame.pose, part), getattr(expected, part)[2 * row].detach())
        assert frame.name == capture[row].name
    assert not torch.equal(refined[1].pose.transl, capture[1].pose.transl)


def test_trusted_poses_stay(given, capture, residuals, tmp_path):
    """Fails when poses of an earlier, refining run survive one that trusts its poses."""
    path = tmp_path / "refined_poses.npz"
    write_refined_poses(residuals, given, path)
    residuals.active = False
    write_refined_poses(residuals, given, path)
    assert with_refined_poses(capture, path) is capture


def test_frames_the_teacher_never_saw_are_refused(given, capture, residuals, tmp_path):
    """Fails when a frame without a refined pose silently keeps the given one, or a foreign file is taken."""
    path = tmp_path / "refined_poses.npz"
    write_refined_poses(residuals, given[2:], path)
    with pytest.raises(InputError, match="frame 0000"):
        RefinedFrames(capture, path)[0]
    np.savez(path, poses=np.zeros(3))
    with pytest.raises(InputError, match="poses"):
        RefinedFrames(capture, path)
