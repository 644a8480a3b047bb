"""From the configuration to a teacher and its training."""

from inspect import signature
from typing import Any

from omegaconf import DictConfig, OmegaConf

from core.checkpoints import check_metadata
from core.frames import FrameSet
from implicit_branch.building import GROUPS, Recipe
from implicit_branch.module import Judge, TeacherModule, TrainingSettings
from implicit_branch.sampling.pixels import SAMPLERS
from implicit_branch.teacher import SubjectIdentity, Teacher, load_teacher
from implicit_branch.training_images import TrainingImages
from workflows.build_data import canonical_body
from workflows.device import compute_device
from workflows.paths import StagePaths


def recipe(config: DictConfig, frames: int) -> Recipe:
    """The plain dictionaries that a teacher is built from; ``frames`` sizes the table of pose residuals."""
    branch = config.implicit_branch
    plain: Recipe = {group: OmegaConf.to_container(branch[group], resolve=True) for group in GROUPS}
    plain["pose_correction"]["dataset_length"] = frames
    return plain


def identity(config: DictConfig, frames: FrameSet) -> SubjectIdentity:
    """Whom a teacher trained on ``frames`` stands for."""
    pose = config.implicit_branch.cano_pose
    named = pose if isinstance(pose, str) else [float(x) for x in pose]
    return SubjectIdentity(frames.subject, frames.gender, [float(b) for b in frames.betas.reshape(-1)], named)


def new_teacher(config: DictConfig, frames: FrameSet) -> Teacher:
    """An untrained teacher of ``frames``' subject, on the device that computes."""
    body = canonical_body(config, frames).to(compute_device())
    return Teacher.from_body(recipe(config, len(frames)), identity(config, frames), body)


def trained_teacher(config: DictConfig, frames: FrameSet | None, device: str) -> Teacher:
    """The teacher of ``implicit_branch.resume``, or of the run's last checkpoint.

    Raises:
        InputError: there is none, or it was trained on another subject than ``frames``.
    """
    path = StagePaths(config).teacher_checkpoint
    teacher = load_teacher(path, device)
    if frames is not None:
        expected = {"subject": frames.subject, "gender": frames.gender, "betas": frames.betas}
        check_metadata(vars(teacher.identity), expected, path)
    return teacher


def training_module(
    config: DictConfig, teacher: Teacher, frames: FrameSet, *, judge: Judge | None = None
) -> TeacherModule:
    """The optimisation of ``teacher`` on ``frames``; ``judge`` measures validation frames."""
    branch = config.implicit_branch
    images = TrainingImages(frames)
    sampler: dict[str, Any] = OmegaConf.to_container(branch.sampler, resolve=True)  # type: ignore[assignment]
    make = SAMPLERS[sampler.pop("name")]
    # A preset sizes the default sampler; the keys that another one does not have mean nothing to it.
    known = signature(make).parameters  # type: ignore[arg-type]
    pixels = make(images.masks, **{key: value for key, value in sampler.items() if key in known})  # type: ignore[operator]
    return TeacherModule(teacher, training_settings(config), images, pixels, judge=judge)


def training_settings(config: DictConfig) -> TrainingSettings:
    """``system`` and ``trainer`` of the configuration as settings."""
    branch, system = config.implicit_branch, config.implicit_branch.system
    losses: dict[str, Any] = OmegaConf.to_container(system.loss, resolve=True)  # type: ignore[assignment]
    optimizer: dict[str, Any] = OmegaConf.to_container(system.optimizer, resolve=True)  # type: ignore[assignment]
    return TrainingSettings(
        max_steps=branch.trainer.max_steps,
        seed=branch.seed,
        frames_per_step=system.frames_per_step,
        shaded_rays=system.shaded_rays,
        samples_per_pixel=system.samples_per_pixel,
        curvature_samples=system.curvature_samples,
        posed_memory=system.posed_memory,
        cuda_graphs=system.cuda_graphs,
        rate=optimizer["lr"],
        rates=optimizer["rates"],
        betas=tuple(optimizer["betas"]),
        epsilon=optimizer["eps"],
        decays={"appearance": branch.color_grid_wd, "pose_correction": branch.pose_correction_wd},
        warmup_steps=system.warmup_steps,
        milestones=tuple(system.milestones),
        decay_factor=system.gamma,
        pose_decay=optimizer["pose_decay"],
        weights={name.removeprefix("lambda_"): value for name, value in losses.items()},
        background=branch.model.background_color,
        light_mean=system.light_mean,
        log_every=branch.trainer.log_every_n_steps,
    )
