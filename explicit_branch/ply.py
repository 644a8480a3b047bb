"""Surfels as a PLY file of raw attributes, in the published order: 53 floats a vertex with 32-dimensional features."""

from pathlib import Path

import numpy as np
import torch

from core.errors import InputError
from core.files import replacing
from explicit_branch.surfels import Surfels

_HEADER_LIMIT = 65536


def _columns(feature_dim: int) -> dict[str, list[str]]:
    """Property names of each raw attribute; ``unused`` ones are written as zero and skipped when read."""
    return {
        "positions": ["x", "y", "z"],
        "unused_normals": ["nx", "ny", "nz"],
        "features": ["f_dc_0", *(f"f_rest_{i}" for i in range(feature_dim - 1))],
        "opacity_logits": ["opacity"],
        "unused_attribute": ["normal_0", "normal_1", "normal_2"],
        "albedo_logits": ["albedo_0", "albedo_1", "albedo_2"],
        "roughness_logits": ["roughness"],
        "metallic_logits": ["metallic"],
        "log_scales": ["scale_0", "scale_1"],
        "quaternions": ["rot_0", "rot_1", "rot_2", "rot_3"],
    }


def write_ply(surfels: Surfels, path: str | Path) -> None:
    """Write the raw attributes of ``surfels`` as little-endian binary PLY; ``path`` is whole or untouched."""
    raw = {name: value.cpu().numpy().astype("<f4") for name, value in surfels.raw().items()}
    columns = _columns(raw["features"].shape[1])
    count = len(surfels)
    parts = [raw[name].reshape(count, -1) if name in raw else np.zeros((count, len(names)), "<f4")
             for name, names in columns.items()]  # fmt: skip
    properties = "".join(f"property float {name}\n" for names in columns.values() for name in names)
    header = f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n{properties}end_header\n"
    with replacing(path) as temporary:
        temporary.write_bytes(header.encode("ascii") + np.concatenate(parts, 1).tobytes())


def read_ply(path: str | Path) -> Surfels:
    """Read what :func:`write_ply` or the published system wrote.

    Raises:
        InputError: no such file, another kind of PLY, or truncated.
    """
    table = _table(Path(path))
    feature_dim = sum(name.startswith(("f_dc_", "f_rest_")) for name in table)
    raw = {}
    for attribute, names in _columns(feature_dim).items():
        if attribute.startswith("unused"):
            continue
        missing = [name for name in names if name not in table]
        if missing:
            raise _unusable(path, f"no property {', '.join(missing)}")
        stacked = torch.from_numpy(np.stack([table[name] for name in names], -1))
        scalar = attribute in ("opacity_logits", "roughness_logits", "metallic_logits")
        raw[attribute] = stacked[:, 0] if scalar else stacked
    return Surfels(raw)


def _table(path: Path) -> dict[str, np.ndarray]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unusable(path, f"{error.strerror}") from error
    head, separator, body = content.partition(b"end_header\n")
    lines = head[:_HEADER_LIMIT].decode("ascii", "replace").splitlines()
    counts = [line.split()[2] for line in lines if line.startswith("element vertex ")]
    if not separator or "format binary_little_endian 1.0" not in lines or len(counts) != 1:
        raise _unusable(path, "another kind of file")
    names = [line.split()[2] for line in lines if line.startswith("property float ")]
    count = int(counts[0])
    if len(body) < 4 * count * len(names):
        raise _unusable(path, f"{len(body)} bytes of data instead of {4 * count * len(names)}")
    values = np.frombuffer(body, "<f4", count * len(names)).reshape(count, len(names))
    return {name: values[:, i].copy() for i, name in enumerate(names)}


def _unusable(path: str | Path, found: str) -> InputError:
    return InputError(path, found=found, expected="surfels as binary little-endian PLY",
                      next_step="Export the student again.")  # fmt: skip
