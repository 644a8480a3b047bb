"""Files of SMPL motions: AMASS, AIST++, CAPE, and plain arrays."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import InputError, list_some
from core.files import missing
from data.preprocess.plain_pickle import read_plain_npz, read_plain_pickle
from data.preprocess.smpl_rows import check_rows, number_array, to_smpl

AIST_FPS = 60.0
CAPE_FPS = 60.0


@dataclass(frozen=True)
class SourceMotion:
    """A motion as its file has it."""

    source: Path
    kind: str
    """Whose format it is."""
    poses: np.ndarray
    """[N, 24, 3] axis-angle, float64."""
    trans: np.ndarray
    """[N, 3] in the file's axes, metres."""
    fps: float | None
    """None where the file does not say."""
    up: str | None
    """``y``, ``z``; None where the format does not say."""


def read_motion(path: Path) -> SourceMotion:
    """Read a motion: a .npz or .pkl file, or a folder with one .npz a frame (CAPE).

    Raises:
        InputError: missing, damaged, of no known format, or with arrays that do not fit together.
    """
    if path.is_dir():
        return _cape_folder(path)
    if not path.is_file():
        raise missing(path, "Give a motion file, or a folder of frames.")
    entries = read_plain_npz(path) if path.suffix == ".npz" else read_plain_pickle(path)
    if not isinstance(entries, dict):
        raise InputError(
            path, found=f"a {type(entries).__name__}", expected="a dictionary of arrays", next_step="Save it as .npz."
        )
    if "smpl_poses" in entries:
        return _aist(path, entries)
    return _arrays(path, entries)


def _aist(path: Path, entries: Mapping[str, Any]) -> SourceMotion:
    """AIST++: positions are in centimetres of the studio; ``smpl_scaling`` brings them to the body's metres."""
    poses = to_smpl(path, number_array(path, entries, "smpl_poses"))
    scaling = number_array(path, entries, "smpl_scaling").reshape(-1)
    check_rows(path, scaling, (1,), "smpl_scaling")
    trans = check_rows(path, number_array(path, entries, "smpl_trans"), (len(poses), 3), "smpl_trans")
    return SourceMotion(path, "AIST++", poses, trans / scaling[0], AIST_FPS, "y")


def _arrays(path: Path, entries: Mapping[str, Any]) -> SourceMotion:
    """AMASS (which names its frame rate), or arrays under the usual names."""
    poses = to_smpl(path, _pose_rows(path, entries))
    trans = check_rows(path, number_array(path, entries, "trans", "transl"), (len(poses), 3), "translations")
    rate = next((name for name in ("mocap_framerate", "mocap_frame_rate") if name in entries), None)
    amass = rate is not None
    rate = rate or ("fps" if "fps" in entries else None)
    fps = None if rate is None else float(number_array(path, entries, rate).reshape(-1)[0])
    return SourceMotion(path, "AMASS" if amass else "arrays", poses, trans, fps, "z" if amass else None)


def _pose_rows(path: Path, entries: Mapping[str, Any]) -> np.ndarray:
    for root, body in (("global_orient", "body_pose"), ("root_orient", "pose_body")):
        if root in entries and body in entries and "poses" not in entries:
            parts = number_array(path, entries, root), number_array(path, entries, body)
            rows = len(parts[0])
            return np.concatenate([part.reshape(rows, -1) for part in parts], 1)
    values = number_array(path, entries, "poses", "pose", "thetas")
    return values.reshape(len(values), -1) if values.ndim > 2 else values


def _cape_folder(folder: Path) -> SourceMotion:
    files = sorted(folder.glob("*.npz"), key=lambda path: [int(n) for n in re.findall(r"\d+", path.stem)][-1:])
    if not files:
        found = list_some(sorted(path.name for path in folder.iterdir()))
        raise InputError(folder, found=found, expected="one .npz a frame", next_step="Give a sequence's folder.")
    poses, trans = [], []
    for path in files:
        entries = read_plain_npz(path)
        poses.append(check_rows(path, number_array(path, entries, "pose").reshape(-1), (72,), "pose"))
        trans.append(check_rows(path, number_array(path, entries, "transl").reshape(-1), (3,), "transl"))
    return SourceMotion(folder, "CAPE", to_smpl(folder, np.stack(poses)), np.stack(trans), CAPE_FPS, "y")
