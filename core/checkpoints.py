"""Checkpoints: written whole, read without executing code, compared with what they are used for."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.errors import InputError, list_some
from core.files import replacing

_SUFFIXES = (".ckpt", ".pth", ".pt")


def save_atomically(content: Any, path: str | Path) -> None:
    """``torch.save`` to a temporary file, flushed to disk and renamed; on failure the old ``path`` is untouched.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    with replacing(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # what torch's own file writer raises on a full disk
            raise OSError(f"torch could not write the file: {str(error).splitlines()[0]}") from error


def load_weights_only(path: str | Path, map_location: torch.device | str = "cpu") -> Any:
    """Read a checkpoint of tensors and plain containers; nothing in the file is executed.

    Raises:
        InputError: the file is missing (the checkpoints found nearby are listed), truncated, not a checkpoint, or holds
            objects other than tensors and plain containers.
    """
    path = Path(path)
    if not path.is_file():
        raise _missing_checkpoint(path)
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            path,
            found=f"objects that loading would have to execute ({_reason(error)})",
            expected="a checkpoint of tensors and plain containers",
            next_step="Use a checkpoint written by this program; checkpoints of other programs are not loaded.",
        ) from error
    except Exception as error:  # torch raises many kinds for a file that is cut short or is something else
        raise InputError(
            path,
            found=f"a truncated or foreign file ({_reason(error)})",
            expected="a whole checkpoint written by this program",
            next_step="Train again, or copy the checkpoint again.",
        ) from error


def check_metadata(found: Mapping[str, Any], expected: Mapping[str, Any], path: str | Path) -> None:
    """Compare what a file says it was made for with what it is used for: subject, gender, canonical_pose, betas, ...

    Every key of ``expected`` whose value is not None must be in ``found`` with the same value; numbers within 1e-4,
    pose names in either published spelling.

    Raises:
        InputError: names every difference.
    """
    wanted = {key: value for key, value in expected.items() if value is not None}
    different = [key for key, value in wanted.items() if key not in found or not _same(key, found[key], value)]
    if different:
        raise InputError(
            path,
            found=", ".join(f"{key} = {_short(found[key]) if key in found else 'not recorded'}" for key in different),
            expected=", ".join(f"{key} = {_short(wanted[key])}" for key in different),
            next_step="Choose the file that belongs to this subject, or the dataset and options that it was made with.",
        )


def _missing_checkpoint(path: Path) -> InputError:
    folder = next((parent for parent in path.parents if parent.is_dir()), Path())
    found = sorted(
        p.relative_to(folder) for s in _SUFFIXES for d in ("", "*/", "*/*/") for p in folder.glob(f"{d}*{s}")
    )
    return InputError(
        path,
        found=f"no such file (checkpoints under {folder}: {list_some(found)})",
        expected="a checkpoint",
        next_step="Correct the path, or run the stage that writes it first.",
    )


def _same(key: str, found: Any, expected: Any) -> bool:
    if isinstance(expected, str) or isinstance(found, str):
        if key == "canonical_pose":
            return _pose_name(str(found)) == _pose_name(str(expected))
        return found == expected
    a, b = (np.asarray(_plain(x), dtype=np.float64).reshape(-1) for x in (found, expected))
    return a.shape == b.shape and bool(np.allclose(a, b, atol=1e-4, rtol=0))


def _pose_name(name: str) -> str:
    return name.lower().replace("female_3", "female3")


def _plain(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value


def _short(value: Any) -> str:
    if isinstance(value, str):
        return value
    return np.array2string(np.asarray(_plain(value)), precision=4, threshold=12, separator=", ")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
