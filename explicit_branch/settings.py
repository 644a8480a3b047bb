"""Numbers of a student training: optimiser, losses, densification. Field names are the published configuration keys.

Iteration numbers are written for a run of ``schedule_iterations`` and move in proportion when ``iterations`` differs
(rule: ``round(number * iterations / schedule_iterations)``, intervals at least ``min_interval``); ``null`` keeps them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from core.errors import InputError, list_some
from core.schedules import STUDENT_ITERATIONS, Scheduled, piecewise_constant, scale_piecewise, scaled

POSITION_RATE_EXTENT = 3.469298553466797
"""The published scene extent, which multiplies the position rates and the clone/split and size thresholds."""


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that the trainer reads; the comments are in ``configs/explicit_branch/recipe/default.yaml``."""

    iterations: int = STUDENT_ITERATIONS
    schedule_iterations: int | None = STUDENT_ITERATIONS
    min_interval: int = 25
    frames_per_step: int = 1
    real_fraction: float = 0.6
    seed: int = 0

    position_lr_init: float = 1.6e-4
    position_lr_final: float = 1.6e-6
    position_lr_max_steps: int = 30_000
    feature_lr: float = 1e-3
    opacity_lr: float = 0.05
    material_lr: float = 0.01
    scaling_lr: float = 5e-3
    rotation_lr: float = 1e-3
    texture_lr: float = 1e-3
    texture_latent_weight_decay: float = 0.05
    rigid_lr: float = 1e-4
    non_rigid_lr: float = 1e-3
    pose_correction_lr: float = 1e-4
    light_lr: float = 1e-3
    light_interval: int = 4
    light_from_iter: int = 20_000
    lr_ratio: float = 0.1
    grad_clip: float = 0.1
    delay: int = 0
    pbr_iteration: int = 6_000
    alternate_shading: bool = True
    cuda_graphs: bool = True

    lambda_l1: Scheduled = 1.0
    lambda_dssim: Scheduled = 0.0
    lambda_perceptual: Scheduled = 0.05
    lambda_mask: Scheduled = 3.0
    mask_loss_type: str = "bce"
    lambda_colour: Scheduled = 1.0
    lambda_pbr: Scheduled = 10.0
    lambda_aiap_xyz: Scheduled = 1.0
    lambda_aniso: Scheduled = 1.0
    lambda_scale_reg: Scheduled = 5.0
    lambda_normal_similarity: Scheduled = 0.1
    lambda_pos_distill: Scheduled = 1.0
    lambda_materials: Scheduled = 0.1
    lambda_env: Scheduled = 2.0
    lambda_distill_image: Scheduled = 1.0
    lambda_distill_image_rm: Scheduled = 0.01
    lambda_orientation: Scheduled = 0.1
    lambda_dist: Scheduled = field(default_factory=lambda: [0.0, 6_000, 100.0])
    lambda_normal: Scheduled = field(default_factory=lambda: [0.0, 7_000, 0.05])
    lambda_brdf_tv: Scheduled = 1.0
    lambda_lambert: Scheduled = 0.0025
    lambda_env_tv: Scheduled = 0.01
    lambda_skinning: Scheduled = field(default_factory=lambda: [10.0, 1_000, 0.1])
    lambda_nr_xyz: Scheduled = 0.0
    lambda_nr_scale: Scheduled = 0.0
    lambda_nr_rot: Scheduled = 0.0
    lambda_pose: Scheduled = 0.0

    size_limit: float = 0.02
    anisotropy_limit: float = 3.0
    neighbours: int = 4
    refresh_interval: int = 100
    test_interval: int | None = 2_000

    densify_from_iter: int = 2_000
    densify_until_iter: int = 16_000
    densification_interval: int = 100
    densify_rule: str = "detail"
    densify_contrast: float = 1.5
    densify_pixels: float = 0.5
    densify_growth: float = 4.0
    densify_grad_threshold: float = 2e-4
    percent_dense: float = 0.01
    opacity_threshold: float = 0.02
    opacity_reset_interval: int | None = None
    size_pruning_from_iter: int = 3_000
    max_screen_radius: int = 20
    max_surfels: int = 150_000

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "TrainingSettings":
        """Settings from configuration ``values``, schedules scaled to ``iterations``.

        Raises:
            InputError: a key that no setting has.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InputError(
                "explicit_branch.opt",
                found=f"unknown key {list_some(unknown)}",
                expected=f"keys among {list_some(sorted(known), 100)}",
                next_step="Remove the key or correct its spelling.",
            )
        return cls(**values).rescaled()

    def rescaled(self) -> "TrainingSettings":
        """The same recipe stretched to ``iterations``; done once, the result refers to its own length."""
        if self.schedule_iterations is None or self.schedule_iterations == self.iterations:
            return self
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in values.items():
            if name.startswith("lambda_"):
                values[name] = scale_piecewise(value, self.iterations, self.schedule_iterations)
            elif value is not None and name in _MOMENTS + _INTERVALS:
                floor = self.min_interval if name in _INTERVALS else 0
                values[name] = max(floor, scaled(value, self.iterations, self.schedule_iterations))
        return TrainingSettings(**{**values, "schedule_iterations": self.iterations})

    def weight(self, name: str, iteration: int) -> float:
        """Value of the scheduled weight ``lambda_<name>`` at ``iteration``."""
        return piecewise_constant(getattr(self, f"lambda_{name}"), iteration)

    def weights(self, iteration: int) -> dict[str, float]:
        """All scheduled weights at ``iteration``, by name without ``lambda_``."""
        return {name: self.weight(name, iteration) for name in _WEIGHTS}


_WEIGHTS = tuple(f.name.removeprefix("lambda_") for f in fields(TrainingSettings) if f.name.startswith("lambda_"))
_MOMENTS = (
    "position_lr_max_steps", "delay", "pbr_iteration", "light_from_iter", "densify_from_iter", "densify_until_iter",
    "size_pruning_from_iter",
)  # fmt: skip
_INTERVALS = ("densification_interval", "opacity_reset_interval", "refresh_interval", "test_interval")
