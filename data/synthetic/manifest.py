"""What was generated, with which settings, and whether it is still whole."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from core.errors import InputError, list_some
from core.files import read_json, write_json_atomically

SCHEMA = 1
_START_OVER = "Choose another output folder, or remove this one to start over."


def sha256(path: str | Path) -> str:
    """Hash of a file's content."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _slowly(stream)


def _slowly(stream: Any) -> str:
    """Python 3.10 has no ``file_digest``."""
    digest = hashlib.sha256()
    for block in iter(lambda: stream.read(1 << 20), b""):
        digest.update(block)
    return digest.hexdigest()


class Manifest:
    """``manifest.json`` of an output folder: the settings, and the hash of every file that is complete."""

    name = "manifest.json"

    def __init__(self, folder: str | Path, settings: dict[str, Any]) -> None:
        """Open the manifest of ``folder``, or start one.

        Args:
            folder: files are recorded relative to it.
            settings: JSON values that determine the content: seeds, sizes, hashes of inputs.

        Raises:
            InputError: the folder was made with other settings; mixing the two would give inconsistent frames.
        """
        self.folder = Path(folder)
        self._files: dict[str, str] = {}
        self._settings = settings
        path = self.folder / self.name
        if path.is_file():
            found = read_json(path, _START_OVER)
            self._files = dict(found.get("files", {}))
            _compare(path, found.get("settings", {}), settings)

    def has(self, files: Iterable[Path]) -> bool:
        """Whether all ``files`` were recorded and are unchanged on disk."""
        return all(path.is_file() and self._files.get(self._key(path)) == sha256(path) for path in files)

    def record(self, files: Iterable[Path]) -> None:
        """Note that ``files`` are complete, and save."""
        self._files.update({self._key(path): sha256(path) for path in files})
        content = {"schema": SCHEMA, "settings": self._settings, "files": dict(sorted(self._files.items()))}
        write_json_atomically(self.folder / self.name, content)

    def _key(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()


def _compare(path: Path, found: dict[str, Any], asked: dict[str, Any]) -> None:
    differ = [name for name in sorted({*found, *asked}) if found.get(name) != asked.get(name)]
    if differ:
        old = list_some(f"{name} {found.get(name)}" for name in differ)
        new = list_some(f"{name} {asked.get(name)}" for name in differ)
        raise InputError(path, found=f"settings {old}", expected=f"{new}", next_step=_START_OVER)
