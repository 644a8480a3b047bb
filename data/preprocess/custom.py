"""Makes a dataset in the PeopleSnapshot layout of your own frames, masks and pose estimates.

    python -m data.preprocess.custom --images alice.mp4 --masks masks/ --smpl demo_alice.pkl --output load/mine/alice
    python -m data.preprocess.custom --images frames/ --masks masks.mp4 --smpl hmr4d_results.pt --focal 1480 \\
        --output load/mine/alice --frames 0 600 2 --missing interpolate
    python -m data.preprocess.custom --images rgba/ --smpl poses.npz --camera cameras.npz --output load/mine/alice

--images and --masks are a folder of numbered files or a video. --smpl is the output of 4D-Humans (.pkl), WHAM (.pkl),
GVHMR (.pt) or ROMP (.npz, or its folder), or a .npz with poses, transl and betas in the world of --camera. Nothing in
these files is executed. Without --camera, --focal or --fov the estimator's own focal length is kept; with one of them
the body is moved so that it still covers the same pixels. An interrupted conversion goes on where it stopped.
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from body_models import load_body
from body_models.skeleton import BETAS
from body_models.skinning import rest_joints
from core.errors import InputError, list_some
from data.camera_files import read_cameras
from data.frame_range import FrameRange
from data.image_folder import PICTURES
from data.peoplesnapshot import PeopleSnapshotFrames
from data.preprocess.command_line import add_workers, angle, new_parser, positive_number, run
from data.preprocess.conversion import Conversion, Job, fingerprint, run_jobs
from data.preprocess.estimates import Estimates, centred, read_estimates
from data.preprocess.frame_sources import FrameSource, Read, open_frames, positions_of
from data.preprocess.pictures import (
    Undistortion,
    check_size,
    foreground,
    warn_of_empty_masks,
    write_mask,
    write_picture,
)
from data.preprocess.resampling import interpolate
from data.preprocess.tables import write_camera, write_fits

logger = logging.getLogger(__name__)

SMPLX_PELVIS = (0.0031, -0.3514, 0.0120)
"""Metres: the pelvis of the neutral SMPL-X body at rest. SMPL's lies elsewhere; translations refer to the origin."""


@dataclass(frozen=True)
class LensCamera:
    """The camera of the frames."""

    source: str
    intrinsic: np.ndarray
    """[3, 3] pixels."""
    extrinsic: np.ndarray
    """[4, 4] camera_from_world."""
    distortion: np.ndarray


@dataclass(frozen=True)
class Rows:
    """The frames that are written, and their poses."""

    positions: list[int]
    """In the sequence of images."""
    poses: np.ndarray
    """[N, 24, 3]."""
    transl: np.ndarray
    """[N, 3]."""


def choose_rows(images: FrameSource, estimates: Estimates, frames: FrameRange, missing: str) -> Rows:
    """The selected frames with their poses.

    Args:
        missing: of frames without an estimate: ``stop``, ``drop`` them, or ``interpolate`` between their neighbours.

    Raises:
        InputError: frames have no estimate and that is to stop, or nothing is left.
    """
    selected = frames.indices(len(images.numbers), images.path, "images")
    known = _known_positions(images, estimates)
    absent = sorted(set(selected) - set(known.tolist()))
    if missing == "interpolate":
        selected = [position for position in selected if known[0] <= position <= known[-1]]
    elif missing == "drop":
        selected = [position for position in selected if position in set(known.tolist())]
    elif absent:
        raise InputError(
            estimates.source,
            found=f"no pose for frames {list_some(absent)} ({len(absent)} of {len(selected)})",
            expected=f"one for each frame of {images.path}",
            next_step="Use --missing interpolate, --missing drop or --frames.",
        )
    if not selected:
        raise InputError(
            estimates.source,
            found=f"poses of frames {known[0]}-{known[-1]}",
            expected=f"poses of the frames chosen from {images.path}",
            next_step="Correct --frames.",
        )
    if absent:
        logger.warning("%s: no pose for frames %s: --missing %s.", estimates.source, list_some(absent), missing)
    wanted = np.array(selected, np.float64)
    poses, transl = interpolate(estimates.poses, estimates.transl, known.astype(np.float64), wanted)
    return Rows(selected, poses, transl)


def _known_positions(images: FrameSource, estimates: Estimates) -> np.ndarray:
    """[M] position among the images of each estimate: ROMP names files, the others count frames from 0."""
    frames, count = estimates.frames, len(images.numbers)
    if estimates.kind == "ROMP":
        places = {number: position for position, number in enumerate(images.numbers)}
        if all(int(frame) in places for frame in frames):
            return np.array([places[int(frame)] for frame in frames])
        if frames.min() >= 1 and frames.max() <= count:
            return frames - 1
    if frames.max() >= count or (estimates.kind in ("arrays", "GVHMR") and len(frames) != count):
        raise InputError(
            estimates.source,
            found=f"{len(frames)} poses of frames {frames.min()}-{frames.max()}",
            expected=f"poses of the {count} images in {images.path}",
            next_step="Give the frames that the estimator was run on, all of them; choose from them with --frames.",
        )
    return frames


def choose_camera(options: argparse.Namespace, estimates: Estimates, size: tuple[int, int]) -> LensCamera:
    """The camera that the options name, else the estimator's.

    Raises:
        InputError: none is named and the estimates are plain arrays, or the camera's size is not the images' ``size``.
    """
    eye, undistorted = np.eye(4), np.zeros(5)
    if options.camera is not None:
        stored = read_cameras(options.camera)
        check_size(options.images, np.empty(size[::-1]), stored.width, stored.height, stored.source)
        distortion = undistorted if stored.distortion is None else stored.distortion
        extrinsic = stored.extrinsics[0] if estimates.intrinsics is None else eye
        return LensCamera(str(options.camera), stored.intrinsics[0], extrinsic, distortion)
    if options.focal is not None:
        return LensCamera("--focal", centred(options.focal, *size), eye, undistorted)
    if options.fov is not None:
        focal = 0.5 * size[0] / np.tan(np.radians(0.5 * options.fov))
        return LensCamera("--fov", centred(focal, *size), eye, undistorted)
    if estimates.intrinsics is None:
        raise InputError(
            estimates.source,
            found="poses without a camera",
            expected="--camera, --focal or --fov",
            next_step="Name the camera whose world the poses are in.",
        )
    return LensCamera(estimates.kind, estimates.intrinsics(*size), eye, undistorted)


def refocus(transl: np.ndarray, assumed: np.ndarray, actual: np.ndarray) -> np.ndarray:
    """Translations [N, 3] that cover the same pixels through ``actual`` as ``transl`` do through ``assumed`` [3, 3].

    Depth grows with the focal length, so that the size stays; the rest keeps the place in the image.
    """
    ratio = actual[0, 0] / assumed[0, 0]
    depth = transl[:, 2] * ratio
    pixels = transl[:, :2] / transl[:, 2:] * [assumed[0, 0], assumed[1, 1]] + assumed[:2, 2]
    aside = (pixels - actual[:2, 2]) / [actual[0, 0], actual[1, 1]] * depth[:, None]
    return np.concatenate([aside, depth[:, None]], 1)


def convert(options: argparse.Namespace) -> None:
    """Write the layout that the options ask for.

    Raises:
        InputError: a source is missing or broken, or they do not fit together.
    """
    estimates = read_estimates(options.smpl, options.track)
    images = open_frames(options.images)
    masks = None if options.masks is None else open_frames(options.masks, (".npy", *PICTURES))
    rows = choose_rows(images, estimates, FrameRange.of(options.frames), options.missing)
    mask_positions = None
    if masks is not None:
        mask_positions = _mask_positions(images, masks, rows.positions)
    height, width = _first(images, rows.positions[0]).shape[:2]
    camera = choose_camera(options, estimates, (width, height))
    transl = _in_camera(estimates, rows.transl, camera, options, (width, height))
    settings = {
        "images": _identity(options.images),
        "masks": None if options.masks is None else _identity(options.masks),
        "positions": rows.positions,
        "intrinsic": camera.intrinsic.tolist(),
        "distortion": camera.distortion.tolist(),
    }
    conversion = Conversion(options.output, "data.preprocess.custom", settings)
    lens = Undistortion(camera.intrinsic, camera.distortion)
    jobs = _jobs(images, masks, rows.positions, mask_positions, options.output, lens)
    run_jobs(jobs, len(rows.positions), options.output.name, options.workers)
    write_camera(options.output, camera.intrinsic, camera.extrinsic, (width, height))
    numbers = np.array([images.numbers[position] for position in rows.positions])
    write_fits(options.output, options.gender, _one_shape(estimates), rows.poses, transl, source_frames=numbers)
    conversion.finish()
    warn_of_empty_masks(options.output / "masks", (_mask_file(options.output, i) for i in range(len(numbers))))
    PeopleSnapshotFrames(
        root=options.output.parent, subject=options.output.name, gender=options.gender, split="raw fits"
    )
    logger.info(
        "%s: %d frames of %d x %d, poses of %s, focal length %.1f (%s)", options.output, len(numbers), width, height,
        estimates.kind, camera.intrinsic[0, 0], camera.source,
    )  # fmt: skip


def _in_camera(
    estimates: Estimates, transl: np.ndarray, camera: LensCamera, options: argparse.Namespace, size: tuple[int, int]
) -> np.ndarray:
    """[N, 3] translations for SMPL and the camera that is written."""
    if estimates.smplx:
        body = load_body(options.body_model, options.gender)
        pelvis = rest_joints(body, torch.zeros(BETAS))[0].numpy()
        transl = transl + np.array(SMPLX_PELVIS) - pelvis
        logger.warning(
            "%s: fitted with SMPL-X. Poses carry over, the shape only roughly: turn pose refinement on.",
            estimates.source,
        )
    if estimates.intrinsics is None:
        return transl
    behind = np.flatnonzero(transl[:, 2] <= 0)
    if len(behind):
        raise InputError(
            estimates.source,
            found=f"bodies behind the camera in rows {list_some(behind)}",
            expected="positive depths, in camera axes (x right, y down, z forward)",
            next_step="Leave these frames out with --frames.",
        )
    assumed = estimates.intrinsics(*size)
    if np.allclose(assumed, camera.intrinsic, rtol=1e-6):
        return transl
    logger.info(
        "%s assumed a focal length of %.1f, the camera has %.1f: depths are multiplied by %.3f.", estimates.kind,
        assumed[0, 0], camera.intrinsic[0, 0], camera.intrinsic[0, 0] / assumed[0, 0],
    )  # fmt: skip
    return refocus(transl, assumed, camera.intrinsic)


def _one_shape(estimates: Estimates) -> np.ndarray:
    """[10] the median over the frames, as a person has one shape."""
    spread = float(estimates.betas.std(0).max())
    if spread > 1e-4:
        logger.info("%s: betas differ between frames by %.2f; their median is used.", estimates.source, spread)
    return np.median(estimates.betas, 0)


def _mask_positions(images: FrameSource, masks: FrameSource, positions: list[int]) -> list[int]:
    """Where the masks of the images at ``positions`` are: same numbers, or same order where both have as many."""
    numbers = [images.numbers[position] for position in positions]
    if set(numbers) <= set(masks.numbers):
        return positions_of(masks, numbers, len(images.numbers))
    return positions_of(masks, positions, len(images.numbers))


def _first(images: FrameSource, position: int) -> np.ndarray:
    read = next(images.read([position], lambda _position: True))
    assert read is not None
    return read()


def _identity(path: Path) -> str:
    """Tells sources apart: a file's fingerprint, or a folder's files and that of the first."""
    if path.is_file():
        return fingerprint(path)
    files = sorted(entry for entry in path.iterdir() if entry.is_file())
    return f"{len(files)} files, {fingerprint(files[0])}"


def _image_file(output: Path, number: int) -> Path:
    return output / "images" / f"image_{number:04d}.png"


def _mask_file(output: Path, number: int) -> Path:
    return output / "masks" / f"mask_{number:04d}.npy"


def _jobs(
    images: FrameSource,
    masks: FrameSource | None,
    positions: list[int],
    mask_positions: list[int] | None,
    output: Path,
    lens: Undistortion,
) -> Iterator[Job | None]:
    """One job a written frame; None for those that are there already."""
    done = [_image_file(output, i).is_file() and _mask_file(output, i).is_file() for i in range(len(positions))]
    open_images = {position for position, finished in zip(positions, done) if not finished}
    pictures = images.read(positions, lambda position: position in open_images)
    silhouettes: Iterator[Read | None] = iter([None] * len(positions))
    if masks is not None and mask_positions is not None:
        open_masks = {position for position, finished in zip(mask_positions, done) if not finished}
        silhouettes = masks.read(mask_positions, lambda position: position in open_masks)
    for number, (picture, silhouette) in enumerate(zip(pictures, silhouettes)):
        source = f"{images.path}, frame {images.numbers[positions[number]]}"
        yield None if picture is None else partial(_write_frame, source, picture, silhouette, output, number, lens)


def _write_frame(
    source: str, picture: Read, silhouette: Read | None, output: Path, number: int, lens: Undistortion
) -> None:
    pixels = picture()
    if silhouette is None and (pixels.ndim != 3 or pixels.shape[2] != 4):
        raise InputError(
            source, found="no alpha channel", expected="masks", next_step="Give --masks, or images with alpha."
        )
    mask = foreground(pixels[..., 3] if silhouette is None else silhouette())
    check_size(f"mask of {source}", mask, pixels.shape[1], pixels.shape[0], "its image")
    colours = cv2.cvtColor(pixels, cv2.COLOR_GRAY2BGR) if pixels.ndim == 2 else pixels[..., :3]
    write_mask(_mask_file(output, number), lens.mask(mask))
    write_picture(_image_file(output, number), lens.picture(np.ascontiguousarray(colours)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return run(_parser(), convert, arguments)


def _parser() -> argparse.ArgumentParser:
    parser = new_parser("data.preprocess.custom", __doc__)
    parser.add_argument("--images", type=Path, required=True, help="video, or folder of numbered PNG or JPEG files")
    parser.add_argument("--masks", type=Path, help="video or folder (PNG, .npy); default: the images' alpha")
    parser.add_argument("--smpl", type=Path, required=True, help="pose estimates: .pkl, .pt, .npz or ROMP's folder")
    parser.add_argument("--output", type=Path, required=True, help="the subject's folder, e.g. load/mine/alice")
    parser.add_argument("--gender", choices=("neutral", "male", "female"), default="neutral", help="of the fits' body")
    parser.add_argument("--track", help="whose poses, where several people were tracked")
    parser.add_argument("--frames", type=int, nargs="+", help="START STOP [STEP] of the images, half-open")
    parser.add_argument("--missing", choices=("stop", "drop", "interpolate"), default="stop",
                        help="of frames without a pose (default: stop)")  # fmt: skip
    camera = parser.add_mutually_exclusive_group()
    camera.add_argument("--camera", type=Path, help="cameras.npz or .json: intrinsic, extrinsic, height, width")
    camera.add_argument("--focal", type=positive_number, help="focal length in pixels of the images")
    camera.add_argument("--fov", type=angle, help="horizontal field of view in degrees")
    parser.add_argument("--body-model", default="data/SMPLX/smpl", help="SMPL files, for fits with SMPL-X only")
    add_workers(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
