"""Bodies of many shapes from Anny (Brégier et al. 2025), a parametric body made of CC0 MakeHuman assets.

Only the package's own topology is used: its "smpl" and "smplx" topologies download data for non-commercial use.
"""

import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from data.synthetic.optional_packages import require

logger = logging.getLogger(__name__)

TOPOLOGY = "anny-full"
"""The MakeHuman base mesh with the helper surfaces that clothes are cut from."""
_BATCH = 16


@dataclass(frozen=True)
class AnnyShapes:
    """The base mesh in several shapes at rest. Axes: y up, z forward, +x left; metres."""

    vertices: np.ndarray
    """[N, V, 3]."""
    bone_heads: np.ndarray
    """[N, B, 3]."""
    bone_names: tuple[str, ...]
    bone_parents: tuple[int, ...]
    bone_weights: sparse.csr_matrix
    """[V, B]."""
    body_faces: np.ndarray
    """[F, 3] of the skin, a closed surface."""
    groups: dict[str, np.ndarray]
    """Triangles [F, 3] of each named surface: helpers for clothes, eyes."""
    cavities: np.ndarray
    """Indices of vertices inside mouth and eye sockets."""


def sample_shapes(gender: str, count: int, seed: int = 0) -> AnnyShapes:
    """``count`` adults of ``gender`` (``neutral``, ``male``, ``female``); the first has every parameter at its mean.

    Raises:
        InputError: anny is not installed.
    """
    # Its cache takes a gigabyte, which a home folder may not have.
    cache = os.environ.setdefault("ANNY_CACHE_DIR", str(Path(tempfile.gettempdir()) / "anny_cache"))
    anny = require("anny")
    logger.info("loading anny (cache of 1 GB in %s; minutes when it is cold)", cache)
    model = anny.Anny(topology=TOPOLOGY, phenotypes="all")
    parameters = _phenotypes(list(model.phenotype_labels), gender, count, np.random.default_rng(seed))
    vertices, heads = [], []
    for start in range(0, count, _BATCH):
        batch = {name: torch.tensor(values[start : start + _BATCH]) for name, values in parameters.items()}
        shaped = model(phenotype_kwargs=batch)
        vertices.append(_y_up(shaped["rest_vertices"].numpy()))
        heads.append(_y_up(shaped["rest_bone_heads"].numpy()))
    package = Path(str(anny.__file__)).parent
    faces = np.asarray(model.faces).astype(np.int64)
    indices, weights = model.vertex_bone_indices.numpy(), model.vertex_bone_weights.numpy()
    rows = np.repeat(np.arange(len(indices)), indices.shape[1])
    shape = (len(indices), len(model.bone_labels))
    return AnnyShapes(
        vertices=np.concatenate(vertices),
        bone_heads=np.concatenate(heads),
        bone_names=tuple(model.bone_labels),
        bone_parents=tuple(int(parent) for parent in model.bone_parents),
        bone_weights=sparse.coo_matrix((weights.ravel(), (rows, indices.ravel())), shape).tocsr(),
        body_faces=_largest_component(faces),
        groups=_read_groups(package / "data" / "mpfb2" / "3dobjs" / "base.obj"),
        cavities=_read_cavities(package / "data" / "template_mesh_internal_cavities.pth"),
    )


def _phenotypes(names: list[str], gender: str, count: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Anny's shape parameters, all in [0, 1]: adults of many builds."""
    drawn = {name: generator.uniform(0.35, 0.65, count) for name in names}
    ranges = {"neutral": (0, 1), "male": (0, 0.1), "female": (0.9, 1)}
    # Drawn for all genders, whichever is asked for: the embedded bodies were made so.
    drawn["gender"] = {name: generator.uniform(*bounds, count) for name, bounds in ranges.items()}[gender]
    drawn["age"] = generator.uniform(0.64, 0.85, count)
    for name, mean, deviation in (("muscle", 0.5, 0.2), ("weight", 0.5, 0.2), ("height", 0.38, 0.09),
                                  ("proportions", 0.5, 0.2)):  # fmt: skip
        drawn[name] = np.clip(generator.normal(mean, deviation, count), 0.02, 0.98)
    for name in ("cupsize", "firmness"):
        drawn[name] = np.clip(generator.normal(0.45, 0.15, count), 0.05, 0.95)
    for name in ("african", "asian", "caucasian"):
        drawn[name] = generator.uniform(0.1, 0.9, count)
    for values in drawn.values():
        values[0] = values.mean()
    return drawn


def _y_up(points: np.ndarray) -> np.ndarray:
    """Anny has z up and looks along -y."""
    return np.stack([points[..., 0], points[..., 2], -points[..., 1]], -1)


def _largest_component(faces: np.ndarray) -> np.ndarray:
    """Faces of the largest connected surface."""
    count = int(faces.max()) + 1
    links = sparse.coo_matrix((np.ones(2 * len(faces)), (faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel())),
                              (count, count))  # fmt: skip
    _, component = connected_components(links, directed=False)
    return faces[component[faces[:, 0]] == np.bincount(component[faces[:, 0]]).argmax()]


def _read_groups(path: Path) -> dict[str, np.ndarray]:
    """Triangles of each group of an OBJ file; quadrilaterals are split."""
    groups: dict[str, list[list[int]]] = {}
    name = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if words[:1] == ["g"]:
            name = words[1]
        elif words[:1] == ["f"]:
            corners = [int(word.split("/")[0]) - 1 for word in words[1:]]
            triangles = [[corners[0], corners[k], corners[k + 1]] for k in range(1, len(corners) - 1)]
            groups.setdefault(name, []).extend(triangles)
    return {group: np.array(triangles) for group, triangles in groups.items()}


def _read_cavities(path: Path) -> np.ndarray:
    content = torch.load(path, weights_only=True)
    return np.unique(np.asarray(content["vertex_indices"]))
