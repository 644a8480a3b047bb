"""Motions without images: ``load/animation/<motion>`` and ``load/distill_pose/<motion>``, worn by a subject."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from core.camera import Camera
from core.errors import InputError
from core.frames import Frame
from data.camera_files import StoredCameras, read_cameras, target_size
from data.frame_range import ALL_FRAMES, FrameRange
from data.hdr import find_hdri
from data.lazy_frames import LazyFrames, LazyFrameSet
from data.pose_files import read_betas, read_poses

PUBLISHED_FOCAL = 2000.0
"""Focal length in pixels of the published animation camera, at a height of 1080 pixels."""
PUBLISHED_HEIGHT = 1080
PUBLISHED_POSITION = (0.0, 0.15, 5.0)
"""Where the published animations put the first frame's root translation, metres."""


class MotionFrames(LazyFrameSet):
    """Poses and cameras of a motion, with the shape of a subject; frames hold no images."""

    name = "animation"

    def __init__(
        self,
        *,
        root: str | Path,
        motion: str,
        subject_root: str | Path | None,
        gender: str,
        subject: str | None = None,
        frames: FrameRange = ALL_FRAMES,
        downscale: float = 1.0,
        size: tuple[int, int] | None = None,
        camera: str = "published",
        hdri: str | Path | None = None,
        betas: Tensor | None = None,
    ) -> None:
        """Read poses, cameras and the subject's betas.

        Args:
            root: folder of motions; the files are ``<root>/<motion>/{poses, cameras}.npz``.
            subject_root: the subject's capture, whose pose file holds its betas; None: give ``betas``.
            subject: name; default: the folder's.
            frames: positions in the motion.
            downscale: size divisor; ``size`` (height, width) overrides it.
            camera: ``published``: focal length 2000 px at 1080 rows, principal point at the image's centre, translation
                ``trans - trans[0] + (0, 0.15, 5)``; extrinsics as stored. ``file``: all as the files say.
            hdri: light of every frame, found as a path or among the bundled maps.
            betas: [10] shape, instead of the subject's.

        Raises:
            InputError: a file is missing or broken, or the motion is shorter than ``frames``.
        """
        if camera not in {"published", "file"}:
            raise InputError(
                "animation camera",
                found=repr(camera),
                expected="'published' or 'file'",
                next_step="Correct the option.",
            )
        folder = Path(root) / motion
        poses = read_poses(folder / "poses.npz")
        cameras = read_cameras(folder / "cameras.npz")
        cameras.check_frames(len(poses))
        selected = frames.indices(len(poses), folder / "poses.npz", "poses")
        body_pose = poses.pose
        if camera == "published":
            shift = body_pose.transl.new_tensor(PUBLISHED_POSITION) - body_pose.transl[0]
            body_pose = replace(body_pose, transl=body_pose.transl + shift)
        self.motion = motion
        self.subject, self.gender = subject or Path(subject_root or "nobody").name, gender
        self.betas = _subject_betas(subject_root, gender) if betas is None else betas
        self._light = None if hdri is None else find_hdri(hdri)
        self._poses, self._selected = body_pose, selected
        self._cameras, self._published = cameras, camera == "published"
        self._size = target_size(cameras.width, cameras.height, downscale, size)
        self._frames = LazyFrames(len(selected), self._read)

    def _read(self, position: int) -> Frame:
        number = self._selected[position]
        camera = published_camera(self._cameras, number) if self._published else self._cameras.camera(number)
        return Frame(
            index=position,
            name=f"{position:04d}",
            camera=camera.resized(*self._size),
            pose=self._poses[number],
            hdri=self._light,
        )


def _subject_betas(subject_root: str | Path | None, gender: str) -> Tensor:
    if subject_root is None:
        raise ValueError("a motion needs a subject_root or betas")
    folder = Path(subject_root)
    return read_betas([folder / "poses" / "anim_nerf_train.npz", folder / "poses.npz"], gender)


def published_camera(cameras: StoredCameras, frame: int) -> Camera:
    """The stored camera of ``frame`` with the published intrinsics: a fixed field of view, centred.

    (The published code swaps the axes of the principal point, which does not show on its square images.)
    """
    focal = PUBLISHED_FOCAL * cameras.height / PUBLISHED_HEIGHT
    intrinsics = torch.tensor([[focal, 0, cameras.width / 2], [0, focal, cameras.height / 2], [0, 0, 1]])
    return replace(cameras.camera(frame), intrinsics=intrinsics)
