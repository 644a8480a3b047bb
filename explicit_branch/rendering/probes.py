"""Occlusion probes of a subject: query under a pose, storage."""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.errors import InputError
from explicit_branch.rendering.probe_baking import PUBLISHED_NEAR, bake_probes
from gs_ir.probes import ProbeVolumes, query_probes

__all__ = [
    "PUBLISHED_NEAR",
    "Occlusion",
    "OcclusionProbes",
    "bake_probes",
    "load_probes",
    "save_probes",
]

SCHEMA = 2
READABLE = (1, 2)
"""Schema 1 has no masks: it knows ambient visibility only."""
KIND = "occlusion-probes"


class Occlusion(str, Enum):
    """Which shadows relighting knows."""

    NONE = "none"
    AMBIENT = "ambient"
    """One visibility per point and normal, shared by all lights."""
    DIRECTIONAL = "directional"
    """Visibility per direction: shadows follow the light."""

    @classmethod
    def parse(cls, name: str) -> "Occlusion":
        """The mode called ``name``.

        Raises:
            InputError: unknown.
        """
        available = [mode.value for mode in cls]
        if name not in available:
            raise InputError(
                "occlusion",
                found=f"{name!r}",
                expected=", ".join(available[:-1]) + f" or {available[-1]}",
                next_step="Use occlusion=ambient.",
            )
        return cls(name)


@dataclass(frozen=True)
class OcclusionProbes:
    """The probes of one subject."""

    volumes: ProbeVolumes

    def query(
        self,
        points: Tensor,
        normals: Tensor,
        *,
        own_part: Tensor,
        points_canonical: Tensor,
        normals_canonical: Tensor,
        part_from_world: Tensor,
        published: bool = False,
    ) -> Tensor:
        """Ambient visibility [N] in [0, 1] of surface points under a pose. No gradient.

        Args:
            points: [N, 3] world, metres.
            normals: [N, 3] unit, world, facing the viewer.
            own_part: [N] int64.
            points_canonical: [N, 3] canonical, metres.
            normals_canonical: [N, 3] unit, canonical, outward.
            part_from_world: [K, 3, 4] rigid transforms from world to canonical space, one per part.
            published: interpolate other parts by the reference system's rule.
        """
        return query_probes(
            self.volumes,
            points,
            normals,
            own_part=own_part,
            points_canonical=points_canonical,
            normals_canonical=normals_canonical,
            part_from_world=part_from_world,
            published=published,
        )

    def to(self, device: torch.device | str) -> "OcclusionProbes":
        """The same probes on ``device``."""
        return OcclusionProbes(self.volumes.to(device))

    def state(self) -> dict:
        """Tensors and plain values, for a checkpoint."""
        volumes = self.volumes
        names = _FIELDS if volumes.masks is None else (*_FIELDS, *_MASK_FIELDS)
        tensors = {name: getattr(volumes, name).cpu() for name in names}
        return {"schema": SCHEMA, "kind": KIND, "cell": volumes.cell, **tensors}

    @classmethod
    def from_state(cls, state: Mapping, source: str | Path = "occlusion probes") -> "OcclusionProbes":
        """Rebuild from :meth:`state`.

        Raises:
            InputError: another kind of content, another schema, or arrays that do not belong together.
        """
        problem = _problem(state)
        if problem:
            raise InputError(
                source,
                found=problem,
                expected=f"{KIND} of schema {SCHEMA}",
                next_step="Bake the probes again from the canonical mesh.",
            )
        tensors = {name: torch.as_tensor(state[name]) for name in (*_FIELDS, *_MASK_FIELDS) if name in state}
        return cls(ProbeVolumes(**tensors, cell=float(state["cell"])))


_FIELDS = ("coefficients", "offsets", "origins", "shapes")
_MASK_FIELDS = ("masks", "surface_points", "surface_masks")


def save_probes(volumes: ProbeVolumes, path: str | Path) -> None:
    """Write ``volumes`` as a compressed npz file, atomically."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {name: np.asarray(value) for name, value in OcclusionProbes(volumes).state().items()}
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        np.savez_compressed(file, **arrays)
    partial.replace(path)


def load_probes(path: str | Path) -> ProbeVolumes:
    """Read what :func:`save_probes` wrote.

    Raises:
        InputError: no such file, not such a file, truncated, or another schema.
    """
    expected, bake = f"a {KIND} file", "Bake the probes again from the canonical mesh."
    try:
        with np.load(path, allow_pickle=False) as file:
            state = {name: file[name] if file[name].ndim else file[name].item() for name in file.files}
    except FileNotFoundError as error:
        raise InputError(path, found="no file", expected=expected, next_step=bake) from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error, AttributeError, TypeError) as error:
        found = f"a file that cannot be read as such ({error})"
        raise InputError(path, found=found, expected=expected, next_step=bake) from error
    return OcclusionProbes.from_state(state, path).volumes


def _problem(state: Mapping) -> str | None:
    """What is wrong with a stored state; None if nothing is."""
    if state.get("kind") != KIND:
        return f"content of kind {state.get('kind')!r}"
    if state.get("schema") not in READABLE:
        return f"schema {state.get('schema')!r}"
    missing = [name for name in (*_FIELDS, "cell") if name not in state]
    if missing:
        return f"no {', '.join(missing)}"
    coefficients, offsets, origins, shapes = (torch.as_tensor(state[name]) for name in _FIELDS)
    consistent = shapes.ndim == 2 and offsets.shape == (len(shapes) + 1,) and origins.shape == shapes.shape
    if consistent:
        consistent = torch.equal(offsets.diff(), shapes.prod(1)) and coefficients.shape == (int(offsets[-1]), 9)
    if any(name in state for name in _MASK_FIELDS):
        missing = [name for name in _MASK_FIELDS if name not in state]
        if missing:
            return f"no {', '.join(missing)}"
        masks, points, own = (torch.as_tensor(state[name]) for name in _MASK_FIELDS)
        consistent = consistent and masks.shape == (len(coefficients), 2)
        consistent = consistent and points.shape == (len(own), 3) and own.shape == (len(points), 2)
    if not consistent:
        return "arrays that do not belong together"
    return None
