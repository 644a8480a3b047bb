"""Stage 1: train the teacher, write its mesh, light and maps of the training frames."""

import logging
from pathlib import Path
from typing import Any

import lightning
import torch
import trimesh
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from torch.utils.data import DataLoader, Dataset

from core.checkpoints import load_weights_only
from core.environment import texel_directions
from core.evaluation import Surface, surface_metrics
from core.files import replacing
from core.frames import Frame, FrameSet, world_to_opengl_normals
from core.images import write_hdr, write_image
from core.metrics import psnr
from implicit_branch.module import StepIndices, TeacherModule
from implicit_branch.rendering.frame import render_frame
from implicit_branch.teacher import Teacher
from workflows.build_data import implicit_frames
from workflows.build_teacher import new_teacher, training_module
from workflows.device import check_processes, compute_device
from workflows.paths import REFINED_POSES, StagePaths
from workflows.refined_poses import with_refined_poses, write_refined_poses
from workflows.teacher_maps import pictures, write_maps

_log = logging.getLogger(__name__)

LIGHT_SIZE = (128, 256)
"""Rows and columns of the exported light."""


def train(config: DictConfig) -> Teacher:
    """Train as configured; a run with ``implicit_branch.resume`` continues exactly.

    With ``implicit_branch.trainer.devices`` N, N processes run this function; the first writes the results.

    Raises:
        InputError: bad data or options, or a checkpoint of another subject.
    """
    branch, paths = config.implicit_branch, StagePaths(config)
    if branch.trainer.devices > 1:
        check_processes()
    lightning.seed_everything(branch.seed, verbose=False)
    frames = implicit_frames(config, "train")
    teacher = new_teacher(config, frames)
    module = training_module(config, teacher, frames, judge=ValidationStrips(paths.save_dir))
    rank_zero_only(write_config)(config, paths.teacher_dir / "config" / "parsed.yaml")
    resume = branch.resume
    if resume and branch.resume_weights_only:
        module.load_state_dict(load_weights_only(resume)["state_dict"])
        resume = None
    trainer = fit(config, module, resume)
    if not trainer.is_global_zero:
        return teacher  # the first process writes what comes of the run
    teacher.to(compute_device())  # Lightning leaves it on the CPU
    step = branch.trainer.max_steps
    export(teacher, paths.save_dir, step=step, resolution=branch.geometry.isosurface.resolution)
    refined = paths.save_dir / REFINED_POSES
    write_refined_poses(teacher.residuals, module.images.pose, refined)
    for split in branch.export.maps:
        suffix = "" if split == "train" else f"-{split}"
        folder = paths.save_dir / f"it{step}-test{suffix}"
        mapped = with_refined_poses(frames, refined) if split == "train" else implicit_frames(config, split)
        write_maps(teacher, mapped, folder, step=step, checkpoint=paths.checkpoint_dir / "last.ckpt")
    return teacher


def fit(config: DictConfig, module: TeacherModule, resume: str | None) -> lightning.Trainer:
    """Run Lightning's loop over the steps of ``module``; of several processes, each draws pixels of its own."""
    branch, paths = config.implicit_branch, StagePaths(config)
    options: dict[str, Any] = OmegaConf.to_container(branch.trainer, resolve=True)  # type: ignore[assignment]
    trainer = lightning.Trainer(
        accelerator="gpu" if compute_device() == "cuda" else "cpu",
        # Which parameters a step reaches changes with the schedule.
        strategy="ddp_find_unused_parameters_true" if branch.trainer.devices > 1 else "auto",
        use_distributed_sampler=False,  # a batch only counts a step: epochs are the same for any number of processes
        logger=TensorBoardLogger(paths.teacher_dir, name="log", version=""),
        callbacks=_callbacks(config),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        **options,
    )
    loader = DataLoader(StepIndices(len(module.images)), batch_size=1)
    held_out = DataLoader(_Sequence(implicit_frames(config, "val")), batch_size=None)
    trainer.fit(module, loader, held_out, ckpt_path=resume)
    return trainer


def _callbacks(config: DictConfig) -> list[Callback]:
    """Progress bar, and checkpoints: the published name at the end, ``last.ckpt`` at every validation."""
    settings, folder = config.implicit_branch.trainer, StagePaths(config).checkpoint_dir
    common: dict[str, Any] = {"dirpath": folder, "enable_version_counter": False}
    final = ModelCheckpoint(
        filename="{epoch}-{step}", every_n_train_steps=settings.max_steps, save_top_k=-1, save_last=True, **common
    )
    callbacks: list[Callback] = [final]
    if settings.val_check_interval < settings.max_steps:
        # A run that is interrupted continues from here.
        callbacks.append(ModelCheckpoint(filename="last", every_n_train_steps=settings.val_check_interval, **common))
    if settings.enable_progress_bar:
        # A redraw reads the loss, for which a GPU's host waits.
        callbacks.append(TQDMProgressBar(refresh_rate=100 if compute_device() == "cuda" else 10))
    return callbacks


class _Sequence(Dataset):
    """Frames as PyTorch's loader wants them."""

    def __init__(self, frames: FrameSet) -> None:
        self.frames = frames

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Frame:
        return self.frames[index]


class ValidationStrips:
    """Draws validation frames side by side as ``it<step>-<i>.png`` and measures them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, teacher: Teacher, frame: Frame, step: int, index: int) -> dict[str, float]:
        """PSNR of both images over the mask, and shape metrics where ``frame`` has truth."""
        maps = render_frame(teacher, frame.pose, frame.camera)
        drawn = pictures(maps, frame.camera)
        shown = [] if frame.image is None else [frame.image]
        write_image(self.folder / f"it{step}-{index}.png", torch.cat([*shown, *drawn.values()], 1))
        if frame.image is None or frame.mask is None:
            return {}
        normal = world_to_opengl_normals(maps.normal, frame.camera)
        found = surface_metrics(Surface(maps.alpha, normal, drawn["pbr_albedo"]), frame)
        found["psnr"] = float(psnr(drawn["rf_rgb"], frame.image, frame.mask))
        found["pbr_psnr"] = float(psnr(drawn["pbr_rgb"], frame.image, frame.mask))
        return found


def export(teacher: Teacher, folder: Path, *, step: int, resolution: int) -> None:
    """Write ``it<step>-mc512.obj`` (canonical mesh, metres) and ``it<step>-envmap.hdr`` (the learned light)."""
    mesh = teacher.canonical_mesh(resolution)
    with replacing(folder / f"it{step}-mc512.obj") as temporary:
        trimesh.Trimesh(mesh.vertices.cpu().numpy(), mesh.faces.cpu().numpy(), process=False).export(temporary)
    directions = texel_directions(*LIGHT_SIZE, mesh.vertices)
    radiance = teacher.eval_light(directions.reshape(-1, 3)).reshape(*LIGHT_SIZE, 3)
    write_hdr(folder / f"it{step}-envmap.hdr", radiance.cpu())
    _log.info("wrote the canonical mesh (%d triangles) and the light to %s", len(mesh.faces), folder)


def write_config(config: DictConfig, path: Path) -> None:
    """Keep what a run was started with beside its results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        OmegaConf.save(config, temporary)
