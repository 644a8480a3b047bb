"""The annotation files of RANA: one JSON a frame, with the body and the camera."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from body_models.skeleton import BETAS
from core.errors import InputError
from core.files import read_json

_HANDS = 57
"""Wrists and hands, the last 12 of the 69 body pose values, are not SMPL's in RANA; the published data zero them."""
TEST_CAMERA_TURN = np.pi / 2
"""The test camera looks along the world's +x: camera axes are turned by this about y (down) into the world's."""


@dataclass(frozen=True)
class RanaSequence:
    """A sequence in world axes, with the scale of the scene divided out."""

    gender: str
    betas: np.ndarray
    """[10]."""
    global_orient: np.ndarray
    """[N, 3] axis-angle."""
    body_pose: np.ndarray
    """[N, 69] axis-angle; wrists and hands are zero."""
    pelvis_positions: np.ndarray
    """[N, 3] metres of the body model."""
    intrinsic: np.ndarray
    """[3, 3] pixels."""
    extrinsic: np.ndarray
    """[4, 4] camera_from_world."""
    width: int
    height: int
    lights: list[str] | None
    """File name of each frame's environment map; None outside the test split."""


def read_sequence(files: list[Path], relit: bool, size: tuple[int, int]) -> RanaSequence:
    """Read and check the annotations ``files`` of a sequence whose images have ``size`` (width, height).

    Raises:
        InputError: a file is broken, incomplete, or contradicts the first one.
    """
    contents = [read_json(path, "Copy the annotation again.") for path in files]
    bodies = [_field(path, content, "skeleton_0", "smpl_data") for path, content in zip(files, contents)]
    orient, pose, position, scale, betas = (
        np.stack([_numbers(path, body, name, length) for path, body in zip(files, bodies)])
        for name, length in (("global_orient", 3), ("pose", 69), ("global_trans", 3), ("scale", 1), ("betas", BETAS))
    )
    genders = [
        str(np.asarray(_field(path, body, "gender")).reshape(-1)[0]).lower() for path, body in zip(files, bodies)
    ]
    cameras = [_camera(path, content, relit, size) for path, content in zip(files, contents)]
    for name, rows in (("betas", betas), ("gender", genders), ("camera", cameras)):
        _check_constant(files, name, rows)
    if (scale <= 0).any():
        row = int(np.argmin(scale[:, 0]))
        raise _unusable(files[row], f"scale {scale[row, 0]}", "a positive scale")
    pose[:, _HANDS:] = 0
    positions = position.astype(np.float64) / scale
    extrinsic = np.eye(4)
    if relit:
        world_from_camera = Rotation.from_rotvec([0, TEST_CAMERA_TURN, 0])
        orient = (world_from_camera * Rotation.from_rotvec(orient)).as_rotvec()
        positions = world_from_camera.apply(positions)
        extrinsic[:3, :3] = world_from_camera.inv().as_matrix().round(15)
    return RanaSequence(
        gender=genders[0],
        betas=betas[0].astype(np.float32),
        global_orient=orient.astype(np.float32),
        body_pose=pose.astype(np.float32),
        pelvis_positions=positions,
        intrinsic=cameras[0],
        extrinsic=extrinsic,
        width=size[0],
        height=size[1],
        lights=[Path(str(_field(p, c, "bg_file"))).name for p, c in zip(files, contents)] if relit else None,
    )


def _camera(path: Path, content: Any, relit: bool, size: tuple[int, int]) -> np.ndarray:
    """[3, 3] the annotated intrinsics, or those of the annotated field of view about the image's centre."""
    if not relit:
        return _numbers(path, _field(path, content, "skeleton_0", "smpl_data"), "K", 9).reshape(3, 3)
    camera = _field(path, content, "camera")
    yaw, fov = (float(_numbers(path, camera, name, 1)[0]) for name in ("yaw", "fov"))
    if yaw != 0:
        raise _unusable(path, f"a camera with yaw {yaw}", "yaw 0, as in the published test split")
    if not 0 < fov < np.pi:
        raise _unusable(path, f"field of view {fov}", "radians between 0 and pi")
    width, height = size
    focal = 0.5 * width / np.tan(0.5 * fov)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def _field(path: Path, content: Any, *names: str) -> Any:
    for depth, name in enumerate(names):
        if not isinstance(content, dict) or name not in content:
            holds = sorted(content) if isinstance(content, dict) else type(content).__name__
            raise _unusable(path, f"no {'.'.join(names[: depth + 1])} (there is {holds})", "an annotation of RANA")
        content = content[name]
    return content


def _numbers(path: Path, content: Any, name: str, length: int) -> np.ndarray:
    try:
        values = np.asarray(_field(path, content, name), np.float64).reshape(-1)
    except (TypeError, ValueError) as error:
        raise _unusable(path, f"{name} that is no array of numbers ({error})", f"{length} numbers") from error
    if len(values) != length or not np.isfinite(values).all():
        found = f"{len(values)} values" if len(values) != length else "NaN or infinite values"
        raise _unusable(path, f"{found} in {name}", f"{length} finite numbers")
    return values


def _check_constant(files: list[Path], name: str, rows: Any) -> None:
    for path, row in zip(files, rows):
        same = row == rows[0] if isinstance(row, str) else np.allclose(row, rows[0], atol=1e-5)
        if not same:
            found = f"{name} {row if isinstance(row, str) else np.round(row, 4).tolist()}"
            first = rows[0] if isinstance(row, str) else np.round(rows[0], 4).tolist()
            raise _unusable(path, found, f"that of {files[0].name}, {first}: one {name} for the sequence")


def _unusable(path: Path, found: str, expected: str) -> InputError:
    return InputError(path, found=found, expected=expected, next_step="Copy the sequence again.")
