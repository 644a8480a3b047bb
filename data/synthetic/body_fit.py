"""Bodies in the SMPL format from Anny's shapes, and the base mesh that clothes are cut from."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from body_models.skeleton import BETAS, JOINTS, PARENTS
from core.files import read_arrays, write_npz_atomically
from data.synthetic.anny_source import AnnyShapes, sample_shapes
from data.synthetic.decimation import decimate
from data.synthetic.t_pose import in_t_pose, joint_weights

logger = logging.getLogger(__name__)

VERTICES = 6890
"""Vertices of a body: a closed genus-0 surface then has 13776 triangles, as SMPL does."""
SAMPLES = 160
_CAVITY_IMPORTANCE = 0.02
_SHAPE_RESOLUTION = 2.0**20
"""Shape directions are rounded to 1 / this many metres: compresses to a third, moves nothing by a micrometre."""


@dataclass(frozen=True)
class BaseMesh:
    """The undecimated mesh, helpers included, in a body's shape space and rest pose."""

    mean: np.ndarray
    """[V, 3] metres."""
    directions: np.ndarray
    """[V, 3, 10]."""
    weights: np.ndarray
    """[V, 24]."""
    body_faces: np.ndarray
    groups: dict[str, np.ndarray]
    cavities: np.ndarray

    def shaped(self, betas: np.ndarray) -> np.ndarray:
        """Vertices [V, 3] of shape ``betas`` [10]."""
        return self.mean + self.directions @ betas


def make_bodies(folder: str | Path, genders: tuple[str, ...] = ("neutral", "male", "female"), seed: int = 0) -> None:
    """Write ``<gender>.npz`` for each of ``genders``; all share the triangles of the neutral body.

    Raises:
        InputError: anny is not installed.
    """
    selection: np.ndarray | None = None
    faces = np.empty((0, 3), int)
    for gender in ("neutral", *(g for g in genders if g != "neutral")):
        shapes = sample_shapes(gender, SAMPLES, seed)
        vertices, joints = in_t_pose(shapes)
        if selection is None:
            selection, faces = _select_vertices(shapes, vertices.mean(0))
        if gender in genders:
            arrays = fit_body(vertices[:, selection], joints, joint_weights(shapes)[selection])
            arrays.update(f=faces.astype(np.uint32), anny_vertex=selection.astype(np.int32), gender=np.array(gender))
            write_npz_atomically(Path(folder) / f"{gender}.npz", arrays)
            logger.info("wrote %s", Path(folder) / f"{gender}.npz")


def base_mesh(body_file: str | Path, gender: str, seed: int = 0) -> BaseMesh:
    """The base mesh in the shape space of a body that ``make_bodies`` wrote (the embedded ones, for example).

    Shapes of Anny are described by the body's own coefficients; mean and directions of the base mesh follow by least
    squares, so that clothes fit the body for any betas.

    Raises:
        InputError: anny is not installed, or the body does not say which vertices of Anny it consists of.
    """
    arrays = read_arrays(body_file, "Give a body written by data.synthetic, for example data/embedded/bodies/male.npz.")
    shapes = sample_shapes(gender, SAMPLES, seed)
    vertices, _ = in_t_pose(shapes)
    basis = arrays["shapedirs"].reshape(-1, BETAS).astype(np.float64)
    offsets = vertices[:, arrays["anny_vertex"]] - arrays["v_template"]
    betas = np.linalg.lstsq(basis, offsets.reshape(len(offsets), -1).T, rcond=None)[0].T
    design = np.concatenate([np.ones((len(betas), 1)), betas], 1)
    solution = np.linalg.lstsq(design, vertices.reshape(len(vertices), -1), rcond=None)[0]
    solution = solution.reshape(1 + BETAS, -1, 3)
    directions = solution[1:].transpose(1, 2, 0)
    weights = joint_weights(shapes)
    return BaseMesh(solution[0], directions, weights, shapes.body_faces, shapes.groups, shapes.cavities)


def fit_body(vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Template, shape directions and joint regressor from examples.

    Args:
        vertices: [N, V, 3] shapes in the rest pose, metres.
        joints: [N, 24, 3] their joints.
        weights: [V, 24] skinning weights.

    Returns:
        Entries of a compact body file. Shape coefficients have unit variance over the examples.
    """
    template = vertices.mean(0)
    _, singular, directions = np.linalg.svd((vertices - template).reshape(len(vertices), -1), full_matrices=False)
    scaled = directions[:BETAS] * singular[:BETAS, None] / np.sqrt(len(vertices) - 1)
    # A direction's sign is arbitrary: the one that makes the body taller is positive.
    height = np.ptp(template[:, 1] + scaled.reshape(BETAS, -1, 3)[..., 1], axis=1) - np.ptp(template[:, 1])
    scaled *= np.where(height < 0, -1, 1)[:, None]
    shapedirs = np.round(scaled.T.reshape(-1, 3, BETAS) * _SHAPE_RESOLUTION) / _SHAPE_RESOLUTION
    regressor = fit_joint_regressor(vertices, joints, weights)
    rows, columns = np.nonzero(regressor)
    parents = np.array(PARENTS, np.int64)
    parents[0] = 2**32 - 1
    return {
        "v_template": template.astype(np.float32),
        "shapedirs": shapedirs.astype(np.float32),
        "weights": weights.astype(np.float32),
        "kintree_table": np.stack([parents, np.arange(JOINTS)]).astype(np.uint32),
        "J_regressor_row": rows.astype(np.int16),
        "J_regressor_col": columns.astype(np.int16),
        "J_regressor_val": regressor[rows, columns].astype(np.float32),
    }


def fit_joint_regressor(
    vertices: np.ndarray, joints: np.ndarray, weights: np.ndarray, support: int = 120
) -> np.ndarray:
    """Non-negative weights [24, V] with rows that sum to 1, such that their averages of vertices give the joints.

    Each joint uses at most ``support`` vertices that move with it or its parent, half of them the nearest.
    """
    regressor = np.zeros((JOINTS, vertices.shape[1]))
    mean_vertices, mean_joints = vertices.mean(0), joints.mean(0)
    for joint in range(JOINTS):
        near = np.argsort(((mean_vertices - mean_joints[joint]) ** 2).sum(1))
        moves = weights[:, joint] > 0.02
        if joint:
            moves |= weights[:, PARENTS[joint]] > 0.02
        candidates = near[moves[near]][: 4 * support]
        if len(candidates) > support:
            half = support // 2
            spread = np.linspace(0, len(candidates) - half - 1, half).astype(int)
            candidates = np.concatenate([candidates[:half], candidates[half:][spread]])
        used = np.unique(candidates)
        positions = vertices[:, used].transpose(0, 2, 1).reshape(-1, len(used))
        # Rows that ask for a sum of 1, and slightly for small weights, which makes the solution unique.
        system = np.concatenate([positions, np.full((1, len(used)), 30.0), 0.01 * np.eye(len(used))])
        right = np.concatenate([joints[:, joint].ravel(), [30.0], np.zeros(len(used))])
        solution, _ = nnls(system, right, maxiter=20 * len(used))
        regressor[joint, used] = solution / solution.sum()
    return regressor


def _select_vertices(shapes: AnnyShapes, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which vertices of the base mesh form the body [6890], and its triangles; mouth and eye sockets collapse first."""
    skin, compact = np.unique(shapes.body_faces, return_inverse=True)
    importance = np.where(np.isin(skin, shapes.cavities), _CAVITY_IMPORTANCE, 1.0)
    kept, faces = decimate(mean[skin], compact.reshape(-1, 3), VERTICES, importance)
    return skin[kept], faces
