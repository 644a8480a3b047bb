"""Converts SMPL motions (AMASS, AIST++, CAPE, or plain arrays) to the project's motion format.

    python -m data.preprocess.motion ~/AMASS/CMU/01/01_01_poses.npz --output load/animation/climb --fps 30
    python -m data.preprocess.motion ~/aist/gBR_sBM_cAll_d04_mBR0_ch01.pkl --output load/animation/aist --frames 0 320
    python -m data.preprocess.motion ~/CAPE/sequences/00032/soccer --output load/animation/soccer --relax hands feet
    python -m data.preprocess.motion mine.npz --up y --source-fps 25 --output load/animation/mine --orbit 50

Reads .npz or .pkl files, or a folder with one .npz a frame; writes <output>/poses.npz and cameras.npz. The motion is
turned so that up is the world's -y and the body faces the camera in the first frame, 5 m away. Betas are not part of a
motion: the subject that wears it brings its own.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from core.errors import InputError
from core.files import write_npz_atomically
from data.animation import PUBLISHED_FOCAL, PUBLISHED_HEIGHT, PUBLISHED_POSITION
from data.frame_range import FrameRange
from data.pose_files import read_poses
from data.preprocess.command_line import new_parser, positive, positive_number, run
from data.preprocess.motion_sources import SourceMotion, read_motion
from data.preprocess.resampling import resample

logger = logging.getLogger(__name__)

UP_AXES = {
    "y": Rotation.from_euler("x", 180, degrees=True),
    "z": Rotation.from_euler("x", 90, degrees=True),
    "y-down": Rotation.identity(),
}
"""Turns of the world that make the file's up-axis the project's -y. Who faced +z, or -y where z is up, faces -z."""
RELAXED = {"hands": (20, 21, 22, 23), "feet": (7, 8, 10, 11)}
"""Joints whose rotations the published CAPE motions leave out, as they are poorly tracked."""
_IMPLAUSIBLE = 50.0
"""Metres between two frames' roots that make another unit likely."""


def place(poses: np.ndarray, trans: np.ndarray, up: str, align: str) -> tuple[np.ndarray, np.ndarray]:
    """The motion in the project's axes, starting where the published camera looks.

    A turn of the world turns the path of the pelvis and its orientation; as the path is then moved to its start, the
    pelvis' place in the body cancels, and no body model is needed.

    Args:
        poses: [N, 24, 3] axis-angle.
        trans: [N, 3] metres.
        up: a key of ``UP_AXES``.
        align: ``heading`` also turns the first frame towards the camera (-z); ``position`` does not.
    """
    turn = UP_AXES[up]
    if align == "heading":
        forward = (turn * Rotation.from_rotvec(poses[0, 0])).apply([0, 0, 1])
        if np.hypot(forward[0], forward[2]) > 0.1:
            turn = Rotation.from_euler("y", np.pi - np.arctan2(forward[0], forward[2])) * turn
        else:
            logger.warning("The first frame looks up or down: it is not turned towards the camera.")
    placed = poses.copy()
    placed[:, 0] = (turn * Rotation.from_rotvec(poses[:, 0])).as_rotvec()
    return placed, turn.apply(trans - trans[0]) + PUBLISHED_POSITION


def orbit_cameras(frames: int, orbit: int, centre: np.ndarray) -> np.ndarray:
    """[frames + orbit, 4, 4] camera_from_world: a resting camera, then ``orbit`` views around ``centre`` [3]."""
    extrinsics = np.tile(np.eye(4), (frames + orbit, 1, 1))
    turns = Rotation.from_euler("y", 2 * np.pi * np.arange(orbit)[:, None] / max(orbit, 1)).as_matrix()
    extrinsics[frames:, :3, :3] = turns.reshape(-1, 3, 3)
    extrinsics[frames:, :3, 3] = centre - turns.reshape(-1, 3, 3) @ centre
    return extrinsics


def write_motion(output: Path, poses: np.ndarray, trans: np.ndarray, fps: float | None, orbit: int = 0) -> None:
    """Write ``poses.npz`` and ``cameras.npz`` (one camera, or one a frame with an orbit around the last frame)."""
    rows = np.concatenate([poses, np.repeat(poses[-1:], orbit, 0)]).reshape(-1, 72).astype(np.float32)
    places = np.concatenate([trans, np.repeat(trans[-1:], orbit, 0)]).astype(np.float32)
    centre = PUBLISHED_HEIGHT / 2
    intrinsic = np.array([[PUBLISHED_FOCAL, 0, centre], [0, PUBLISHED_FOCAL, centre], [0, 0, 1]])
    cameras = orbit_cameras(len(poses), orbit, trans[-1])
    fields = {
        "intrinsic": np.tile(intrinsic, (len(rows), 1, 1)) if orbit else intrinsic,
        "extrinsic": cameras if orbit else np.eye(4),
        "height": np.array(PUBLISHED_HEIGHT),
        "width": np.array(PUBLISHED_HEIGHT),
    }
    write_npz_atomically(output / "cameras.npz", fields)
    rate = {} if fps is None else {"fps": np.array(fps)}
    write_npz_atomically(output / "poses.npz", {"poses": rows, "trans": places, **rate})


def convert(motion: SourceMotion, output: Path, options: argparse.Namespace) -> None:
    """Cut, resample, place and write a motion.

    Raises:
        InputError: the up-axis or the frame rate is needed and unknown, or the frame range does not fit.
    """
    up, source_fps = options.up or motion.up, options.source_fps or motion.fps
    if up is None:
        raise InputError(
            motion.source,
            found="arrays that do not say which axis is up",
            expected="the option --up y, --up z or --up y-down (the project's axes)",
            next_step="AMASS has z up; AIST++, CAPE and SMPL at rest have y up; fits to images have y down.",
        )
    if options.fps is not None and source_fps is None:
        raise InputError(
            motion.source,
            found="no frame rate in the file",
            expected="--source-fps beside --fps",
            next_step="Give the frame rate of the recording.",
        )
    rows = FrameRange.of(options.frames).indices(len(motion.poses), motion.source, "poses")
    poses, trans = motion.poses[rows], options.metres_per_unit * motion.trans[rows]
    fps = None if source_fps is None else source_fps / FrameRange.of(options.frames).step
    if options.fps is not None and fps is not None:
        poses, trans = resample(poses, trans, fps, options.fps)
        fps = options.fps
    for name in options.relax:
        poses[:, RELAXED[name]] = 0
    _check_unit(motion.source, trans)
    poses, trans = place(poses, trans, up, options.align)
    write_motion(output, poses, trans, fps, options.orbit)
    read_poses(output / "poses.npz")
    rate = "unknown frame rate" if fps is None else f"{fps:g} frames a second"
    logger.info("%s: %d poses from %s (up: %s), %s", output, len(poses) + options.orbit, motion.kind, up, rate)


def _check_unit(source: Path, trans: np.ndarray) -> None:
    span = float(np.ptp(trans, axis=0).max())
    if span > _IMPLAUSIBLE:
        logger.warning("%s: the root moves by %.0f m. If these are not metres, give --metres-per-unit.", source, span)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(_parser(), lambda options: convert(read_motion(options.motion), options.output, options), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("data.preprocess.motion", __doc__)
    parser.add_argument("motion", type=Path, help=".npz or .pkl file, or folder with one .npz a frame")
    parser.add_argument("--output", type=Path, required=True, help="folder to write, e.g. load/animation/NAME")
    parser.add_argument("--up", choices=list(UP_AXES), help="the file's up-axis (default: its format's)")
    parser.add_argument("--source-fps", type=positive_number, help="frame rate of the file (default: what it says)")
    parser.add_argument(
        "--fps", type=positive_number, help="frame rate to write; poses are interpolated (default: keep)"
    )
    parser.add_argument("--frames", type=int, nargs="+", help="START STOP [STEP] of the file, half-open")
    parser.add_argument("--align", choices=("heading", "position"), default="heading", help="of the first frame")
    parser.add_argument("--relax", nargs="*", choices=list(RELAXED), default=[], help="leave these joints straight")
    parser.add_argument("--orbit", type=positive, default=0, help="views around the last frame to add, a camera each")
    parser.add_argument("--metres-per-unit", type=positive_number, default=1.0, help="scale of the translations")
    return parser


if __name__ == "__main__":
    sys.exit(main())
