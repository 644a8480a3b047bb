"""Folders of numbered files: the images of a capture and the maps that belong to them."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from core.errors import InputError, list_some

PICTURES = (".png", ".jpg", ".jpeg")


def numbered_files(folder: Path, suffixes: Iterable[str] = PICTURES) -> dict[int, Path]:
    """Files of ``folder`` by the last number in their names, ascending; hidden (unfinished) files do not count.

    Raises:
        InputError: the folder is missing or holds no such files.
    """
    suffixes = tuple(suffixes)
    if not folder.is_dir():
        parent = next((parent for parent in folder.parents if parent.is_dir()), Path())
        holds = list_some(sorted(entry.name for entry in parent.iterdir()))
        raise InputError(
            folder,
            found=f"no such folder ({parent} holds {holds})",
            expected="the dataset's folder",
            next_step="Check the dataset's root and subject; DATASET.md shows every layout.",
        )
    files = {}
    for path in sorted(folder.iterdir()):
        digits = re.findall(r"\d+", path.stem)
        if digits and path.suffix.lower() in suffixes and not path.name.startswith("."):
            files[int(digits[-1])] = path
    if not files:
        raise InputError(
            folder,
            found=f"0 files *{'/*'.join(suffixes)}",
            expected="numbered files, one a frame",
            next_step="Check the dataset's root and subject; DATASET.md shows every layout.",
        )
    return dict(sorted(files.items()))


def matching_files(folder: Path, numbers: Sequence[int], suffixes: Iterable[str]) -> list[Path]:
    """The files of ``folder`` with exactly the ``numbers`` of the images, in their order.

    Raises:
        InputError: the folder is missing, or lists the numbers that are.
    """
    files = numbered_files(folder, suffixes)
    absent = [number for number in numbers if number not in files]
    if absent:
        raise InputError(
            folder,
            found=f"no file for frames {list_some(absent)} ({len(absent)} of {len(numbers)})",
            expected="one file for every image",
            next_step="Complete the folder or shorten the frame range.",
        )
    return [files[number] for number in numbers]


def optional_files(folder: Path, numbers: Sequence[int]) -> list[Path] | None:
    """As :func:`matching_files` for pictures, or None where the capture has no such folder."""
    return matching_files(folder, numbers, PICTURES) if folder.is_dir() else None
