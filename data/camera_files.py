"""Camera files of the published layouts: cameras.npz and cameras.json, one camera or one per frame."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.camera import Camera
from core.errors import InputError, list_some
from core.files import read_arrays, read_json

_NEXT_STEP = "DATASET.md describes the camera file of every layout."


@dataclass(frozen=True)
class StoredCameras:
    """What a camera file holds: one camera, or one per frame."""

    source: Path
    intrinsics: np.ndarray
    """[1 or N, 3, 3] pixels."""
    extrinsics: np.ndarray
    """[1 or N, 4, 4] camera_from_world."""
    distortion: np.ndarray | None
    """OpenCV coefficients [4, 5, 8 ...]; None if the images are undistorted."""
    width: int
    height: int

    def camera(self, frame: int) -> Camera:
        """The camera of ``frame`` (position in the sequence), at the stored size."""
        k, w = (a[frame if len(a) > 1 else 0] for a in (self.intrinsics, self.extrinsics))
        return Camera(
            torch.from_numpy(k.astype(np.float32)), torch.from_numpy(w.astype(np.float32)), self.width, self.height
        )

    def check_frames(self, count: int) -> None:
        """Compare the number of per-frame cameras with ``count`` frames.

        Raises:
            InputError: they differ.
        """
        for name, values in (("intrinsic", self.intrinsics), ("extrinsic", self.extrinsics)):
            if len(values) not in (1, count):
                raise InputError(
                    self.source,
                    found=f"{len(values)} {name} matrices",
                    expected=f"1 or {count} (frames)",
                    next_step=_NEXT_STEP,
                )


def read_cameras(path: str | Path) -> StoredCameras:
    """Read ``intrinsic`` ([N,] 3, 3), ``extrinsic`` ([N,] 4, 4 world to camera), ``height``, ``width``, ``distortion``.

    Raises:
        InputError: missing, unreadable, or matrices of another shape or kind.
    """
    path = Path(path)
    return _stored(path, read_json(path, _NEXT_STEP) if path.suffix == ".json" else read_arrays(path, _NEXT_STEP))


def read_named_camera(path: str | Path, name: str | None = None) -> tuple[str, StoredCameras]:
    """Read one of the cameras of a JSON file with ``all_cam_names`` and an entry as above for each.

    Args:
        name: which one; None: the first of ``all_cam_names``.

    Returns:
        Its name and the camera.

    Raises:
        InputError: as :func:`read_cameras`, or there is no camera of this name.
    """
    path = Path(path)
    fields = read_json(path, _NEXT_STEP)
    names = fields.get("all_cam_names") if isinstance(fields, dict) else None
    chosen = name if name is not None or not names else str(names[0])
    if not isinstance(names, list) or chosen not in fields:
        found = f"cameras {list_some(names)}" if isinstance(names, list) else "no all_cam_names"
        raise InputError(path, found=found, expected=f"camera {chosen or 'names'}", next_step=_NEXT_STEP)
    return str(chosen), _stored(path, fields[chosen])


def _stored(path: Path, fields: dict[str, Any]) -> StoredCameras:
    absent = [name for name in ("intrinsic", "extrinsic", "height", "width") if name not in fields]
    if absent:
        raise InputError(
            path, found=f"no {', '.join(absent)} among {sorted(fields)}", expected="one camera", next_step=_NEXT_STEP
        )
    intrinsics = _matrices(path, fields["intrinsic"], 3)
    extrinsics = _matrices(path, fields["extrinsic"], 4)
    distortion = np.asarray(fields.get("distortion", 0.0), np.float64).reshape(-1)
    height, width = (int(np.asarray(fields[name]).reshape(-1)[0]) for name in ("height", "width"))
    return StoredCameras(path, intrinsics, extrinsics, distortion if distortion.any() else None, width, height)


def target_size(width: int, height: int, downscale: float, size: tuple[int, int] | None) -> tuple[int, int]:
    """Width and height to read at: ``size`` (height, width) where given, else the stored size over ``downscale``."""
    if size is not None:
        return int(size[1]), int(size[0])
    return max(1, round(width / downscale)), max(1, round(height / downscale))


def _matrices(path: Path, values: Any, side: int) -> np.ndarray:
    matrices = np.asarray(values, np.float64)
    if matrices.shape[-2:] == (3, 4) and side == 4:
        last = np.broadcast_to([0.0, 0.0, 0.0, 1.0], (*matrices.shape[:-2], 1, 4))
        matrices = np.concatenate([matrices, last], -2)
    if matrices.ndim not in (2, 3) or matrices.shape[-2:] != (side, side) or not np.isfinite(matrices).all():
        raise InputError(
            path,
            found=f"a matrix of shape {matrices.shape}",
            expected=f"finite ([N,] {side}, {side})",
            next_step=_NEXT_STEP,
        )
    rotation = matrices[..., :3, :3]
    if side == 4 and not np.allclose(rotation @ np.swapaxes(rotation, -1, -2), np.eye(3), atol=1e-3):
        raise InputError(
            path,
            found="an extrinsic that is not a rotation and a translation",
            expected="camera_from_world",
            next_step=_NEXT_STEP,
        )
    return matrices.reshape(-1, side, side)
