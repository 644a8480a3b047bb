"""Finds, reads and checks files in the SMPL format: pickles and this project's compact ``.npz``."""

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from body_models.skeleton import BETAS, JOINTS, PARENTS, POSE_FEATURES
from body_models.smpl_pickle import read_pickle
from core.errors import InputError, list_some

EMBEDDED_BODIES = Path(__file__).resolve().parents[1] / "data" / "embedded" / "bodies"
"""The three bodies that the project carries: the SMPL file format, not SMPL (made from CC0 assets, see NOTICE)."""

GENDERS = ("neutral", "male", "female")

WHERE_TO_GET = (
    "Register and download 'SMPL for Python' from https://smpl.is.tue.mpg.de and put SMPL_NEUTRAL.pkl, SMPL_MALE.pkl "
    "and SMPL_FEMALE.pkl into one folder (usually data/SMPLX/smpl), or use the embedded bodies (body model 'embedded')."
)
_REQUIRED = ("v_template", "shapedirs", "weights", "kintree_table", "f")


def find_file(location: str | Path | None, gender: str) -> Path:
    """The body file for ``gender``.

    Args:
        location: a file, or a folder in one of the published layouts (``SMPL_MALE.pkl``, ``male/model.pkl``,
            ``basicModel_m_lbs_10_207_0_v1.0.0.pkl``, ``male.npz``; also inside ``smpl/``). None or ``"embedded"`` means
            the embedded bodies.
        gender: ``neutral``, ``male`` or ``female``.

    Raises:
        InputError: no such gender, or no file for it.
    """
    if gender not in GENDERS:
        next_step = "Name the gender that the subject's pose fits were made with."
        raise InputError("gender", found=repr(gender), expected=" or ".join(GENDERS), next_step=next_step)
    place = EMBEDDED_BODIES if location is None or str(location) == "embedded" else Path(location)
    if place.is_file():
        return place
    wanted = _file_names(gender)
    for folder in (place, place / "smpl"):
        for name in wanted:
            if (folder / name).is_file():
                return folder / name
        for path in sorted(folder.glob("*.pkl")):
            if _gender_of_name(path) == gender:
                return path
    found = list_some(sorted(p.name for p in place.iterdir())) if place.is_dir() else "no such file or folder"
    raise InputError(place, found=found, expected=f"{gender} body: {' or '.join(wanted[:3])}", next_step=WHERE_TO_GET)


def _file_names(gender: str) -> list[str]:
    upper = f"SMPL_{gender.upper()}"
    return [f"{upper}.pkl", f"{gender}/model.pkl", f"{gender}.npz", f"{upper}.npz", f"{gender}/model.npz"]


def _gender_of_name(path: Path) -> str | None:
    """The gender that a file or its folder is named after, if any."""
    letters = {"m": "male", "f": "female"}
    for text in (path.stem.lower(), path.parent.name.lower()):
        for word in re.split(r"[^a-z]+", text):
            if word in GENDERS:
                return word
        short = re.match(r"basicmodel_([mf])_", text)
        if short:
            return letters[short[1]]
    return None


def read_body_arrays(path: Path, gender: str) -> dict[str, np.ndarray]:
    """Checked arrays of one body file.

    Returns:
        v_template [V, 3], shapedirs [V, 3, 10], posedirs [V, 3, 207] (zeros when the file has none), joint_regressor
        [24, V], weights [V, 24], all float32 and metres where they are lengths; faces [F, 3] int64.

    Raises:
        InputError: unreadable, incomplete, of another shape, not finite, or of another gender.
    """
    entries = _read_npz(path) if path.suffix == ".npz" else read_pickle(path)
    _check_gender(path, entries.get("gender"), gender)
    missing = [name for name in _REQUIRED if name not in entries]
    if missing:
        raise _unusable(path, f"no {', '.join(missing)} (it has {list_some(sorted(entries))})", "an SMPL body file")
    vertices = len(np.atleast_1d(entries["v_template"]))
    arrays = {
        "v_template": _floats(path, entries, "v_template", (vertices, 3)),
        "shapedirs": _floats(path, entries, "shapedirs", (vertices, 3, BETAS)),
        "weights": _floats(path, entries, "weights", (vertices, JOINTS)),
        "joint_regressor": _joint_regressor(path, entries, vertices),
        "posedirs": np.zeros((vertices, 3, POSE_FEATURES), np.float32)
        if "posedirs" not in entries
        else _floats(path, entries, "posedirs", (vertices, 3, POSE_FEATURES)),
    }
    _check_tree(path, entries["kintree_table"])
    if not np.allclose(arrays["weights"].sum(1), 1, atol=1e-3):
        raise _unusable(path, "skinning weights whose rows do not sum to 1", "weights [V, 24] with rows that sum to 1")
    arrays["faces"] = _faces(path, entries["f"], vertices)
    return arrays


def _unusable(path: Path, found: str, expected: str) -> InputError:
    return InputError(path, found=found, expected=expected, next_step=WHERE_TO_GET)


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise _unusable(path, f"an archive that cannot be read ({error})", "a complete .npz of arrays") from error


def _check_gender(path: Path, recorded: Any, asked: str) -> None:
    inside = str(recorded) if recorded is not None else None
    found = inside if inside in GENDERS else _gender_of_name(path)
    if found is not None and found != asked:
        next_step = "Ask for that gender, or give the other file: the shape coefficients of one do not fit the other."
        raise InputError(path, found=f"the {found} body", expected=f"the {asked} body", next_step=next_step)


def _floats(path: Path, entries: dict[str, Any], name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Entry ``name`` as float32 of ``shape``; more shape directions than needed are cut off."""
    try:
        array = np.asarray(entries[name], np.float64)
    except (TypeError, ValueError) as error:
        raise _unusable(path, f"{name} that is no array of numbers ({error})", f"{name} {list(shape)}") from error
    if name == "shapedirs" and array.ndim == 3:
        array = array[:, :, :BETAS]
    if array.shape != shape:
        raise _unusable(path, f"{name} of shape {list(array.shape)}", f"{name} of shape {list(shape)}")
    if not np.isfinite(array).all():
        raise _unusable(path, f"{name} with {int((~np.isfinite(array)).sum())} values that are not finite", "numbers")
    return array.astype(np.float32)


def _joint_regressor(path: Path, entries: dict[str, Any], vertices: int) -> np.ndarray:
    """[24, V], from a full matrix or from row, column, value lists."""
    if "J_regressor" in entries:
        return _floats(path, entries, "J_regressor", (JOINTS, vertices))
    names = ("J_regressor_row", "J_regressor_col", "J_regressor_val")
    if any(name not in entries for name in names):
        raise _unusable(path, "no J_regressor", "J_regressor [24, V], or its rows, columns and values")
    rows, columns, values = (np.asarray(entries[name]) for name in names)
    inside = (rows >= 0) & (rows < JOINTS) & (columns >= 0) & (columns < vertices)
    if not inside.all():
        raise _unusable(path, f"{int((~inside).sum())} J_regressor entries out of range", f"[{JOINTS}, {vertices}]")
    dense = np.zeros((JOINTS, vertices))
    np.add.at(dense, (rows.astype(np.int64), columns.astype(np.int64)), values)
    return _floats(path, {"J_regressor": dense}, "J_regressor", (JOINTS, vertices))


def _check_tree(path: Path, table: Any) -> None:
    """Parts, canonical chains and the pose encoder name joints by number, so the tree must be SMPL's."""
    parents = np.asarray(table)
    if parents.shape != (2, JOINTS):
        raise _unusable(path, f"kintree_table of shape {list(parents.shape)}", f"[2, {JOINTS}]")
    first_row = parents[0].astype(np.int64)
    first_row[0] = -1  # stored as 2^32 - 1
    if first_row.tolist() != list(PARENTS):
        raise _unusable(path, f"joint parents {first_row.tolist()}", "the 24-joint SMPL tree (not SMPL-H or SMPL-X)")


def _faces(path: Path, entry: Any, vertices: int) -> np.ndarray:
    faces = np.asarray(entry)
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        raise _unusable(path, f"f of shape {list(faces.shape)} and type {faces.dtype}", "triangles [F, 3] of indices")
    faces = faces.astype(np.int64)
    if faces.min() < 0 or faces.max() >= vertices:
        raise _unusable(path, f"f that names vertex {int(faces.max())} of {vertices}", "indices of vertices")
    return faces
