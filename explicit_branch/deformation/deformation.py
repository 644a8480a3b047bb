"""From canonical surfels to a pose: pose correction, non-rigid offsets, then exact linear blend skinning."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from body_models.canonical import CanonicalBody
from body_models.parts import DRIVING_JOINTS, part_of_points
from core.camera import Camera
from core.frames import BodyPose
from explicit_branch.deformation.non_rigid import NonRigid, Offsets
from explicit_branch.deformation.pose_correction import PoseCorrection
from explicit_branch.deformation.rigid import SkinningWeights
from explicit_branch.surfels import Surfels
from gs_ir.posing import PosingRules, SeenSurfels, pose_surfels

TRAINED = 1e9
"""The iteration of a finished training: every delayed module is at work."""


@dataclass(frozen=True)
class PosedSurfels(SeenSurfels):
    """Surfels under one pose, as one camera sees them."""

    centers_canonical: Tensor
    """[N, 3] after non-rigid offsets."""
    offsets: Offsets | None
    """What the non-rigid module added."""
    weights: Tensor
    """[N, 24] of the skinning."""
    bones: Tensor
    """[24, 3, 4] canonical to world."""

    @property
    def world_from_canonical(self) -> Tensor:
        """[N, 3, 4] blended transforms."""
        return (self.weights @ self.bones.reshape(-1, 12)).reshape(-1, 3, 4)


class Deformation(nn.Module):
    """Carries surfels from canonical space to world space."""

    def __init__(
        self, body: CanonicalBody, *, skinning: SkinningWeights, non_rigid: NonRigid, pose_correction: PoseCorrection
    ) -> None:
        super().__init__()
        self.body = body
        self.skinning, self.non_rigid, self.pose_correction = skinning, non_rigid, pose_correction
        self._cached_weights: Tensor | None = None
        self._cached_parts: Tensor | None = None
        self._bones: WeakKeyDictionary[BodyPose, tuple[Tensor, Tensor]] = WeakKeyDictionary()

    def refresh(self) -> None:
        """Forget cached skinning weights and parts: the surfels have moved, or their set has changed."""
        self._cached_weights = self._cached_parts = None

    @torch.no_grad()
    def renew(self, points: Tensor) -> None:
        """Bring what is cached up to date with the surfels' ``points`` [N, 3], in place: the same surfels, moved."""
        if self._cached_weights is not None:
            self._cached_weights.copy_(self.skinning(points))
        if self._cached_parts is not None:
            self._cached_parts.copy_(part_of_points(self.skinning_weights(points)))

    def skinning_weights(self, points: Tensor) -> Tensor:
        """Weights [N, 24] of canonical ``points`` [N, 3]; fixed ones are cached until ``refresh``."""
        if self.skinning.trainable and torch.is_grad_enabled():
            return self.skinning(points)
        if self._cached_weights is None:
            self._cached_weights = self.skinning(points.detach()).detach()
        return self._cached_weights

    def parts(self, surfels: Surfels) -> Tensor:
        """Rigid part [N] (int64) of each surfel, cached until ``refresh``."""
        if self._cached_parts is None:
            self._cached_parts = part_of_points(self.skinning_weights(surfels.positions).detach())
        return self._cached_parts

    def bones(self, pose: BodyPose) -> Tensor:
        """Canonical to world of each joint [24, 3, 4] under ``pose``; kept while the object ``pose`` lives."""
        return self._joints_and_parts(pose)[0]

    def part_from_world(self, pose: BodyPose) -> Tensor:
        """World to the canonical frame of each of the nine parts [9, 3, 4] under ``pose``; kept likewise."""
        return self._joints_and_parts(pose)[1]

    def place(self, pose: BodyPose, bones: Tensor, part_from_world: Tensor) -> None:
        """Take ``bones`` [24, 3, 4] and ``part_from_world`` [9, 3, 4] for those of the object ``pose`` while it lives.

        Whoever places them may change them, and the pose, in place.
        """
        self._bones[pose] = (bones, part_from_world)

    def _joints_and_parts(self, pose: BodyPose) -> tuple[Tensor, Tensor]:
        kept = self._bones.get(pose)
        if kept is not None:
            return kept
        with torch.inference_mode(False):
            bones = self.body.bone_transforms(pose)
            driving = torch.stack([bones[joint] for joint in DRIVING_JOINTS])
            inverse = driving[:, :3, :3].transpose(1, 2)
            made = bones[:, :3].contiguous(), torch.cat([inverse, -inverse @ driving[:, :3, 3:]], -1)
        if not bones.requires_grad:
            self._bones[pose] = made
        return made

    def corrected(self, pose: BodyPose, frame_index: int | None, iteration: float) -> BodyPose:
        """The pose that is rendered: of training frame ``frame_index``, or ``pose`` itself (None)."""
        return self.pose_correction(pose, frame_index, iteration)

    def forward(
        self,
        surfels: Surfels,
        pose: BodyPose,
        camera: Camera,
        *,
        rules: PosingRules | None = None,
        iteration: float = TRAINED,
    ) -> PosedSurfels:
        """Pose ``surfels`` and look at them.

        Args:
            surfels: in canonical space.
            pose: one pose (no batch), already corrected.
            camera: from where they are seen.
            rules: of normals and opacity; the default ones when not given.
            iteration: training iteration, for modules that start late.
        """
        offsets = self.non_rigid(surfels.positions, pose.axis_angles, iteration)
        positions, log_scales, quaternions = surfels.positions, surfels.log_scales, surfels.quaternions
        if offsets is not None:
            positions = positions + offsets.position
            log_scales = log_scales + offsets.log_scale
            quaternions = quaternions + offsets.quaternion
        weights, bones = self.skinning_weights(surfels.positions), self.bones(pose)
        seen = pose_surfels(
            positions,
            log_scales,
            quaternions,
            surfels.opacity_logits,
            weights=weights,
            bones=bones,
            camera_from_world=camera.camera_from_world,
            intrinsics=camera.intrinsics,
            rules=rules or PosingRules(),
        )
        return PosedSurfels(**vars(seen), centers_canonical=positions, offsets=offsets, weights=weights, bones=bones)
