"""Training of the teacher as a Lightning module."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import Dataset

from core.checkpoints import check_metadata
from core.frames import Frame
from core.losses import coverage_cross_entropy
from core.schedules import TEACHER_STEPS, Scheduled, learning_rate_factor, scaled
from implicit_branch import losses
from implicit_branch.deformation.articulation import PosedSpace
from implicit_branch.deformation.proxy_mesh import ProxyTracer
from implicit_branch.rendering.secondary import LearnedBounce
from implicit_branch.rendering.shading import shade
from implicit_branch.rendering.volume import Rendered, first_rays, render_rays
from implicit_branch.teacher import Teacher
from implicit_branch.training_images import PixelBatch, TrainingImages

Judge = Callable[[Teacher, Frame, int, int], Mapping[str, float]]
"""From the teacher, a frame, the step and the frame's number to metrics by name."""


@dataclass(frozen=True)
class TrainingSettings:
    """How a run optimises; step numbers are those of the 25 000-step reference schedule, stretched to the run."""

    max_steps: int
    seed: int = 42
    frames_per_step: int = 4
    """Frames that a step's rays are spread over."""
    shaded_rays: int = 1024
    """Rays of a step that are also shaded physically (uniformly chosen)."""
    samples_per_pixel: int = 256
    """Monte-Carlo samples of those rays."""
    curvature_samples: int = 8192
    """Samples at which the curvature is evaluated, at most."""
    rate: float = 1e-3
    rates: Mapping[str, float] = field(default_factory=dict)
    """Learning rates of parameter groups that differ from ``rate``."""
    betas: tuple[float, float] = (0.9, 0.99)
    epsilon: float = 1e-15
    decays: Mapping[str, float] = field(default_factory=dict)
    """Weight decays by parameter group."""
    warmup_steps: int = 1000
    milestones: tuple[int, ...] = (12500, 18750, 22500, 23750)
    decay_factor: float = 0.3
    weights: Mapping[str, Scheduled] = field(default_factory=dict)
    """Loss weights by name."""
    background: str = "random"
    """``random``, ``white`` or ``black`` behind the body in training."""
    log_every: int = 100
    """Steps between logged losses."""
    posed_frames: int = 256
    """Training sets of at most so many frames are kept posed in memory while their poses stand still."""
    light_mean: float = 0.4
    """Mean luminance that ``light_scale`` pulls the light to."""


class TeacherModule(lightning.LightningModule):
    """One optimisation of a teacher.

    Everything random in a step comes from a generator seeded by (seed, step), so a resumed run continues exactly.
    """

    def __init__(
        self,
        teacher: Teacher,
        settings: TrainingSettings,
        images: TrainingImages,
        sampler: Any,
        *,
        judge: Judge | None = None,
    ) -> None:
        """Set up.

        Args:
            teacher: what is optimised.
            settings: how.
            images: the training frames.
            sampler: draws pixels, see :mod:`implicit_branch.sampling.pixels`.
            judge: measures (and may draw) a validation frame.
        """
        super().__init__()
        self.teacher, self.settings, self.images, self.sampler = teacher, settings, images, sampler
        self.judge = judge
        self.weights = losses.LossWeights.stretched(settings.weights, settings.max_steps)
        self._posed: tuple[PosedSpace, ProxyTracer] | None = None

    # ---- one step ----------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """Render the pixels that the step draws, compare them with the images; ``batch`` is ignored."""
        step = self.global_step
        generator = torch.Generator(self.device).manual_seed(self.settings.seed * 1_000_003 + step)
        self.teacher.advance(step * TEACHER_STEPS / self.settings.max_steps)
        if self.teacher.refresh_proxy():
            self._posed = None

        frames = torch.randperm(len(self.images), generator=generator, device=self.device)
        frames = frames[: self.settings.frames_per_step]
        space, tracer, index = self._pose(frames)
        pixels = self.sampler.draw(frames, generator)
        pixels = pixels[:, torch.randperm(pixels.shape[1], generator=generator, device=self.device)]
        pixel_batch = self.images.batch(frames, pixels, index)

        teacher = self.teacher
        rendered = render_rays(teacher.fields, pixel_batch.rays, space, teacher.sampling, generator=generator)
        weights = self.weights.at(step, step / len(self.images))
        terms = self._radiance_losses(pixel_batch, rendered, weights, generator)
        if teacher.reference_step >= teacher.settings.phys_kick_in_step:
            terms |= self._shading_losses(pixel_batch, rendered, tracer, weights, generator)
        total = sum((weights[name] * value for name, value in terms.items()), pixel_batch.image.new_zeros(()))
        self._log_step(terms, total)
        return total

    def _radiance_losses(
        self, batch: PixelBatch, rendered: Rendered, weights: Mapping[str, float], generator: torch.Generator
    ) -> dict[str, Tensor]:
        samples = rendered.samples
        terms = {
            "rgb_l1": losses.image_l1(rendered.radiance, rendered.alpha, batch, self._background(generator)),
            "mask_bce": coverage_cross_entropy(rendered.alpha, batch.mask),
            "eikonal": losses.eikonal(samples.gradient),
        }
        if "curvature" in weights:
            terms["curvature"] = losses.curvature(
                self.teacher.fields, samples, generator, self.settings.curvature_samples
            )
        return {name: value for name, value in terms.items() if name in weights}

    def _shading_losses(
        self,
        batch: PixelBatch,
        rendered: Rendered,
        tracer: ProxyTracer,
        weights: Mapping[str, float],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        teacher, count = self.teacher, min(self.settings.shaded_rays, len(batch.rays))
        samples, rays = first_rays(rendered.samples, count), batch.rays[:count]
        material = teacher.fields.materials(samples.appearance, samples.geometry)
        shading = replace(teacher.settings.shading, samples_per_pixel=self.settings.samples_per_pixel)
        bounce = LearnedBounce(teacher.fields) if shading.global_illumination else None
        shaded = shade(
            rays, samples, material, teacher.light, tracer=tracer, settings=shading, bounce=bounce, generator=generator
        )
        pixels, background = batch.first(count), self._background(generator)
        share = samples.weights.detach() * pixels.trusted[samples.intervals.ray_indices]
        terms = {
            "rgb_phys_l1": losses.image_l1(shaded.radiance, rendered.alpha[:count], pixels, background),
            "light_neutrality": losses.light_neutrality(teacher.light, batch.image),
            "light_scale": losses.light_scale(teacher.light, self.settings.light_mean),
            "lipshitz_bound": teacher.fields.material.network.bound(),
            **losses.material_smoothness(teacher.fields, samples, material, count, generator),
            **losses.material_priors(share, material),
        }
        return {name: value for name, value in terms.items() if name in weights}

    def _background(self, generator: torch.Generator) -> Tensor:
        if self.settings.background == "random":
            return torch.rand(3, generator=generator, device=self.device)
        return torch.full((3,), float(self.settings.background == "white"), device=self.device)

    def _pose(self, frames: Tensor) -> tuple[PosedSpace, ProxyTracer, Tensor]:
        """The posed space and tracer that hold dataset rows ``frames``, and the rows' numbers in them."""
        teacher = self.teacher
        if self._poses_change():
            pose = teacher.residuals(self.images.pose[frames], frames)
            space = teacher.pose_space(pose)
            return space, teacher.tracer(space), torch.arange(len(frames), device=frames.device)
        if self._posed is None:
            # Poses and proxy stand still: every frame is prepared once, until the next proxy.
            with torch.no_grad():
                space = teacher.pose_space(self.images.pose)
                self._posed = space, teacher.tracer(space)
        return *self._posed, frames

    def _poses_change(self) -> bool:
        conditioned = any(True for _ in self.teacher.pose_encoder.parameters())
        return self.teacher.residuals.active or conditioned or len(self.images) > self.settings.posed_frames

    def _log_step(self, terms: Mapping[str, Tensor], total: Tensor) -> None:
        if self.global_step % self.settings.log_every == 0:
            self.log_dict({f"train/{name}": value.detach() for name, value in terms.items()})
            self.log("train/beta", self.teacher.fields.density.scale().detach())
        self.log("loss", total.detach(), prog_bar=True, logger=False)

    # ---- validation --------------------------------------------------------------------------------------------

    def validation_step(self, frame: Frame, index: int) -> None:
        """Measure one validation frame."""
        if self.judge is not None:
            found = self.judge(self.teacher, frame.to(self.device), self.global_step, index)
            self.log_dict({f"val/{name}": value for name, value in found.items()}, batch_size=1)

    # ---- optimiser ---------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """One Adam over named groups; warm-up, then a factor at each milestone, stretched to the run."""
        settings = self.settings
        groups = [
            {
                "name": name,
                "params": parameters,
                "lr": settings.rates.get(name, settings.rate),
                "weight_decay": settings.decays.get(name, 0.0),
            }
            for name, parameters in parameter_groups(self.teacher).items()
            if parameters
        ]
        optimizer = torch.optim.Adam(groups, settings.rate, betas=settings.betas, eps=settings.epsilon, fused=True)
        warmup = max(1, scaled(settings.warmup_steps, settings.max_steps, TEACHER_STEPS))
        milestones = [scaled(m, settings.max_steps, TEACHER_STEPS) for m in settings.milestones]
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(step, warmup, milestones, gamma=settings.decay_factor)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # ---- state -------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Bring the frames to the device of the run."""
        self.images.to(self.device)
        self.sampler.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint self-contained."""
        checkpoint["teacher"] = self.teacher.describe()
        checkpoint["run"] = {"max_steps": self.settings.max_steps, "seed": self.settings.seed}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another subject's checkpoint before any weight is read."""
        self._posed = None
        found = checkpoint.get("teacher", {}).get("identity", {})
        check_metadata(found, asdict(self.teacher.identity), "checkpoint to resume")


def parameter_groups(teacher: Teacher) -> dict[str, list[torch.nn.Parameter]]:
    """The teacher's parameters by the names that learning rates and weight decays use."""
    fields = teacher.fields
    return {
        "geometry": list(fields.geometry.parameters()),
        "radiance": list(fields.radiance.network.parameters()),
        "appearance": list(fields.radiance.encoding.parameters()),
        "density": list(fields.density.parameters()),
        "material": list(fields.material.parameters()),
        "light": list(teacher.light.parameters()),
        "deformer": [] if fields.non_rigid is None else list(fields.non_rigid.parameters()),
        "pose_encoder": list(teacher.pose_encoder.parameters()),
        "pose_correction": list(teacher.residuals.parameters()),
    }


class StepIndices(Dataset):
    """An epoch of the loader: as many steps as there are frames, so that epochs count as in the published names."""

    def __init__(self, frames: int) -> None:
        self.frames = frames

    def __len__(self) -> int:
        return self.frames

    def __getitem__(self, index: int) -> int:
        if index >= self.frames:
            raise IndexError(index)
        return index
