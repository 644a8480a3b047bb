"""Spoils a capture as a video from the wild is: ``python -m benchmarks.noisy_capture --data FOLDER --output FOLDER``.

Copies one subject of a folder in the RANA layout and changes its training split: outlines of masks move by 3 pixels
(rms, along the normal, smoothly along the outline), 2 % of each mask is missing in a few round regions, and all joints
turn by 1.5 degrees (rms, smoothly in time). Images, ground truth and the test split stay as they are, so that
``benchmarks.quality --data OUTPUT`` measures what the noise costs; pose refinement is
``implicit_branch/pose_correction=pose_residual_enable``. ``noise.json`` tells what was asked for and what was reached.
"""

import argparse
import json
import logging
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.spatial.transform import Rotation

from core.errors import InputError
from core.files import read_array, read_arrays, replacing, write_json_atomically, write_npz_atomically
from data.image_folder import numbered_files

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Noise:
    """How strongly a capture is spoiled."""

    jitter: float = 3.0
    """Pixels by which the outline of a mask moves, rms."""
    smoothness: float = 8.0
    """Pixels along which that movement is correlated (standard deviation of a Gaussian)."""
    dropped: float = 0.02
    """Share of each mask that is missing."""
    regions: int = 3
    """In how many discs, about."""
    degrees: float = 1.5
    """Angle of the pose noise of a joint, rms over joints and frames."""
    frames: float = 4.0
    """Frames over which it is correlated (standard deviation of a Gaussian)."""
    seed: int = 0


def jittered(mask: np.ndarray, noise: Noise, rng: np.random.Generator) -> np.ndarray:
    """``mask`` [H, W] (0 and 1) whose outline is moved along its normal by a smooth random field."""
    field = cv2.GaussianBlur(rng.normal(size=mask.shape), (0, 0), noise.smoothness, borderType=cv2.BORDER_REFLECT)
    # The deviation of blurred white noise, not of this sample: small pictures hold few independent values.
    field *= noise.jitter * 2 * np.sqrt(np.pi) * noise.smoothness
    return (signed_distance(mask) + field > 0).astype(np.uint8)


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Pixels to the outline of ``mask`` [H, W], positive inside; the outline runs between pixels."""
    inside, outside = (cv2.distanceTransform(m.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
                       for m in (mask > 0, mask == 0))  # fmt: skip
    return np.where(mask > 0, inside - 0.5, 0.5 - outside)


def with_holes(mask: np.ndarray, noise: Noise, rng: np.random.Generator) -> np.ndarray:
    """``mask`` [H, W] without discs that together hold the share ``noise.dropped`` of it."""
    result, area = mask.copy(), int((mask > 0).sum())
    rows, columns = np.nonzero(mask)
    grid = np.mgrid[: mask.shape[0], : mask.shape[1]]
    budget = round(noise.dropped * area)
    while budget > 0 and area > 0:
        at = rng.integers(len(rows))
        distance = (grid[0] - rows[at]) ** 2 + (grid[1] - columns[at]) ** 2
        size = min(budget, max(1, round(noise.dropped * area / noise.regions)))
        inside = np.flatnonzero(result)
        nearest = inside[np.argsort(distance.reshape(-1)[inside], kind="stable")[:size]]
        result.reshape(-1)[nearest] = 0
        budget -= len(nearest)
    return result


def turned(axis_angles: np.ndarray, noise: Noise, rng: np.random.Generator) -> np.ndarray:
    """Poses [N, J, 3] (radians) with every joint turned further by smooth noise of ``noise.degrees`` rms."""
    offsets = gaussian_filter1d(rng.normal(size=axis_angles.shape), noise.frames, axis=0, mode="wrap")
    offsets *= np.radians(noise.degrees) / np.sqrt((offsets**2).sum(-1).mean())
    flat = Rotation.from_rotvec(axis_angles.reshape(-1, 3)) * Rotation.from_rotvec(offsets.reshape(-1, 3))
    return flat.as_rotvec().reshape(axis_angles.shape)


def spoil(data: Path, output: Path, subject: str, noise: Noise) -> dict[str, float]:
    """Write the spoiled copy; returns what was reached.

    Raises:
        InputError: no such subject, or ``output`` is not empty.
    """
    source, target = data / "train_p1" / subject, output / "train_p1" / subject
    masks = numbered_files(source / "masks", (".npy",))
    if output.exists() and any(output.iterdir()):
        raise InputError(output, found="files", expected="a new folder", next_step="Choose another --output.")
    for part in (f"train_p1/{subject}", f"test/{subject}", "hdri"):
        if (data / part).is_dir():
            shutil.copytree(data / part, output / part)
    rng = np.random.default_rng(noise.seed)
    moved, lost = [], []
    for path in masks.values():
        mask = (read_array(path) > 0).astype(np.uint8)
        outline = jittered(mask, noise, rng)
        spoiled = with_holes(outline, noise, rng)
        moved.append(outline_movement(mask, outline))
        lost.append(1 - spoiled.sum() / max(1, outline.sum()))
        with replacing(target / "masks" / path.name) as temporary:
            np.save(temporary, spoiled)
    poses = read_arrays(source / "poses.npz")
    before = np.concatenate([poses["global_orient"], poses["body_pose"]], 1).reshape(-1, 24, 3).astype(np.float64)
    after = turned(before, noise, rng)
    flat = after.reshape(len(after), 72).astype(np.float32)
    write_npz_atomically(target / "poses.npz", poses | {"global_orient": flat[:, :3], "body_pose": flat[:, 3:]})
    reached = {
        "jitter": float(np.sqrt(np.mean(np.square(moved)))),
        "dropped": float(np.mean(lost)),
        "degrees": rms_degrees(before, after),
    }
    write_json_atomically(output / "noise.json", {"asked": asdict(noise), "reached": reached})
    return reached


def outline_movement(before: np.ndarray, after: np.ndarray) -> float:
    """Rms distance in pixels from the outline of the mask ``after`` to that of ``before``."""
    contours, _ = cv2.findContours(after, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    points = np.concatenate(contours)[:, 0]
    return float(np.sqrt(np.mean(signed_distance(before)[points[:, 1], points[:, 0]] ** 2)))


def rms_degrees(before: np.ndarray, after: np.ndarray) -> float:
    """Rms angle between joint rotations [N, J, 3] (radians)."""
    first, second = (Rotation.from_rotvec(poses.reshape(-1, 3)) for poses in (before, after))
    return float(np.degrees(np.sqrt(np.mean((first.inv() * second).magnitude() ** 2))))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder in the RANA layout, with train_p1/ and test/")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--subject", default="subject_00", help="folder below train_p1/ and test/")
    parser.add_argument("--jitter", type=float, default=Noise.jitter, help="pixels")
    parser.add_argument("--dropped", type=float, default=Noise.dropped, help="share of the mask")
    parser.add_argument("--degrees", type=float, default=Noise.degrees, help="of each joint")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    noise = Noise(jitter=given.jitter, dropped=given.dropped, degrees=given.degrees, seed=given.seed)
    _log.info("%s: %s", given.output, json.dumps(spoil(given.data, given.output, given.subject, noise)))


if __name__ == "__main__":
    main()
