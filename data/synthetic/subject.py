"""The clothed subject: geometry, materials and skinning of everything that is rendered."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from body_models import load_body
from body_models.skinning import joint_transforms, rest_joints, skin, translated
from core.errors import InputError
from core.files import read_arrays, write_npz_atomically
from data.synthetic.body_fit import BaseMesh
from data.synthetic.hair import hair
from data.synthetic.shirt import shirt
from data.synthetic.shoes import shoes
from data.synthetic.skin import eyes
from data.synthetic.skin import skin as bare_skin
from data.synthetic.surface import vertex_normals
from data.synthetic.tailoring import PALETTES, Mannequin
from data.synthetic.trousers import trousers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClothedSubject:
    """A subject at rest (T-pose, y up, metres) with linear albedo and perceptual roughness per vertex."""

    vertices: np.ndarray
    """[V, 3]."""
    faces: np.ndarray
    """[F, 3]."""
    weights: np.ndarray
    """[V, 24]; rows sum to 1."""
    albedo: np.ndarray
    """[V, 3]."""
    roughness: np.ndarray
    """[V]."""
    joints: np.ndarray
    """[24, 3]."""
    betas: np.ndarray
    """[10]."""
    gender: str

    def posed(self, pose: np.ndarray, transl: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World vertices [V, 3] and unit normals [V, 3] in ``pose`` [24, 3] (radians) at ``transl`` [3] (metres)."""
        joints = torch.as_tensor(self.joints, dtype=torch.float64)
        transforms = joint_transforms(torch.as_tensor(pose, dtype=torch.float64), joints)
        transforms = translated(transforms, torch.as_tensor(transl, dtype=torch.float64)).float()
        vertices = skin(torch.as_tensor(self.vertices).float(), torch.as_tensor(self.weights).float(), transforms)
        posed = vertices.numpy()
        return posed, vertex_normals(posed.astype(np.float64), self.faces)

    def save(self, path: str | Path) -> None:
        """Write everything to one compressed ``.npz``."""
        arrays = {name: np.asarray(getattr(self, name), np.float32) for name in
                  ("vertices", "weights", "albedo", "roughness", "joints", "betas")}  # fmt: skip
        arrays |= {"faces": self.faces.astype(np.int32), "gender": np.array(self.gender)}
        write_npz_atomically(path, arrays)

    @staticmethod
    def load(path: str | Path) -> "ClothedSubject":
        """Read what ``save`` wrote.

        Raises:
            InputError: missing, unreadable or incomplete.
        """
        next_step = "Make it with: python -m data.synthetic.generate subject --help"
        arrays = read_arrays(path, next_step)
        names = [name for name in ClothedSubject.__annotations__ if name not in arrays]
        if names:
            raise InputError(path, found=f"no {', '.join(names)}", expected="a clothed subject", next_step=next_step)
        gender = str(arrays.pop("gender"))
        return ClothedSubject(**arrays, gender=gender)  # type: ignore[arg-type]


def dress(base: BaseMesh, body_file: str | Path, gender: str, betas: np.ndarray, style: int = 0) -> ClothedSubject:
    """Clothe a body.

    Args:
        base: the body's base mesh (``body_fit.base_mesh``).
        body_file: the body; its joint regressor places the joints.
        gender: of the body.
        betas: [10] shape.
        style: number of the palette.
    """
    vertices = base.shaped(betas)
    body = load_body(body_file, gender)
    joints = rest_joints(body, torch.as_tensor(betas, dtype=torch.float32)).numpy().astype(np.float64)
    mannequin, palette = Mannequin(base, vertices, joints), PALETTES[style]
    pieces = [make(mannequin, palette) for make in (trousers, shirt, shoes, bare_skin)]
    pieces += [*eyes(mannequin, palette), hair(mannequin, palette)]
    starts = np.cumsum([0, *(len(piece.surface.vertices) for piece in pieces)])
    for piece in pieces:
        logger.info("%-9s %7d vertices", piece.name, len(piece.surface.vertices))
    weights = np.concatenate([piece.surface.weights for piece in pieces])
    return ClothedSubject(
        vertices=np.concatenate([piece.surface.vertices for piece in pieces]),
        faces=np.concatenate([piece.surface.faces + start for piece, start in zip(pieces, starts)]),
        weights=weights / weights.sum(1, keepdims=True),
        albedo=np.concatenate([piece.albedo for piece in pieces]),
        roughness=np.concatenate([piece.roughness for piece in pieces]),
        joints=joints,
        betas=np.asarray(betas, np.float64),
        gender=gender,
    )
