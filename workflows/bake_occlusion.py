"""Occlusion probes of a canonical mesh: baked once, kept beside the student."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
import trimesh
from omegaconf import DictConfig
from torch import Tensor

from body_models.canonical import CanonicalBody
from body_models.parts import PART_OF_JOINT
from core.errors import InputError
from explicit_branch.rendering.probe_baking import bake_probes
from explicit_branch.rendering.probes import OcclusionProbes, load_probes, save_probes
from gs_ir.nearest import nearest_neighbours
from gs_ir.probes import ProbeVolumes
from workflows.paths import StagePaths

_log = logging.getLogger(__name__)

NEIGHBOURS = 7


def read_mesh(path: Path) -> tuple[Tensor, Tensor]:
    """Vertices [V, 3] (canonical space, metres) and faces [F, 3] of a mesh file.

    Raises:
        InputError: no such file, or no triangles in it.
    """
    try:
        mesh = trimesh.load_mesh(path, process=False)
        vertices, faces = torch.tensor(mesh.vertices).float(), torch.tensor(mesh.faces).long()
    except (ValueError, OSError, AttributeError, IndexError) as error:
        raise _unreadable(path, str(error)) from error
    if faces.numel() == 0:
        raise _unreadable(path, "no triangles")
    return vertices, outward(vertices, faces)


def outward(vertices: Tensor, faces: Tensor) -> Tensor:
    """``faces`` [F, 3] of a closed mesh, all turned over if its signed volume is negative."""
    a, b, c = vertices[faces].double().unbind(1)
    volume = (a * torch.linalg.cross(b, c)).sum() / 6
    return faces.flip(1) if volume < 0 else faces


def _unreadable(path: Path, found: str) -> InputError:
    return InputError(
        path,
        found=found,
        expected="the teacher's canonical mesh",
        next_step="Finish the teacher run, or name a mesh with explicit_branch.dataset.obj_path.",
    )


def canonical_mesh(config: DictConfig, body: CanonicalBody) -> tuple[Tensor, Tensor]:
    """Vertices [V, 3] and faces [F, 3] (CPU) of the teacher's mesh, or of the body where surfels do not start on it.

    Raises:
        InputError: ``dataset.init_mode`` is IA and the teacher has left no mesh.
    """
    if config.explicit_branch.dataset.init_mode == "IA":
        return read_mesh(StagePaths(config).mesh)
    return body.vertices.cpu(), body.faces.cpu()


def probes_for(config: DictConfig, body: CanonicalBody) -> OcclusionProbes | None:
    """The student's probes: read from ``occ_dir``, or baked from the canonical mesh and written there.

    The file name carries a hash of mesh and settings, so probes of another teacher are never picked up.

    Returns:
        None where occlusion is switched off.

    Raises:
        InputError: no mesh, or probes are missing and ``build_occ`` is off.
    """
    branch, paths = config.explicit_branch, StagePaths(config)
    if branch.occlusion == "none" or branch.enable_occ_type == "none":
        return None
    settings: dict[str, Any] = {key: branch.probes[key] for key in ("cell", "margin", "directions", "max_distance")}
    vertices, faces = canonical_mesh(config, body)
    content = vertices.numpy().tobytes() + faces.numpy().tobytes() + repr(sorted(settings.items())).encode()
    digest = hashlib.sha256(content).hexdigest()[:12]
    path = paths.probes / f"occlusion_probes-{digest}.npz"
    if path.is_file():
        probes = OcclusionProbes(load_probes(path))
        if probes.volumes.masks is not None or branch.occlusion != "directional" or not branch.build_occ:
            _log.info("occlusion probes from %s", path)
            return probes
    elif not branch.build_occ:
        raise InputError(path, found="no probes of this mesh", expected="baked probes",
                         next_step="Set explicit_branch.build_occ=true; baking takes seconds.")  # fmt: skip
    volumes = bake_mesh(vertices, faces, body, **settings)
    save_probes(volumes, path)
    _log.info("baked %d occlusion probes into %s", len(volumes.coefficients), path)
    return OcclusionProbes(volumes)


def bake_mesh(vertices: Tensor, faces: Tensor, body: CanonicalBody, **settings: Any) -> ProbeVolumes:
    """Bake the nine parts of a canonical mesh [V, 3], [F, 3] on the device of ``body``, where the volumes stay.

    Vertices belong to the nearest body vertices' joint.
    """
    device = body.vertices.device
    vertices, faces = vertices.to(device), faces.to(device)
    _, nearest = nearest_neighbours(vertices, body.vertices, NEIGHBOURS)
    joint = body.weights[nearest].mean(1).argmax(-1)
    return bake_probes(vertices, faces, joint, torch.as_tensor(PART_OF_JOINT, device=device), **settings)
