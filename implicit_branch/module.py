"""Training of the teacher as a Lightning module."""

from collections.abc import Callable, Collection, Hashable, Mapping
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
from implicit_branch.optimizer import TeacherAdam
from implicit_branch.recording import Losses, StepRecorder
from implicit_branch.rendering.secondary import LearnedBounce
from implicit_branch.rendering.shading import shade
from implicit_branch.rendering.volume import Rendered, first_rays, render_rays
from implicit_branch.sampling.lists import EXACT, ExpectedLists, Lists
from implicit_branch.teacher import Teacher
from implicit_branch.training_images import PixelBatch, TrainingImages

RANK_STRIDE = 2654435769
"""Between the seeds of the processes of one run: 2^32 by the golden ratio, as a CPU's generator keeps 32 bits of a seed
and multiples of this stay farther apart than any run's steps.
"""
PROGRESS_EVERY = 10
"""Steps between losses that the progress bar is given."""
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
    pose_decay: float = 0.03
    """Factor by which the rate of the pose residuals falls over the run, evenly."""
    weights: Mapping[str, Scheduled] = field(default_factory=dict)
    """Loss weights by name."""
    background: str = "random"
    """``random``, ``white`` or ``black`` behind the body in training."""
    log_every: int = 100
    """Steps between logged losses."""
    posed_memory: float = 4.0
    """GiB: training sets that need no more are kept posed while their poses stand still; others are posed anew."""
    cuda_graphs: bool = True
    """On a GPU, record steps of one kind and replay them."""
    light_mean: float = 0.4
    """Mean luminance that ``light_scale`` pulls the light to."""


class TeacherModule(lightning.LightningModule):
    """One optimisation of a teacher.

    Everything random in a step comes from a generator seeded by (seed, step), so a resumed run continues exactly; on a
    GPU up to rounding, because kernels add to one place in no fixed order. In a data-parallel run the process's rank is
    part of the seed: a step sees as many times the pixels as there are processes.
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
        self._posed: PosedSpace | None = None
        self._lists: Lists = EXACT
        self._rounds = -1
        self._recorder: StepRecorder | None = None
        self._weights = torch.zeros(0)
        self._weight_names: list[str] = []
        self._weights_now: list[float] = []

    # ---- one step ----------------------------------------------------------------------------------------------

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """Render the pixels that the step draws, compare them with the images; ``batch`` is ignored."""
        step, settings = self.global_step, self.settings
        self.teacher.advance(step * TEACHER_STEPS / settings.max_steps)
        self._prepare(rounds=self.teacher.sampling.rounds)
        weights = self.weights.at(step, step / len(self.images))
        recorder = self._seeded(step)
        found = recorder.run(self._kind(weights), lambda generator: self._losses(weights, generator))
        self._lists.read(found.lengths)
        self._log_step(found)
        return found.total

    def backward(self, loss: Tensor, *_: Any, **__: Any) -> None:
        """Differentiate, unless the step was replayed with its backward pass."""
        if loss.requires_grad:
            loss.backward()
        elif self._recorder is not None:
            self._recorder.give_gradients()

    def _prepare(self, rounds: int) -> None:
        """Renew what has become stale, and make room for what former steps found."""
        if self.teacher.refresh_proxy() or rounds != self._rounds:
            self._posed, self._rounds = None, rounds
            self._lists = ExpectedLists() if self.device.type == "cuda" else EXACT
            if self._recorder is not None:
                self._recorder.forget()
        self._lists.adapt()

    def _seeded(self, step: int) -> StepRecorder:
        if self._recorder is None or self._recorder.generator.device != self.device:
            alone = self._trainer is None or self.trainer.world_size == 1
            enabled = self.settings.cuda_graphs and self.device.type == "cuda" and alone
            self._recorder = StepRecorder(list(self.teacher.parameters()), self.device, enabled=enabled)
        seed = self.settings.seed * 1_000_003 + step + self.global_rank * RANK_STRIDE
        self._recorder.generator.manual_seed(seed)
        return self._recorder

    def _kind(self, weights: dict[str, float]) -> Hashable:
        """What distinguishes steps that run different operators or shapes; keeps the weights' vector up to date."""
        if list(weights) != self._weight_names or self._weights.device != self.device:
            self._weight_names, self._weights_now = list(weights), []
            self._weights = torch.zeros(len(weights), device=self.device)
        if list(weights.values()) != self._weights_now:
            self._weights_now = list(weights.values())
            values = torch.tensor(self._weights_now, pin_memory=self.device.type == "cuda")
            self._weights.copy_(values, non_blocking=True)
        fields, residuals = self.teacher.fields, self.teacher.residuals
        levels = fields.geometry.encoding.active_levels, fields.radiance.encoding.active_levels
        moving = residuals.active, fields.non_rigid is not None and fields.non_rigid.active
        return tuple(weights), levels, moving, self.teacher.sampling, self._shading, self._lists.rooms

    @property
    def _shading(self) -> bool:
        return self.teacher.reference_step >= self.teacher.settings.phys_kick_in_step

    def _losses(self, wanted: Collection[str], generator: torch.Generator) -> Losses:
        """The losses of a step."""
        with self.teacher.fields.weights_once():
            terms = self._terms(wanted, generator)
        zero = self._weights.new_zeros(())
        total = torch.stack([terms.get(name, zero) for name in self._weight_names]) @ self._weights
        return Losses(terms, total, self._lists.lengths())

    def _terms(self, wanted: Collection[str], generator: torch.Generator) -> dict[str, Tensor]:
        """The losses by name of the pixels that ``generator`` draws."""
        teacher = self.teacher
        frames = self._order(len(self.images), generator)[: self.settings.frames_per_step]
        space = self._pose(frames)
        pixels = self.sampler.draw(frames, generator)
        pixels = pixels[:, self._order(pixels.shape[1], generator)]
        batch = self.images.batch(frames, pixels, torch.arange(len(frames), device=self.device))

        rendered = render_rays(
            teacher.fields, batch.rays, space, teacher.sampling, generator=generator, lists=self._lists
        )
        terms = self._radiance_losses(batch, rendered, wanted, generator)
        if self._shading:
            terms |= self._shading_losses(batch, rendered, teacher.tracer(space), wanted, generator)
        return terms

    def _order(self, count: int, generator: torch.Generator) -> Tensor:
        """A random permutation [count]."""
        return torch.rand(count, generator=generator, device=self.device).argsort()

    def _radiance_losses(
        self, batch: PixelBatch, rendered: Rendered, wanted: Collection[str], generator: torch.Generator
    ) -> dict[str, Tensor]:
        samples = rendered.samples
        terms = {
            "rgb_l1": losses.image_l1(rendered.radiance, rendered.alpha, batch, self._background(generator)),
            "mask_bce": coverage_cross_entropy(rendered.alpha, batch.mask),
            "eikonal": losses.eikonal(samples),
        }
        if "curvature" in wanted:
            terms["curvature"] = losses.curvature(
                self.teacher.fields, samples, generator, self.settings.curvature_samples
            )
        return {name: value for name, value in terms.items() if name in wanted}

    def _shading_losses(
        self,
        batch: PixelBatch,
        rendered: Rendered,
        tracer: ProxyTracer,
        wanted: Collection[str],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:
        teacher, count = self.teacher, min(self.settings.shaded_rays, len(batch.rays))
        samples, rays = first_rays(rendered.samples, count, self._lists), batch.rays[:count]
        material = teacher.fields.materials(samples.appearance, samples.geometry)
        shading = replace(teacher.settings.shading, samples_per_pixel=self.settings.samples_per_pixel)
        bounce = LearnedBounce(teacher.fields) if shading.global_illumination else None
        shaded = shade(
            rays, samples, material, teacher.light, tracer=tracer, settings=shading, bounce=bounce,
            generator=generator, lists=self._lists,
        )  # fmt: skip
        pixels, background = batch.first(count), self._background(generator)
        share = samples.weights.detach() * batch.trusted[samples.intervals.ray_indices]
        terms = {
            "rgb_phys_l1": losses.image_l1(shaded.radiance, rendered.alpha[:count], pixels, background),
            "light_neutrality": losses.light_neutrality(teacher.light, batch.image),
            "light_scale": losses.light_scale(teacher.light, self.settings.light_mean),
            "lipshitz_bound": teacher.fields.material.network.bound(),
            **losses.material_smoothness(teacher.fields, samples, material, count, generator),
            **losses.material_priors(share, material),
        }
        return {name: value for name, value in terms.items() if name in wanted}

    def _background(self, generator: torch.Generator) -> Tensor:
        if self.settings.background == "random":
            return torch.rand(3, generator=generator, device=self.device)
        return torch.full((3,), float(self.settings.background == "white"), device=self.device)

    def _pose(self, frames: Tensor) -> PosedSpace:
        """Dataset rows ``frames`` [B] posed."""
        teacher = self.teacher
        if self._poses_change():
            self._posed = None
            return teacher.pose_space(teacher.residuals(self.images.pose[frames], frames))
        if self._posed is None:
            # Poses and proxy stand still: every frame is prepared once, until the next proxy.
            with torch.no_grad():
                self._posed = teacher.pose_space(self.images.pose)
        return self._posed.select(frames)

    def _poses_change(self) -> bool:
        conditioned = any(True for _ in self.teacher.pose_encoder.parameters())
        needed = len(self.images) * self.teacher.posed_bytes
        return self.teacher.residuals.active or conditioned or needed > self.settings.posed_memory * 2**30

    def _log_step(self, found: Losses) -> None:
        if self.global_step % self.settings.log_every == 0:
            self.log_dict({f"train/{name}": value.detach().clone() for name, value in found.terms.items()})
            self.log("train/beta", self.teacher.fields.density.scale().detach())
        if self.global_step % PROGRESS_EVERY == 0:
            self.log("loss", found.total.detach().clone(), prog_bar=True, logger=False)

    # ---- validation --------------------------------------------------------------------------------------------

    def validation_step(self, frame: Frame, index: int) -> None:
        """Measure one validation frame; of several processes, the first does."""
        if self.judge is not None and self.global_rank == 0:
            found = self.judge(self.teacher, frame.to(self.device), self.global_step, index)
            self.log_dict({f"val/{name}": value for name, value in found.items()}, batch_size=1, rank_zero_only=True)

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
                "by_joint": name == "pose_correction",
            }
            for name, parameters in parameter_groups(self.teacher).items()
            if parameters
        ]
        optimizer = TeacherAdam(groups, settings.rate, betas=settings.betas, eps=settings.epsilon, fused=True)
        warmup = max(1, scaled(settings.warmup_steps, settings.max_steps, TEACHER_STEPS))
        milestones = [scaled(m, settings.max_steps, TEACHER_STEPS) for m in settings.milestones]

        def fields(step: int) -> float:
            return learning_rate_factor(step, warmup, milestones, gamma=settings.decay_factor)

        def poses(step: int) -> float:
            # No warm-up: poses must be found before the fields have learned what wrong ones show.
            return settings.pose_decay ** (step / settings.max_steps)

        factors: list[Any] = [poses if group["by_joint"] else fields for group in groups]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
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
