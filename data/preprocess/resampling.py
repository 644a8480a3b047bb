"""Poses between poses: rotations by quaternion interpolation, positions linearly."""

import numpy as np
from scipy.spatial.transform import Rotation, Slerp


def interpolate(
    poses: np.ndarray, transl: np.ndarray, known: np.ndarray, wanted: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Poses and translations at the times ``wanted``.

    Args:
        poses: [N, 24, 3] axis-angle at the times ``known``.
        transl: [N, 3].
        known: [N] ascending.
        wanted: [M] within the range of ``known``. Where they agree with known times, rows are taken as they are.
    """
    exact = np.clip(np.searchsorted(known, wanted), 0, len(known) - 1)
    same = known[exact] == wanted
    at_poses, at_transl = poses[exact].copy(), transl[exact].copy()
    between = wanted[~same]
    if len(between):
        for joint in range(poses.shape[1]):
            curve = Slerp(known, Rotation.from_rotvec(poses[:, joint]))
            at_poses[~same, joint] = curve(between).as_rotvec()
        at_transl[~same] = np.stack([np.interp(between, known, transl[:, axis]) for axis in range(3)], -1)
    return at_poses, at_transl


def resample(poses: np.ndarray, transl: np.ndarray, source_fps: float, fps: float) -> tuple[np.ndarray, np.ndarray]:
    """The motion at another frame rate, over the same time; equal rates return it unchanged."""
    if source_fps == fps:
        return poses, transl
    known = np.arange(len(poses)) / source_fps
    wanted = np.arange(int(known[-1] * fps + 1e-6) + 1) / fps
    return interpolate(poses, transl, known, np.minimum(wanted, known[-1]))
