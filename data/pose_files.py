"""SMPL pose files: .npz with betas, and one row of pose and translation per frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.errors import InputError
from core.files import read_arrays
from core.frames import BodyPose

_NEXT_STEP = "Give the pose file of this subject; DATASET.md lists the arrays of every layout."


@dataclass(frozen=True)
class PoseSequence:
    """Poses of a sequence and the shape they belong to."""

    source: Path
    pose: BodyPose
    """Batched over the frames: tensors [N, ...]."""
    betas: Tensor | None
    """[10]; None where the file holds none (motions)."""

    def __len__(self) -> int:
        return len(self.pose.transl)

    @property
    def known_betas(self) -> Tensor:
        """[10] the shape.

        Raises:
            InputError: the file holds none.
        """
        if self.betas is None:
            raise InputError(self.source, found="no betas", expected="betas (10,)", next_step=_NEXT_STEP)
        return self.betas

    def check_count(self, count: int, images: str | Path) -> None:
        """Compare the number of poses with ``count`` frames taken from ``images``.

        Raises:
            InputError: they differ; poses of another sequence are never substituted.
        """
        if len(self) != count:
            raise InputError(
                self.source,
                found=f"{len(self)} poses (0-{len(self) - 1})",
                expected=f"{count}, one for each frame (0-{count - 1}) taken from {images}",
                next_step="Correct the frame range in the dataset's options, or give the pose file of these frames.",
            )

    def select(self, indices: Sequence[int]) -> "PoseSequence":
        """The rows ``indices``."""
        return PoseSequence(self.source, self.pose[torch.as_tensor(indices)], self.betas)


def read_poses(path: str | Path, gender: str | None = None) -> PoseSequence:
    """Read a pose file in any published notation.

    Pose as ``global_orient`` (N, 3) + ``body_pose`` (N, 69), or ``thetas`` / ``poses`` (N, 72), radians; translation as
    ``transl`` or ``trans`` (N, 3), metres; ``betas`` (10,) or (1, 10), optional.

    Args:
        gender: compared with the file's ``gender`` where it names one.

    Raises:
        InputError: missing, unreadable, other shapes, NaN, rows that do not match, or another gender.
    """
    path = Path(path)
    arrays = read_arrays(path, _NEXT_STEP)
    _check_gender(path, arrays, gender)
    pose = _pose_rows(path, arrays)
    transl = _rows(path, arrays, ("transl", "trans"), 3)
    if len(pose) != len(transl):
        raise InputError(
            path,
            found=f"{len(pose)} poses and {len(transl)} translations",
            expected="as many of each",
            next_step=_NEXT_STEP,
        )
    return PoseSequence(path, BodyPose(pose[:, :3], pose[:, 3:], transl), _betas(path, arrays))


def read_betas(candidates: Sequence[Path], gender: str | None = None) -> Tensor:
    """The shape [10] in the first existing file of ``candidates``.

    Raises:
        InputError: none exists, or it has no betas.
    """
    path = next((candidate for candidate in candidates if candidate.is_file()), candidates[-1])
    arrays = read_arrays(path, f"Give the subject's folder, which holds {candidates[-1].name} with its betas.")
    _check_gender(path, arrays, gender)
    betas = _betas(path, arrays)
    if betas is None:
        raise InputError(path, found=f"arrays {sorted(arrays)}", expected="betas", next_step=_NEXT_STEP)
    return betas


def read_recorded_gender(path: Path) -> str | None:
    """The gender that a pose file names; None where there is no file or it names none."""
    if not path.is_file():
        return None
    arrays = read_arrays(path, _NEXT_STEP)
    return str(arrays["gender"]) if "gender" in arrays else None


def _pose_rows(path: Path, arrays: dict[str, np.ndarray]) -> Tensor:
    if "global_orient" in arrays:
        parts = _rows(path, arrays, ("global_orient",), 3), _rows(path, arrays, ("body_pose",), 69)
        if len(parts[0]) != len(parts[1]):
            raise InputError(
                path,
                found=f"{len(parts[0])} root and {len(parts[1])} body poses",
                expected="as many of each",
                next_step=_NEXT_STEP,
            )
        return torch.cat(parts, -1)
    return _rows(path, arrays, ("thetas", "poses"), 72)


def _rows(path: Path, arrays: dict[str, np.ndarray], names: tuple[str, ...], width: int) -> Tensor:
    name = next((name for name in names if name in arrays), None)
    if name is None:
        raise InputError(
            path, found=f"arrays {sorted(arrays)}", expected=f"{' or '.join(names)} (N, {width})", next_step=_NEXT_STEP
        )
    values = arrays[name]
    if values.dtype.kind not in "fiu" or values.size % width or values.shape[-1] != width:
        raise InputError(
            path,
            found=f"{name} of shape {values.shape} and type {values.dtype}",
            expected=f"numbers (N, {width})",
            next_step=_NEXT_STEP,
        )
    rows = torch.from_numpy(values.reshape(-1, width).astype(np.float32))
    broken = (~rows.isfinite().all(-1)).nonzero().flatten().tolist()
    if broken:
        raise InputError(
            path,
            found=f"NaN or infinite {name} in rows {broken[:8]} ({len(broken)} in all)",
            expected="finite numbers",
            next_step="Leave these frames out or repair their poses.",
        )
    return rows


def _betas(path: Path, arrays: dict[str, np.ndarray]) -> Tensor | None:
    if "betas" not in arrays:
        return None
    betas = arrays["betas"]
    rows = betas.reshape(-1, betas.shape[-1]) if betas.ndim and betas.size else betas.reshape(0, 0)
    if rows.shape[-1] < 10 or not np.isfinite(rows).all() or not np.allclose(rows, rows[:1], atol=1e-4):
        raise InputError(
            path,
            found=f"betas {np.array2string(betas, threshold=12)}",
            expected="ten finite numbers, the same for every frame",
            next_step=_NEXT_STEP,
        )
    return torch.from_numpy(rows[0, :10].astype(np.float32))


def _check_gender(path: Path, arrays: dict[str, np.ndarray], gender: str | None) -> None:
    recorded = str(arrays["gender"]) if "gender" in arrays else gender
    if gender is not None and recorded != gender:
        raise InputError(
            path,
            found=f"gender {recorded}",
            expected=f"gender {gender}",
            next_step="Correct the dataset's gender option, or give this subject's file.",
        )
