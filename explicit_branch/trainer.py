"""Training of the student: distillation from a teacher, and fitting to images."""

import logging
from collections.abc import Hashable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from core.protocols import CanonicalField
from core.schedules import exponential_decay
from explicit_branch.avatar import Avatar
from explicit_branch.densification import Densifier, far_from
from explicit_branch.distillation.light import LightFitter, teacher_light
from explicit_branch.distillation.points import PointTargets
from explicit_branch.distillation.sampler import FrameSampler
from explicit_branch.losses import Perceptual
from explicit_branch.objective import Objective
from explicit_branch.observation import Frames, Observation, ResidentFrames
from explicit_branch.optimisation import NetworkOptimiser, SurfelOptimiser
from explicit_branch.ply import write_ply
from explicit_branch.recording import Outcome, StepRecorder, is_recordable
from explicit_branch.rendering.renderer import Renderer, TrainingView
from explicit_branch.rendering.tile_capacity import TileCapacity
from explicit_branch.settings import POSITION_RATE_EXTENT, TrainingSettings
from explicit_branch.validation import validate
from gs_ir.cubemap import PrefilteredLight

logger = logging.getLogger(__name__)

LOG_INTERVAL = 25
"""Steps; to read the losses waits for the device."""
VALIDATION_FRAMES = 10
LIGHT_WITHOUT_TEACHER = 0.5


@dataclass(frozen=True)
class TrainingData:
    """What the student learns from."""

    frames: Frames
    """Captured frames."""
    maps: Frames | None = None
    """The teacher's maps of the captured frames, in the same order; a capture's own maps are for evaluation only."""
    distillation: Frames = ()
    """The teacher's renders on other poses."""
    teacher: CanonicalField | None = None
    surface: Tensor | None = None
    """[M, 3] points on the teacher's surface that must stay covered."""


@dataclass(frozen=True)
class RefillSettings:
    """When and where holes are refilled from the teacher's surface."""

    iterations: tuple[int, ...] = ()
    minimum: float = 3e-4
    maximum: float = 1e-2
    """Bounds of the mean squared distance to the ten nearest surfels, square metres."""


@dataclass(frozen=True)
class OutputSettings:
    """What a training leaves behind."""

    folder: Path
    checkpoint_iterations: tuple[int, ...] = ()
    """Iterations after which ``ckpt{N}.pth`` is written; the last one always is."""
    cloud_iterations: tuple[int, ...] = ()
    """Iterations after which ``point_cloud/iteration_{N}/point_cloud.ply`` is written; the last one always is."""
    progress: bool = True


@dataclass(frozen=True)
class _View:
    """What a step looks at, and how."""

    iteration: int
    seen: Observation
    frame_index: int | None
    light: PrefilteredLight | None
    shading: str
    capacity: int
    weights: tuple[tuple[str, float], ...]

    @property
    def kind(self) -> Hashable:
        """What distinguishes views that run different operators, or the same with other constants.

        None before the length of the tile lists is known: the rasteriser waits for it, which cannot be recorded.
        """
        if self.capacity == 0:
            return None
        seen, light = self.seen, self.light
        learning = light is not None and light.irradiance_sh.requires_grad
        drawn = light is None, learning, self.shading, self.capacity
        return seen.is_distilled, id(seen.frame.camera), *drawn, self.weights


class Trainer:
    """Fits an avatar; ``run`` reads top to bottom."""

    def __init__(
        self,
        avatar: Avatar,
        data: TrainingData,
        settings: TrainingSettings,
        output: OutputSettings,
        *,
        refill: RefillSettings | None = None,
        light_resolution: int = 64,
        perceptual: Perceptual | None = None,
        occlusion: str = "ambient",
    ) -> None:
        self.avatar, self.data, self.settings, self.output = avatar, data, settings, output
        self.refill = refill or RefillSettings()
        self.iteration = 0
        self.renderer = Renderer(avatar, occlusion=occlusion)
        self.tile_capacity = TileCapacity()
        points = PointTargets(data.teacher) if data.teacher is not None else None
        self.objective = Objective(settings, perceptual, points)
        device = avatar.surfels.positions.device
        self.captured = ResidentFrames(data.frames, data.maps, device, distilled=False)
        self.distilled = ResidentFrames(data.distillation, None, device, distilled=True)
        self.sampler = FrameSampler(
            len(data.frames), len(data.distillation), real_fraction=settings.real_fraction, seed=settings.seed
        )
        self.surfel_optimiser = SurfelOptimiser(avatar.surfels, _surfel_rates(settings))
        self.densifier = Densifier(self.surfel_optimiser, settings)
        self.network_optimiser = NetworkOptimiser(
            _network_groups(avatar, settings),
            lr_ratio=settings.lr_ratio,
            iterations=settings.iterations,
            grad_clip=settings.grad_clip,
        )
        self.light = self._light_fitter(light_resolution)
        alone = settings.frames_per_step == 1 and perceptual is None and occlusion != "directional"
        enabled = settings.cuda_graphs and device.type == "cuda" and alone and is_recordable(avatar)
        self.recorder = StepRecorder(avatar.deformation, enabled=enabled)

    def run(self) -> None:
        """Train up to ``settings.iterations``, from wherever the trainer stands."""
        writer = SummaryWriter(str(self.output.folder / "log"))
        start, end = self.iteration, self.settings.iterations
        bar = tqdm(range(start, end), initial=start, total=end, disable=not self.output.progress, desc="student")
        for iteration in bar:
            terms = self.step(iteration)
            if iteration % LOG_INTERVAL == 0:
                self._log(writer, bar, terms)
            if self.settings.test_interval and self.iteration % self.settings.test_interval == 0:
                self._validate(writer)
            if self.iteration in self.output.checkpoint_iterations and self.iteration < end:
                self.save()
            if self.iteration in self.output.cloud_iterations and self.iteration < end:
                self.write_cloud()
        self._prune_outliers()
        self.save()
        self.write_cloud()
        writer.close()

    def step(self, iteration: int) -> dict[str, Tensor]:
        """One optimisation step; returns its weighted terms, detached."""
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + iteration)
        self._schedule(iteration)
        terms: dict[str, Tensor] = {}
        for turn in range(self.settings.frames_per_step):
            view = self._view(iteration, iteration * self.settings.frames_per_step + turn)
            outcome = self.recorder.run(
                view.kind,
                view.seen,
                partial(self._differentiate, view=view, generator=generator),
                parameters=self._parameters(),
                gathering=self.light.leaves,
            )
            self.tile_capacity.report(iteration, view.capacity, outcome.instances)
            self._observe(outcome, view.seen)
            terms |= dict(zip(outcome.names, outcome.values.clone().unbind(), strict=True))
        self._optimise(iteration)
        self._adapt(iteration, generator)
        self.iteration = iteration + 1
        return terms

    def _view(self, iteration: int, draw: int) -> "_View":
        settings, (is_distilled, index) = self.settings, self.sampler.draw(draw)
        is_shaded = iteration >= settings.pbr_iteration
        return _View(
            iteration=iteration,
            seen=self.distilled[index] if is_distilled else self.captured[index],
            frame_index=None if is_distilled else index,
            light=self.light.seen(learning=iteration >= settings.light_from_iter) if is_shaded else None,
            shading="deferred" if is_shaded and settings.alternate_shading and draw % 2 else "forward",
            capacity=self.tile_capacity.get(),
            weights=tuple(settings.weights(iteration).items()),
        )

    def _differentiate(self, seen: Observation, view: "_View", generator: torch.Generator) -> Outcome:
        """Draw ``seen``, compare it with its images and add the gradients."""
        screen_points = torch.zeros_like(self.avatar.surfels.positions[:, :2]).requires_grad_()
        training = TrainingView(view.iteration, view.frame_index, generator, screen_points, view.capacity)
        frame = seen.frame
        render = self.renderer.render(
            frame.pose, frame.camera, view.light, shading=view.shading, colour=True, training=training
        )
        names, values = self.objective.weighted_terms(self.avatar, render, seen, view.iteration, generator)
        (values.sum() / self.settings.frames_per_step).backward()
        raster = render.raster
        return Outcome(names, values.detach(), screen_points.grad, raster.radii, raster.instances.detach())

    def _parameters(self) -> list[Tensor]:
        return [*self.avatar.surfels.parameters(), *self.network_optimiser.parameters]

    def _observe(self, outcome: Outcome, seen: Observation) -> None:
        if outcome.screen_gradient is not None and self.densifier.is_observing(self.iteration):
            self.densifier.observe(outcome.screen_gradient, outcome.radii, seen.pixel_size)

    def _schedule(self, iteration: int) -> None:
        settings = self.settings
        rate = exponential_decay(
            iteration, settings.position_lr_init, settings.position_lr_final, settings.position_lr_max_steps
        )
        self.surfel_optimiser.set_rate("positions", rate * POSITION_RATE_EXTENT)
        if iteration % settings.refresh_interval == 0:
            self._renew()

    def _optimise(self, iteration: int) -> None:
        settings = self.settings
        if iteration >= settings.delay:
            self.surfel_optimiser.step()
        else:
            self.surfel_optimiser.discard()
        self.network_optimiser.step()
        if iteration >= settings.light_from_iter and (iteration + 1) % settings.light_interval == 0:
            self.light.update(anchor=settings.weight("env", iteration), smoothness=settings.weight("env_tv", iteration))

    def _adapt(self, iteration: int, generator: torch.Generator) -> None:
        changed = self.densifier.update(iteration, generator)
        if iteration in self.refill.iterations and self.data.surface is not None:
            added = self.densifier.refill(self.data.surface, self.refill.minimum, self.refill.maximum)
            logger.info("iteration %d: refilled %d holes", iteration, added)
            changed = changed or added > 0
        if changed:
            self._refresh()

    def _renew(self) -> None:
        """Bring everything that is cached about the surfels up to date where it lies: recordings read it there."""
        self.avatar.deformation.renew(self.avatar.surfels.positions.detach())
        self.objective.renew(self.avatar.surfels)

    def _refresh(self) -> None:
        """Forget everything that is cached about the surfels, whose set has changed, and the recordings with it."""
        self.avatar.refresh()
        self.objective.refresh()
        self.recorder.forget()

    def _prune_outliers(self) -> None:
        """Remove surfels that ended far from the teacher's surface, so that every later stage sees the same set."""
        if self.data.surface is None:
            return
        far = far_from(self.avatar.surfels, self.data.surface)
        self.surfel_optimiser.keep(~far)
        self.densifier.clear()
        logger.info("pruned %d outliers of %d surfels", int(far.sum()), len(far))

    def _light_fitter(self, resolution: int) -> LightFitter:
        like, target = self.avatar.surfels.positions.detach(), None
        if self.data.teacher is not None:
            target = teacher_light(self.data.teacher, resolution, like)
        base = target if target is not None else like.new_full((6, resolution, resolution, 3), LIGHT_WITHOUT_TEACHER)
        return LightFitter(base, target, rate=self.settings.light_lr, interval=self.settings.light_interval)

    def _log(self, writer: SummaryWriter, bar: Any, terms: dict[str, Tensor]) -> None:
        values = torch.stack(list(terms.values())).tolist()
        for name, value in zip(terms, values):
            writer.add_scalar(f"loss/{name}", value, self.iteration)
        writer.add_scalar("surfels", len(self.avatar.surfels), self.iteration)
        bar.set_postfix(loss=f"{sum(values):.4f}", surfels=len(self.avatar.surfels))

    def _validate(self, writer: SummaryWriter) -> None:
        every = max(1, len(self.data.frames) // VALIDATION_FRAMES)
        device = self.avatar.surfels.positions.device
        frames = [self.data.frames[i].to(device) for i in range(0, len(self.data.frames), every)]
        values = (
            validate(self.renderer, frames[:VALIDATION_FRAMES], self.light.light, self.data.teacher) if frames else {}
        )
        for name, value in values.items():
            writer.add_scalar(f"validation/{name}", value, self.iteration)
        logger.info("iteration %d: %s", self.iteration, ", ".join(f"{k} {v:.2f}" for k, v in values.items()))

    def save(self) -> Path:
        """Write ``ckpt{N}.pth`` and return its path. Caches are renewed, so that a resumed run continues alike."""
        path = self.output.folder / f"ckpt{self.iteration}.pth"
        self.avatar.record.iteration = self.iteration
        self.avatar.training_light = self.light.base.detach().clone()
        self.avatar.save(path, trainer=self.state_dict())
        self._refresh()
        return path

    def write_cloud(self) -> None:
        """Write the surfels as PLY."""
        path = self.output.folder / "point_cloud" / f"iteration_{self.iteration}" / "point_cloud.ply"
        write_ply(self.avatar.surfels, path)

    def state_dict(self) -> dict[str, Any]:
        """Everything beside the avatar that training needs to continue."""
        return {
            "surfel_optimiser": self.surfel_optimiser.state_dict(),
            "network_optimiser": self.network_optimiser.state_dict(),
            "densifier": self.densifier.state_dict(),
            "light": self.light.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any], iteration: int) -> None:
        """Continue at ``iteration``; the avatar must already be the one that ``state`` belongs to."""
        for name in ("surfel_optimiser", "network_optimiser", "densifier", "light"):
            getattr(self, name).load_state_dict(state[name])
        self.iteration = iteration
        self._refresh()


def _surfel_rates(settings: TrainingSettings) -> dict[str, float]:
    return {
        "positions": settings.position_lr_init * POSITION_RATE_EXTENT,
        "log_scales": settings.scaling_lr,
        "quaternions": settings.rotation_lr,
        "opacity_logits": settings.opacity_lr,
        "features": settings.feature_lr,
        "albedo_logits": settings.material_lr,
        "roughness_logits": settings.material_lr,
        "metallic_logits": settings.material_lr,
    }


def _network_groups(avatar: Avatar, settings: TrainingSettings) -> list[dict[str, Any]]:
    deformation = avatar.deformation
    latents: list[Tensor] = []
    rest: list[Tensor] = []
    for name, parameter in avatar.appearance.named_parameters():
        (latents if name.startswith("latents") else rest).append(parameter)
    return [
        {"params": rest, "lr": settings.texture_lr},
        {"params": latents, "lr": settings.texture_lr, "weight_decay": settings.texture_latent_weight_decay},
        {"params": deformation.skinning.parameters(), "lr": settings.rigid_lr},
        {"params": deformation.non_rigid.parameters(), "lr": settings.non_rigid_lr},
        {"params": deformation.pose_correction.parameters(), "lr": settings.pose_correction_lr},
    ]
