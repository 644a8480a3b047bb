"""Stage 3: bake occlusion, distil the student from the teacher and its avatar, fit it to the images."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from core.errors import InputError
from core.perceptual import PerceptualDistance
from core.protocols import CanonicalField
from explicit_branch.avatar import Avatar, avatar_from_state, read_state
from explicit_branch.settings import TrainingSettings
from explicit_branch.trainer import Trainer, TrainingData
from workflows.bake_occlusion import probes_for
from workflows.build_data import distillation_frames, explicit_frames, student_body, training_maps
from workflows.build_student import new_avatar, occlusion_kind, output_settings, refill_settings, training_settings
from workflows.build_teacher import trained_teacher
from workflows.device import compute_device
from workflows.paths import StagePaths
from workflows.refined_poses import with_refined_poses
from workflows.train_teacher import write_config

_log = logging.getLogger(__name__)


def train(config: DictConfig) -> Avatar:
    """Train as configured; with ``explicit_branch.load_ckpt`` a run continues exactly.

    Raises:
        InputError: bad data or options, no teacher (``training_mode=distill``), or another subject's files.
    """
    paths, device = StagePaths(config), compute_device()
    write_config(config, paths.student_dir / "config.yaml")
    frames = explicit_frames(config, "train")
    taught = config.training_mode == "distill"
    teacher = trained_teacher(config, frames, device) if taught else None
    trainer = build_trainer(config, teacher, device)
    trainer.run()
    _log.info("wrote the student of %d surfels to %s", len(trainer.avatar.surfels), paths.student_dir)
    return trainer.avatar


def build_trainer(config: DictConfig, teacher: CanonicalField | None, device: str) -> Trainer:
    """The trainer of a new student, or of the checkpoint ``explicit_branch.load_ckpt``."""
    branch, frames = config.explicit_branch, explicit_frames(config, "train")
    if teacher is not None:
        frames = with_refined_poses(frames, StagePaths(config).refined_poses)
    body = student_body(config, frames).to(device)
    state = read_state(branch.load_ckpt, subject=frames.subject, gender=frames.gender) if branch.load_ckpt else None
    if state is None:
        avatar, surface = new_avatar(config, frames, body, teacher)
        avatar.probes = probes_for(config, body)
        avatar = avatar.to(device)
    else:
        avatar = avatar_from_state(state, device)
        surface = new_avatar(config, frames, body, teacher)[1]
    if avatar.probes is not None:
        avatar.probes = avatar.probes.to(device)
    data = TrainingData(
        frames=frames,
        maps=training_maps(config, frames) if teacher is not None else None,
        distillation=distillation_frames(config) if teacher is not None and branch.distill_pose else (),
        teacher=teacher,
        surface=surface if teacher is not None else None,
    )
    settings = training_settings(config)
    trainer = Trainer(
        avatar,
        data,
        settings,
        output_settings(config, settings.iterations),
        refill=refill_settings(config, settings.iterations),
        light_resolution=branch.light_res,
        perceptual=_perceptual(config, settings, device),
        occlusion=occlusion_kind(config, "train_occlusion"),
    )
    if state is not None:
        trainer.load_state_dict(_trainer_state(state, branch.load_ckpt), avatar.record.iteration)
    return trainer


def _perceptual(config: DictConfig, settings: TrainingSettings, device: str) -> PerceptualDistance | None:
    """LPIPS for the image losses, where its weights are given."""
    weights = config.explicit_branch.lpips_weights.vgg
    if weights is None:
        _log.info(
            "lambda_perceptual=%s has no effect without explicit_branch.lpips_weights.vgg", settings.lambda_perceptual
        )
        return None
    return PerceptualDistance(weights, "vgg").to(device)


def _trainer_state(state: dict, path: str | Path) -> dict:
    if "trainer" not in state:
        raise InputError(path, found="a student without the trainer's state", expected="a checkpoint of a training",
                         next_step="Continue from ckpt<N>.pth as the training wrote it.")  # fmt: skip
    return state["trainer"]
