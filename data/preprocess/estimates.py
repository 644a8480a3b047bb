"""What estimators of human pose write, in one form: 4D-Humans (PHALP), GVHMR, WHAM, ROMP, and plain arrays."""

import logging
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from body_models.skeleton import BETAS
from core.errors import InputError, list_some
from core.files import missing
from data.preprocess.plain_pickle import read_plain_npz, read_plain_pickle
from data.preprocess.smpl_rows import check_rows, number_array, to_smpl

logger = logging.getLogger(__name__)

PHALP_FOCAL = 5000 / 256
"""Focal length of 4D-Humans in units of the image's longer side: its network sees 256 pixels."""
ROMP_FOCAL = 443.4 / 512
"""Focal length of ROMP in units of the image's longer side: its network sees 512 pixels at 60 degrees."""
_NEXT_STEP = "DATASET.md lists the files that are understood."

Intrinsics = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class Estimates:
    """Poses of one person, in camera axes unless they are plain arrays."""

    source: Path
    kind: str
    frames: np.ndarray
    """[M] ascending frame of each row: a position in the sequence, or a number in the files' names."""
    poses: np.ndarray
    """[M, 24, 3]."""
    transl: np.ndarray
    """[M, 3] metres."""
    betas: np.ndarray
    """[M, 10]."""
    intrinsics: Intrinsics | None
    """[3, 3] that the estimator assumed for images of a width and a height; None for plain arrays."""
    smplx: bool = False
    """Fitted with SMPL-X, whose origin lies elsewhere in the body."""


def read_estimates(path: Path, track: str | None = None) -> Estimates:
    """Read an estimator's output; its kind is recognised by its content.

    Args:
        path: .pkl (4D-Humans, WHAM), .pt (GVHMR), .npz (ROMP, arrays), or a folder of .npz files (ROMP).
        track: whose poses, where several people were tracked; default: who is seen longest.

    Raises:
        InputError: missing, damaged, unknown, NaN, or no such track.
    """
    if not path.exists():
        raise missing(path, "Give the estimator's output.")
    try:
        return _recognised(path, track)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _unknown(path, f"incomplete entries ({type(error).__name__}: {error})") from error


def _recognised(path: Path, track: str | None) -> Estimates:
    if path.is_dir():
        return _romp(path, _romp_folder(path), track)
    if path.suffix in (".pt", ".pth"):
        return _gvhmr(path, _load_tensors(path))
    entries = read_plain_npz(path) if path.suffix == ".npz" else read_plain_pickle(path)
    if not isinstance(entries, dict) or not entries:
        raise _unknown(path, f"a {type(entries).__name__} of {len(entries) if hasattr(entries, '__len__') else 1}")
    first = next(iter(entries.values()))
    if isinstance(first, dict) and "smpl" in first and "camera" in first:
        return _phalp(path, entries, track)
    if isinstance(first, dict) and "pose" in first and "frame_ids" in first:
        return _wham(path, entries, track)
    if "results" in entries:
        return _romp(path, _romp_frames(path, entries["results"]), track)
    if {"poses", "thetas", "global_orient", "smpl_thetas"} & set(entries):
        return _arrays(path, entries)
    raise _unknown(path, f"entries {list_some(entries)}")


def centred(focal: float, width: int, height: int) -> np.ndarray:
    """[3, 3] intrinsics with the principal point in the image's centre."""
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


@dataclass
class _Person:
    """Rows of one track while they are collected; of several for one frame the first counts."""

    frames: list[int]
    poses: list[np.ndarray]
    transl: list[np.ndarray]
    betas: list[np.ndarray]

    def add(self, frame: int, pose: np.ndarray, transl: np.ndarray, betas: np.ndarray) -> None:
        """Append one frame."""
        self.frames.append(frame)
        self.poses.append(pose)
        self.transl.append(transl)
        self.betas.append(betas)


def _phalp(path: Path, entries: Mapping[Any, Any], track: str | None) -> Estimates:
    """4D-Humans: a dictionary of frames; each lists its people's rotation matrices and translations."""
    ordered = sorted(entries.items(), key=lambda item: (int(item[1].get("time", 0)), str(item[0])))
    people: dict[str, _Person] = {}
    for position, (name, frame) in enumerate(ordered):
        number = int(frame.get("time", position))
        for i, body in enumerate(frame["smpl"]):
            seen = frame.get("tracked_time", [])
            if i < len(seen) and int(seen[i]) > 0:
                continue  # not seen in this frame: carried along by the tracker
            where = path / Path(str(name)).name
            parts = number_array(where, body, "global_orient"), number_array(where, body, "body_pose")
            turns = np.concatenate([part.reshape(-1, 3, 3) for part in parts])
            pose = Rotation.from_matrix(check_rows(where, turns, (24, 3, 3), "rotations")).as_rotvec()
            place = number_array(where, {"camera": frame["camera"][i]}, "camera").reshape(-1)
            betas = number_array(where, body, "betas").reshape(-1)[:BETAS]
            person = str(frame["tid"][i]) if i < len(frame.get("tid", [])) else str(i)
            people.setdefault(person, _Person([], [], [], [])).add(number, pose, place, betas)
    return _estimates(path, "4D-Humans", people, track, lambda w, h: centred(PHALP_FOCAL * max(w, h), w, h))


def _wham(path: Path, entries: Mapping[Any, Any], track: str | None) -> Estimates:
    """WHAM: a dictionary of people; poses and places in the camera, with the frames in which they are seen."""
    people = {}
    for name, rows in entries.items():
        poses = to_smpl(path, number_array(path, rows, "pose"))
        count = len(poses)
        transl = check_rows(path, number_array(path, rows, "trans").reshape(-1, 3), (count, 3), "trans")
        betas = check_rows(path, number_array(path, rows, "betas").reshape(-1, BETAS), (count, BETAS), "betas")
        frames = check_rows(path, number_array(path, rows, "frame_ids").reshape(-1), (count,), "frame_ids")
        people[str(name)] = _Person([int(f) for f in frames], list(poses), list(transl), list(betas))
    return _estimates(path, "WHAM", people, track, lambda w, h: centred(float(np.hypot(w, h)), w, h))


def _gvhmr(path: Path, entries: Any) -> Estimates:
    """GVHMR: SMPL-X in the camera, a row for every frame, and the intrinsics that were used."""
    if not isinstance(entries, dict) or "smpl_params_incam" not in entries or "K_fullimg" not in entries:
        held = list_some(entries) if isinstance(entries, dict) else type(entries).__name__
        raise _unknown(path, f"entries {held}")
    rows = entries["smpl_params_incam"]
    orient, body, transl, betas = (
        number_array(path, rows, name).reshape(-1, width)
        for name, width in (("global_orient", 3), ("body_pose", 63), ("transl", 3), ("betas", BETAS))
    )
    count = len(orient)
    check_rows(path, body, (count, 63), "body_pose")
    check_rows(path, transl, (count, 3), "transl")
    betas = _shape_rows(path, betas, count)
    matrices = number_array(path, entries, "K_fullimg").reshape(-1, 3, 3)
    if not np.allclose(matrices, matrices[0], rtol=1e-3):
        logger.warning("%s: the focal length changes; that of the first frame is used.", path)
    poses = to_smpl(path, np.concatenate([orient, body], 1))
    return Estimates(path, "GVHMR", np.arange(count), poses, transl, betas, lambda _w, _h: matrices[0], smplx=True)


def _romp(path: Path, frames: Mapping[int, Mapping[str, Any]], track: str | None) -> Estimates:
    """ROMP: per frame, arrays over the people seen."""
    people: dict[str, _Person] = {}
    for number, entries in sorted(frames.items()):
        where = path / str(number)
        poses = to_smpl(where, number_array(where, entries, "smpl_thetas").reshape(-1, 72))
        places = check_rows(where, number_array(where, entries, "cam_trans"), (len(poses), 3), "cam_trans")
        betas = number_array(where, entries, "smpl_betas").reshape(len(poses), -1)[:, :BETAS]
        names = np.asarray(entries["track_ids"]).reshape(-1) if "track_ids" in entries else np.arange(len(poses))
        for name, *row in zip(names, poses, places, betas):
            people.setdefault(str(name), _Person([], [], [], [])).add(number, *row)
    return _estimates(path, "ROMP", people, track, lambda w, h: centred(ROMP_FOCAL * max(w, h), w, h))


def _arrays(path: Path, entries: Mapping[str, Any]) -> Estimates:
    """Plain arrays, in the world of the camera that the user names; a row for every frame."""
    if "global_orient" in entries:
        orient = number_array(path, entries, "global_orient").reshape(-1, 3)
        body = number_array(path, entries, "body_pose").reshape(len(orient), -1)
        values = np.concatenate([orient, body], 1)
    else:
        values = number_array(path, entries, "thetas", "poses", "smpl_thetas")
    poses = to_smpl(path, values.reshape(len(values), -1))
    transl = check_rows(path, number_array(path, entries, "transl", "trans", "cam_trans"), (len(poses), 3), "transl")
    betas = _shape_rows(path, number_array(path, entries, "betas", "smpl_betas"), len(poses))
    return Estimates(path, "arrays", np.arange(len(poses)), poses, transl, betas, None)


def _shape_rows(path: Path, betas: np.ndarray, count: int) -> np.ndarray:
    """[count, 10] of one shape, or of one a row."""
    rows = np.atleast_1d(betas)
    rows = rows.reshape(-1, rows.shape[-1])[:, :BETAS]
    return check_rows(path, np.repeat(rows, count, 0) if len(rows) == 1 else rows, (count, BETAS), "betas")


def _estimates(
    path: Path, kind: str, people: dict[str, _Person], track: str | None, intrinsics: Intrinsics
) -> Estimates:
    seen = {name: len(person.frames) for name, person in people.items()}
    text = list_some(f"{name} ({count} frames)" for name, count in sorted(seen.items(), key=lambda item: -item[1]))
    if not seen or (track is not None and track not in seen):
        next_step = "Name a track that is there." if seen else "Run the estimator again."
        raise InputError(path, found=f"tracks {text}", expected=f"track {track or '0'}", next_step=next_step)
    name = track if track is not None else max(seen, key=lambda key: seen[key])
    if len(seen) > 1 and track is None:
        logger.warning("%s: tracks %s; %s is used. Choose another with --track.", path, text, name)
    person = people[name]
    betas = check_rows(path, np.stack(person.betas), (seen[name], BETAS), "betas")
    transl = check_rows(path, np.stack(person.transl), (seen[name], 3), "translations")
    frames, rows = np.unique(person.frames, return_index=True)
    return Estimates(path, kind, frames, np.stack(person.poses)[rows], transl[rows], betas[rows], intrinsics)


def _romp_folder(folder: Path) -> dict[int, Mapping[str, Any]]:
    frames: dict[int, Mapping[str, Any]] = {}
    for path in sorted(folder.glob("*.npz")):
        digits = re.findall(r"\d+", path.stem)
        if digits:
            entries = read_plain_npz(path)
            frames[int(digits[-1])] = entries["results"].item() if "results" in entries else entries
    if not frames:
        raise _unknown(folder, f"files {list_some(sorted(entry.name for entry in folder.iterdir()))}")
    return frames


def _romp_frames(path: Path, results: np.ndarray) -> dict[int, Mapping[str, Any]]:
    """The dictionary in the object array ``results``: people of one image, or frames by file name."""
    entries = results.item() if results.ndim == 0 else None
    if not isinstance(entries, dict):
        raise _unknown(path, f"results of type {type(entries).__name__}")
    if "smpl_thetas" in entries:
        return {0: entries}
    return {int(re.findall(r"\d+", Path(str(name)).stem)[-1]): frame for name, frame in entries.items()}


def _load_tensors(path: Path) -> Any:
    """The tensors of a .pt file, as arrays; torch refuses to execute anything."""
    try:
        return _as_arrays(torch.load(path, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, zipfile.BadZipFile) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _unknown(path, f"a file that torch cannot load safely ({first_line})") from error


def _as_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_arrays(entry) for name, entry in value.items()}
    return value.numpy() if isinstance(value, torch.Tensor) else value


def _unknown(path: Path, found: str) -> InputError:
    expected = "the output of 4D-Humans, GVHMR, WHAM or ROMP, or arrays poses, transl, betas"
    return InputError(path, found=found, expected=expected, next_step=_NEXT_STEP)
