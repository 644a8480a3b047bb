"""Files that are either whole or absent: atomic writing, and reading that says what is wrong."""

import json
import os
import pickle
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import InputError, list_some


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary file that takes the place of ``path`` when the block succeeds; on any error ``path`` stays as it was.

    The data reach the disk (fsync) before the rename, so a crash leaves the old file or the new one, never half of one.

    Raises:
        InputError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        temporary = Path(name)
        os.fchmod(handle, 0o666 & ~_umask())
        os.close(handle)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(
            path,
            found=f"an error while writing ({error.strerror or error})",
            expected="a writable folder with free space",
            next_step="Free some space or choose another output folder; the previous file, if any, is unchanged.",
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json_atomically(path: str | Path, content: Any) -> None:
    """Write ``content`` as JSON, indented; ``path`` is whole or untouched."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_npz_atomically(path: str | Path, arrays: Mapping[str, np.ndarray], compress: bool = True) -> None:
    """Write named arrays as .npz; ``path`` is whole or untouched."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        (np.savez_compressed if compress else np.savez)(stream, **dict(arrays))  # type: ignore[arg-type]


def read_json(path: str | Path, next_step: str = "Check the dataset's folder.") -> Any:
    """The content of a JSON file.

    Raises:
        InputError: missing or not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise missing(path, next_step) from error
    except (ValueError, OSError) as error:
        raise InputError(path, found=f"{error}", expected="a JSON file", next_step=next_step) from error


def read_array(path: str | Path, next_step: str = "Write the file again.") -> np.ndarray:
    """The array of a .npy file.

    Raises:
        InputError: missing, truncated, or holding pickled objects.
    """
    with _readable(path, "a whole .npy file of numbers", next_step):
        return np.load(path, allow_pickle=False)


def read_arrays(path: str | Path, next_step: str = "Write the file again.") -> dict[str, np.ndarray]:
    """All arrays of a .npz file by name.

    Raises:
        InputError: missing, truncated, or holding pickled objects.
    """
    with _readable(path, "a whole .npz file of numbers", next_step), np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def missing(path: str | Path, next_step: str) -> InputError:
    """The error for an absent ``path``: names what the nearest existing folder holds."""
    path = Path(path)
    folder = next((parent for parent in path.parents if parent.is_dir()), Path())
    inside = list_some(sorted(entry.name for entry in folder.iterdir()))
    return InputError(path, found=f"nothing there ({folder} holds {inside})", expected="that file", next_step=next_step)


@contextmanager
def _readable(path: str | Path, expected: str, next_step: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise missing(path, next_step) from error
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise InputError(path, found=f"an unreadable file ({error})", expected=expected, next_step=next_step) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
