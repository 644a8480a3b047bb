"""Poses that a teacher refined while it was trained, for every later look at its training frames.

Frames are recognised by the pose that they were given: their numbers depend on the range that is read.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from core.errors import InputError
from core.files import read_arrays, write_npz_atomically
from core.frames import BodyPose, Frame, FrameSet
from implicit_branch.deformation.pose_correction import PoseResiduals

PARTS = ("global_orient", "body_pose", "transl")


class RefinedFrames:
    """``frames`` with the poses that training found for them."""

    def __init__(self, frames: FrameSet, path: Path) -> None:
        """``path``: a file of :func:`write_refined_poses`.

        Raises:
            InputError: no such file, or not one of these.
        """
        self.frames, self._path = frames, path
        self.name, self.subject, self.gender, self.betas = frames.name, frames.subject, frames.gender, frames.betas
        arrays = read_arrays(path)
        wanted = [f"{kind}_{part}" for kind in ("given", "refined") for part in PARTS]
        if sorted(arrays) != sorted(wanted):
            raise InputError(path, found=f"arrays {sorted(arrays)}", expected=", ".join(wanted),
                             next_step="Train the teacher again.")  # fmt: skip
        given, refined = (BodyPose(*(torch.from_numpy(arrays[f"{kind}_{part}"]) for part in PARTS))
                          for kind in ("given", "refined"))  # fmt: skip
        self._refined = {_key(given[row]): refined[row] for row in range(len(given.transl))}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:
        return self._with_pose(self.frames[index])

    def __iter__(self) -> Iterator[Frame]:
        return map(self._with_pose, iter(self.frames))

    def _with_pose(self, frame: Frame) -> Frame:
        key = _key(frame.pose)
        if key not in self._refined:
            raise InputError(self._path, found=f"no refined pose for frame {frame.name}",
                             expected="the frames that the teacher was trained on",
                             next_step="Give student and teacher the same frames, or train again.")  # fmt: skip
        return replace(frame, pose=self._refined[key])


def with_refined_poses(frames: FrameSet, path: Path) -> FrameSet:
    """``frames`` in the poses of the file ``path``; as they are where the teacher trusted its poses: no such file."""
    return RefinedFrames(frames, path) if path.exists() else frames


@torch.no_grad()
def write_refined_poses(residuals: PoseResiduals, given: BodyPose, path: Path) -> None:
    """Write the poses ``given`` [F, ...] of all training frames and those that ``residuals`` makes of them.

    Removes the file where nothing was refined.
    """
    if not residuals.active:
        path.unlink(missing_ok=True)
        return
    device = residuals.transl.device
    refined = residuals(given.to(device), torch.arange(len(given.transl), device=device))
    arrays: dict[str, np.ndarray] = {}
    for kind, pose in (("given", given), ("refined", refined)):
        arrays |= {f"{kind}_{part}": getattr(pose, part).cpu().numpy() for part in PARTS}
    write_npz_atomically(path, arrays)


def _key(pose: BodyPose) -> bytes:
    return torch.cat([getattr(pose, part).cpu() for part in PARTS]).numpy().tobytes()
