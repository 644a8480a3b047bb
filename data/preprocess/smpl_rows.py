"""Rows of poses in the notations of SMPL and its relatives, brought to SMPL's 24 joints."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from body_models.skeleton import JOINTS
from core.errors import InputError

logger = logging.getLogger(__name__)

SHARED_JOINTS = 22
"""Root and body joints that SMPL, SMPL-H and SMPL-X have in common, in the same order."""
_WIDTHS = {
    66: "22 body joints",
    72: "SMPL",
    156: "SMPL-H",
    165: "SMPL-X",
}
_NEXT_STEP = "DATASET.md lists the files that are understood."


def to_smpl(source: Path, values: np.ndarray) -> np.ndarray:
    """[N, 24, 3] float64 of rows [N, 66, 72, 156 or 165].

    Of SMPL-H and SMPL-X the first 22 joints are kept; SMPL's hand joints 22 and 23 get no rotation. (Joints 22 and 23
    of SMPL-H are two bones of the left index finger, of SMPL-X jaw and eye: cutting off after 72 numbers is wrong.)

    Raises:
        InputError: rows of another width.
    """
    width = values.shape[-1] if values.ndim else 0
    if values.ndim != 2 or width not in _WIDTHS:
        expected = " or ".join(f"(N, {count}) {name}" for count, name in _WIDTHS.items())
        raise InputError(source, found=f"poses of shape {values.shape}", expected=expected, next_step=_NEXT_STEP)
    poses = np.zeros((len(values), JOINTS, 3))
    if width == 3 * JOINTS:
        return values.reshape(-1, JOINTS, 3).astype(np.float64)
    poses[:, :SHARED_JOINTS] = values[:, : 3 * SHARED_JOINTS].reshape(-1, SHARED_JOINTS, 3)
    logger.info("%s: poses of %s; the 22 shared joints are kept, SMPL's hands stay straight.", source, _WIDTHS[width])
    return poses


def number_array(source: Path, entries: Mapping[str, Any], *names: str) -> np.ndarray:
    """The first of ``names`` that ``entries`` has, as finite float64.

    Raises:
        InputError: none is there, or it is no array of finite numbers; names the rows.
    """
    name = next((name for name in names if name in entries), None)
    if name is None:
        held = sorted(map(str, entries))
        raise InputError(source, found=f"arrays {held}", expected=" or ".join(names), next_step=_NEXT_STEP)
    try:
        values = np.asarray(entries[name], np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            source, found=f"{name} that is no array of numbers ({error})", expected="numbers", next_step=_NEXT_STEP
        ) from error
    broken = np.unique(np.argwhere(~np.isfinite(np.atleast_1d(values)))[:, 0])
    if len(broken):
        raise InputError(
            source,
            found=f"NaN or infinite {name} in rows {broken[:8].tolist()} ({len(broken)} in all)",
            expected="finite numbers",
            next_step="Leave these frames out or repair their poses.",
        )
    return values


def check_rows(source: Path, values: np.ndarray, shape: tuple[int, ...], name: str) -> np.ndarray:
    """``values``, whose shape must be ``shape``.

    Raises:
        InputError: it is not.
    """
    if values.shape != shape:
        found = f"{name} of shape {values.shape}"
        raise InputError(source, found=found, expected=f"{shape}", next_step=_NEXT_STEP)
    return values
