"""Converts subjects of PeopleSnapshot, as its authors ship them, to the layout that the project reads.

    python -m data.preprocess.peoplesnapshot --root ~/people_snapshot_public --subject male-3-casual
    python -m data.preprocess.peoplesnapshot --root ~/people_snapshot_public --subject male-3-casual female-4-casual \\
        --output load/peoplesnapshot --refined ~/InstantAvatar/data/PeopleSnapshot --workers 8

Reads <root>/<subject>/ with camera.pkl, <subject>.mp4, masks.hdf5 and reconstructed_poses.hdf5; writes
<output>/<subject>/ with cameras.npz, images/, masks/ and poses.npz. An interrupted conversion goes on where it stopped.
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np

from body_models.skeleton import BETAS
from body_models.smpl_pickle import read_pickle
from core.errors import InputError
from core.files import missing
from data.peoplesnapshot import PeopleSnapshotFrames
from data.pose_files import read_poses
from data.preprocess.command_line import add_workers, new_parser, run
from data.preprocess.conversion import Conversion, Job, fingerprint, run_jobs
from data.preprocess.pictures import (
    Undistortion,
    check_size,
    foreground,
    warn_of_empty_masks,
    write_bytes,
    write_mask,
    write_picture,
)
from data.preprocess.tables import write_camera, write_fits
from data.preprocess.video import Video, open_video

logger = logging.getLogger(__name__)

SPARE_ROWS = 1
"""Surplus last rows that are dropped without asking: published subjects have one pose more than frames."""
_ASK_THE_AUTHORS = "Copy the subject's folder again; https://graphics.tu-bs.de/people-snapshot describes it."


@dataclass(frozen=True)
class RawCamera:
    """What camera.pkl holds."""

    source: Path
    intrinsic: np.ndarray
    """[3, 3] pixels."""
    distortion: np.ndarray
    """[5] OpenCV coefficients."""
    extrinsic: np.ndarray
    """[4, 4] camera_from_world."""
    width: int
    height: int


@dataclass(frozen=True)
class RawSubject:
    """The checked source of one subject; ``count`` frames of it are used."""

    name: str
    folder: Path
    camera: RawCamera
    video: Video
    poses: dict[str, np.ndarray]
    count: int

    @property
    def masks(self) -> Path:
        """The file of masks."""
        return self.folder / "masks.hdf5"


def convert(raw: RawSubject, output: Path, gender: str, workers: int, keep_distortion: bool = False) -> None:
    """Write the layout to ``output`` (the subject's folder).

    Args:
        keep_distortion: store pictures as filmed, and the coefficients in cameras.npz (the reader undistorts).

    Raises:
        InputError: a frame is broken, or ``output`` belongs to another conversion.
    """
    sources = {path.name: fingerprint(path) for path in (raw.camera.source, raw.video.path, raw.masks)}
    settings = {"subject": raw.name, "sources": sources, "count": raw.count, "keep_distortion": keep_distortion}
    conversion = Conversion(output, "data.preprocess.peoplesnapshot", settings)
    run_jobs(_jobs(raw, output, keep_distortion), raw.count, raw.name, workers)
    _write_tables(raw, output, gender, keep_distortion)
    conversion.finish()
    warn_of_empty_masks(output / "masks", (_mask_file(output, i) for i in range(raw.count)))
    PeopleSnapshotFrames(root=output.parent, subject=output.name, gender=gender, split="raw fits")
    logger.info("%s: %d frames, %s", output, raw.count, gender)


def read_subject(folder: Path) -> RawSubject:
    """Read and check the raw folder of a subject; pictures are read later.

    Raises:
        InputError: a file is missing or broken, or the files do not fit together.
    """
    camera = read_camera(folder / "camera.pkl")
    poses = read_fits(folder / "reconstructed_poses.hdf5")
    with open_hdf5(folder / "masks.hdf5") as file:
        shape = _dataset(folder / "masks.hdf5", file, "masks").shape
    if len(shape) != 3 or shape[1:] != (camera.height, camera.width):
        raise _unusable(folder / "masks.hdf5", f"masks {shape}", f"masks (N, {camera.height}, {camera.width})")
    video = open_video(folder / f"{folder.name}.mp4")
    first = np.empty((video.height, video.width))
    check_size(video.path, first, camera.width, camera.height, camera.source)
    counts = {"frames in the video": video.count, "masks": shape[0], "poses": len(poses["pose"])}
    return RawSubject(folder.name, folder, camera, video, poses, _common_count(folder, counts))


def read_camera(path: Path) -> RawCamera:
    """Read camera.pkl without executing it.

    Raises:
        InputError: missing, not such a pickle, or without a usable camera.
    """
    if not path.is_file():
        raise missing(path, _ASK_THE_AUTHORS)
    entries = read_pickle(path)
    focal, centre, distortion, rotation, translation, height, width = (
        _vector(path, entries, *expected)
        for expected in (("camera_f", 2), ("camera_c", 2), ("camera_k", 5), ("camera_rt", 3), ("camera_t", 3),
                         ("height", 1), ("width", 1))
    )  # fmt: skip
    intrinsic = np.array([[focal[0], 0, centre[0]], [0, focal[1], centre[1]], [0, 0, 1]])
    extrinsic = np.eye(4)
    extrinsic[:3, :3] = cv2.Rodrigues(rotation)[0]
    extrinsic[:3, 3] = translation
    return RawCamera(path, intrinsic, distortion, extrinsic, int(width[0]), int(height[0]))


def read_fits(path: Path) -> dict[str, np.ndarray]:
    """Read ``betas`` [10], ``pose`` [N, 72] and ``trans`` [N, 3] of reconstructed_poses.hdf5.

    Raises:
        InputError: missing, broken, of other shapes, or not finite.
    """
    with open_hdf5(path) as file:
        arrays = {name: np.asarray(_dataset(path, file, name), np.float32) for name in ("betas", "pose", "trans")}
    arrays["betas"] = arrays["betas"].reshape(-1)
    rows = len(arrays["pose"])
    for name, shape in (("betas", (BETAS,)), ("pose", (rows, 72)), ("trans", (rows, 3))):
        if arrays[name].shape != shape:
            raise _unusable(path, f"{name} {arrays[name].shape}", f"{name} {shape}")
        broken = np.unique(np.argwhere(~np.isfinite(arrays[name]))[:, 0])
        if len(broken):
            raise _unusable(path, f"NaN or infinite {name} in rows {broken[:8].tolist()}", "finite numbers")
    return arrays


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file.

    Raises:
        InputError: missing, truncated, or not HDF5.
    """
    if not path.is_file():
        raise missing(path, _ASK_THE_AUTHORS)
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise _unusable(path, f"a file of {path.stat().st_size} bytes ({error})", "a whole HDF5 file") from error


def _dataset(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    if name not in file:
        raise _unusable(path, f"datasets {sorted(file)}", name)
    return file[name]


def _vector(path: Path, entries: dict[str, Any], name: str, length: int) -> np.ndarray:
    values = np.asarray(entries.get(name, np.nan), np.float64).reshape(-1)
    if values.shape != (length,) or not np.isfinite(values).all():
        found = f"{name} {values.tolist()}" if name in entries else f"no {name} among {sorted(entries)}"
        raise _unusable(path, found, f"{name}: {length} finite numbers")
    return values


def _common_count(folder: Path, counts: dict[str, int]) -> int:
    fewest = min(counts.values())
    text = ", ".join(f"{count} {name}" for name, count in counts.items())
    if max(counts.values()) > fewest + SPARE_ROWS:
        raise _unusable(folder, text, "one of each for every frame")
    if max(counts.values()) > fewest:
        logger.warning("%s: %s; the first %d of each are used.", folder, text, fewest)
    return fewest


def _unusable(path: Path, found: str, expected: str) -> InputError:
    return InputError(path, found=found, expected=expected, next_step=_ASK_THE_AUTHORS)


def _image_file(output: Path, number: int) -> Path:
    return output / "images" / f"image_{number:04d}.png"


def _mask_file(output: Path, number: int) -> Path:
    return output / "masks" / f"mask_{number:04d}.npy"


def _jobs(raw: RawSubject, output: Path, keep_distortion: bool) -> Iterator[Job | None]:
    """One job a frame; decoding and HDF5 stay in the caller's thread, undistortion and PNG go to the workers."""
    coefficients = np.zeros(5) if keep_distortion else raw.camera.distortion
    lens = Undistortion(raw.camera.intrinsic, coefficients)

    def wanted(number: int) -> bool:
        return not (_image_file(output, number).is_file() and _mask_file(output, number).is_file())

    with open_hdf5(raw.masks) as file:
        masks = _dataset(raw.masks, file, "masks")
        for number, frame in zip(range(raw.count), raw.video.frames(wanted)):
            yield (
                None
                if frame is None
                else partial(_write_frame, output, number, frame, _read_mask(raw.masks, masks, number), lens)
            )


def _read_mask(path: Path, masks: h5py.Dataset, number: int) -> np.ndarray:
    try:
        return masks[number]
    except OSError as error:
        raise _unusable(path, f"mask {number} that cannot be read ({error})", "a whole HDF5 file") from error


def _write_frame(output: Path, number: int, frame: np.ndarray, mask: np.ndarray, lens: Undistortion) -> None:
    write_mask(_mask_file(output, number), lens.mask(foreground(mask)))
    write_picture(_image_file(output, number), lens.picture(frame))


def _write_tables(raw: RawSubject, output: Path, gender: str, keep_distortion: bool) -> None:
    camera, fits = raw.camera, raw.poses
    distortion = camera.distortion if keep_distortion else None
    write_camera(output, camera.intrinsic, camera.extrinsic, (camera.width, camera.height), distortion)
    write_fits(output, gender, fits["betas"], fits["pose"][: raw.count], fits["trans"][: raw.count])


def copy_refined(folder: Path, output: Path, gender: str) -> None:
    """Copy the refined poses ``anim_nerf_<split>.npz`` of a subject, after checking them.

    Args:
        folder: holds the files, or ``poses/`` with them, or ``<subject>/poses/``.

    Raises:
        InputError: none are there, or one is broken.
    """
    places = [folder / output.name / "poses", folder / output.name, folder / "poses", folder]
    files = next((found for place in places if (found := sorted(place.glob("anim_nerf_*.npz")))), [])
    if not files:
        raise missing(folder / output.name / "poses" / "anim_nerf_train.npz", "Give the folder of the refined poses.")
    for path in files:
        read_poses(path, gender)
        write_bytes(output / "poses" / path.name, path.read_bytes())


def gender_of(subject: str, asked: str | None) -> str:
    """The gender that is asked for, or that the subject's name begins with.

    Raises:
        InputError: neither.
    """
    named = asked or subject.split("-", maxsplit=1)[0]
    if named not in ("male", "female", "neutral"):
        raise InputError(
            subject, found="a name without gender", expected="male-... or female-...", next_step="Give --gender."
        )
    return named


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(_parser(), _convert_all, arguments)


def _convert_all(options: argparse.Namespace) -> None:
    for subject in options.subject:
        gender = gender_of(subject, options.gender)
        output = options.output / subject
        raw = read_subject(options.root / subject)
        convert(raw, output, gender, options.workers, options.keep_distortion)
        if options.refined is not None:
            copy_refined(options.refined, output, gender)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("data.preprocess.peoplesnapshot", __doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of the subjects' raw folders")
    parser.add_argument("--subject", nargs="+", default=["male-3-casual"], help="default: male-3-casual")
    parser.add_argument("--output", type=Path, default=Path("load/peoplesnapshot"), help="default: load/peoplesnapshot")
    parser.add_argument("--gender", choices=("male", "female", "neutral"), help="default: from the subject's name")
    parser.add_argument("--refined", type=Path, help="folder with anim_nerf_*.npz (InstantAvatar, IntrinsicAvatar)")
    parser.add_argument("--keep-distortion", action="store_true", help="store pictures as filmed, with coefficients")
    add_workers(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
