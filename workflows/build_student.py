"""From the configuration to a student and its training."""

from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from body_models.canonical import CanonicalBody
from core.frames import Frame, FrameSet
from core.protocols import CanonicalField
from core.schedules import STUDENT_ITERATIONS, scaled
from explicit_branch.avatar import Avatar, AvatarRecord
from explicit_branch.initialisation import INIT_MODES, SurfaceCloud, sample_box, sample_mesh, surfels_on
from explicit_branch.rendering.probes import Occlusion
from explicit_branch.settings import TrainingSettings
from explicit_branch.trainer import OutputSettings, RefillSettings
from workflows.bake_occlusion import canonical_mesh
from workflows.launch import choice
from workflows.paths import StagePaths

COMPONENTS = ("rigid", "non_rigid", "pose_correction", "texture")


def training_settings(config: DictConfig) -> TrainingSettings:
    """``explicit_branch.opt`` as settings, stretched to its iterations."""
    options: dict[str, Any] = OmegaConf.to_container(config.explicit_branch.opt, resolve=True)  # type: ignore[assignment]
    return TrainingSettings.from_mapping({"seed": config.explicit_branch.seed, **options})


def occlusion_kind(config: DictConfig, key: str = "occlusion") -> str:
    """How shaded light is occluded: ``explicit_branch.<key>``, unless the published switch turns it off.

    Raises:
        InputError: no such kind.
    """
    branch = config.explicit_branch
    return Occlusion.parse("none" if branch.enable_occ_type == "none" else branch[key]).value


def refill_settings(config: DictConfig, iterations: int) -> RefillSettings:
    """When holes are refilled; iterations are written for 30,000 and stretched."""
    branch = config.explicit_branch
    moments = tuple(scaled(i, iterations, STUDENT_ITERATIONS) for i in branch.distill_density_iter)
    return RefillSettings(moments, branch.density_distillation_min, branch.density_distillation_max)


def output_settings(config: DictConfig, iterations: int) -> OutputSettings:
    """Folder and checkpoints; iterations are written for 30,000 and stretched."""
    branch = config.explicit_branch
    checkpoints, clouds = (
        tuple(scaled(i, iterations, STUDENT_ITERATIONS) for i in moments)
        for moments in (branch.checkpoint_iterations, branch.save_iterations)
    )
    return OutputSettings(StagePaths(config).student_dir, checkpoints, clouds)


def surface_cloud(config: DictConfig, body: CanonicalBody) -> SurfaceCloud:
    """Where surfels start: ``dataset.init_mode`` = IA (the teacher's mesh), smpl (the body) or random (its box)."""
    branch = config.explicit_branch
    mode, count = branch.dataset.init_mode, branch.model.gaussian.points
    choice("explicit_branch.dataset.init_mode", mode, INIT_MODES)
    generator = torch.Generator().manual_seed(branch.seed)
    if mode == "random":
        return sample_box(body.box, count, generator)
    vertices, faces = canonical_mesh(config, body)
    return sample_mesh(vertices.to(body.vertices), faces.to(body.faces.device), count, generator)


def new_avatar(
    config: DictConfig, frames: FrameSet | Sequence[Frame], body: CanonicalBody, teacher: CanonicalField | None
) -> tuple[Avatar, Tensor]:
    """An untrained student, and the surface points [M, 3] that must stay covered."""
    branch = config.explicit_branch
    cloud = surface_cloud(config, body)
    # Surfels drawn at random in a box have no surface to be moved onto.
    guide = teacher if branch.dataset.init_mode != "random" else None
    gaussian = branch.model.gaussian
    surfels = surfels_on(cloud, feature_dim=gaussian.feature_dim, opacity=gaussian.opacity, teacher=guide)
    plain: dict[str, Any] = OmegaConf.to_container(branch.model, resolve=True)  # type: ignore[assignment]
    record = AvatarRecord(
        subject=branch.dataset.subject,
        gender=branch.dataset.gender,
        betas=[float(b) for b in body.betas],
        canonical_pose=str(body.pose_name),
        frames=len(frames),
        components={name: plain[name] for name in COMPONENTS},
        rendering=OmegaConf.to_container(branch.raster, resolve=True),  # type: ignore[arg-type]
        shading=OmegaConf.to_container(branch.shading, resolve=True),  # type: ignore[arg-type]
        provenance={"seed": branch.seed, "teacher": str(config.implicit_branch.resume)},
    )
    torch.manual_seed(branch.seed)  # the networks' first weights
    return Avatar(surfels, body, record), cloud.points
