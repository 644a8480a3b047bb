"""The body model: a template, its shape and pose blend shapes, a skeleton and skinning weights."""

import logging
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from body_models.skeleton import PARENTS
from body_models.smpl_file import EMBEDDED_BODIES, find_file, read_body_arrays

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BodyModel:
    """A body in the SMPL format (Loper et al. 2015). Rest pose is the T-pose, y up, z forward, metres."""

    v_template: Tensor
    """[V, 3] mean shape at rest."""
    shapedirs: Tensor
    """[V, 3, 10] metres per unit of shape coefficient."""
    posedirs: Tensor
    """[V, 3, 207] metres per entry of (rotation - identity) of joints 1-23, row-major."""
    joint_regressor: Tensor
    """[24, V] joints of the shaped template."""
    weights: Tensor
    """[V, 24] skinning weights; rows sum to 1."""
    faces: Tensor
    """[F, 3] int64."""
    parents: Tensor
    """[24] int64; the root has -1."""
    gender: str

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "BodyModel":
        """The same body on ``device``, its floating-point tensors in ``dtype``."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                moved[field.name] = value.to(device=device, dtype=dtype if value.is_floating_point() else None)
        return replace(self, **moved)


def load_body(location: str | Path | None, gender: str) -> BodyModel:
    """Read the body of ``gender`` (``neutral``, ``male`` or ``female``).

    Args:
        location: a file or folder with SMPL files as published (see ``smpl_file.find_file``); None or ``"embedded"``
            gives the project's own bodies, which have the SMPL format but are not SMPL.
        gender: must be the one that the file is made for.

    Raises:
        InputError: no such file, or a file that is no body of that gender.
    """
    path = find_file(location, gender)
    if path.parent == EMBEDDED_BODIES:
        logger.info("Using the embedded %s body: SMPL's file format, not SMPL.", gender)
    arrays = read_body_arrays(path, gender)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return BodyModel(**tensors, parents=torch.tensor(PARENTS), gender=gender)
