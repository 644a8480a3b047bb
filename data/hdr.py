"""Finding environment maps: by path, beside a dataset, or among the bundled ones."""

from collections.abc import Sequence
from pathlib import Path

from core.errors import InputError, list_some
from core.files import read_json

BUNDLED_FOLDER = Path(__file__).parent / "embedded" / "hdri"


def bundled_hdris() -> dict[str, Path]:
    """The environment maps that come with the project, by file name."""
    return {path.name: path for path in sorted(BUNDLED_FOLDER.glob("*.hdr"))}


def find_hdri(name: str | Path, folders: Sequence[Path] = ()) -> Path:
    """The file of an environment map: ``name`` as a path, then in ``folders``, then among the bundled maps.

    Raises:
        InputError: it is nowhere; lists the bundled maps.
    """
    path = Path(name)
    bundled = bundled_hdris()
    for candidate in (
        path,
        *(Path(folder) / path for folder in folders),
        *(Path(folder) / path.name for folder in folders),
    ):
        if candidate.is_file():
            return candidate
    found = bundled.get(path.name) or bundled.get(f"{path.name}.hdr")
    if found is None:
        tried = list_some([path.parent if path.parent != Path() else Path.cwd(), *folders])
        raise InputError(
            path,
            found=f"no such map (looked in {tried})",
            expected="an equirectangular .hdr or .exr file",
            next_step=f"Give its path, or one of the bundled maps: {list_some(bundled)}.",
        )
    return found


def read_hdri_list(path: Path, count: int, folders: Sequence[Path]) -> list[Path]:
    """The map of each of ``count`` frames named by a JSON list, found in ``folders`` or among the bundled maps.

    Raises:
        InputError: not a list of names, a list of another length, or a map that is nowhere.
    """
    names = read_json(path, "Every frame of a relit sequence names its map; DATASET.md shows the layout.")
    if not isinstance(names, list) or len(names) != count:
        found = f"{len(names)} names" if isinstance(names, list) else f"{type(names).__name__}"
        raise InputError(
            path, found=found, expected=f"a list of {count} names, one a frame", next_step="Complete the list."
        )
    known = {name: find_hdri(name, folders) for name in dict.fromkeys(map(str, names))}
    return [known[str(name)] for name in names]
