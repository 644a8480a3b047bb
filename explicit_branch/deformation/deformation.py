"""From canonical surfels to a pose: pose correction, non-rigid offsets, then exact linear blend skinning."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from body_models.canonical import CanonicalBody
from body_models.parts import DRIVING_JOINTS, part_of_points
from core.frames import BodyPose
from core.rotation import quaternion_to_matrix
from core.vectors import unit_and_length
from explicit_branch.deformation.non_rigid import NonRigid, Offsets
from explicit_branch.deformation.pose_correction import PoseCorrection
from explicit_branch.deformation.rigid import SkinningWeights
from explicit_branch.surfels import Surfels

TRAINED = 1e9
"""The iteration of a finished training: every delayed module is at work."""


@dataclass(frozen=True)
class PosedSurfels:
    """Surfels under one pose."""

    centers: Tensor
    """[N, 3] world, metres."""
    tangents_u: Tensor
    """[N, 3] world; length = standard deviation in metres."""
    tangents_v: Tensor
    """[N, 3]."""
    normals: Tensor
    """[N, 3] unit, outward, world."""
    areas: Tensor
    """[N, 1] square metres: of the parallelogram of the tangents."""
    centers_canonical: Tensor
    """[N, 3] after non-rigid offsets."""
    normals_canonical: Tensor
    """[N, 3] unit, outward."""
    world_from_canonical: Tensor
    """[N, 3, 4] blended transforms."""
    offsets: Offsets | None
    """What the non-rigid module added."""


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

    def _joints_and_parts(self, pose: BodyPose) -> tuple[Tensor, Tensor]:
        kept = self._bones.get(pose)
        if kept is not None:
            return kept
        with torch.inference_mode(False):
            bones = self.body.bone_transforms(pose)
            driving = torch.stack([bones[joint] for joint in DRIVING_JOINTS])
            inverse = driving[:, :3, :3].transpose(1, 2)
            made = bones[:, :3], torch.cat([inverse, -inverse @ driving[:, :3, 3:]], -1)
        if not bones.requires_grad:
            self._bones[pose] = made
        return made

    def corrected(self, pose: BodyPose, frame_index: int | None, iteration: float) -> BodyPose:
        """The pose that is rendered: of training frame ``frame_index``, or ``pose`` itself (None)."""
        return self.pose_correction(pose, frame_index, iteration)

    def forward(self, surfels: Surfels, pose: BodyPose, iteration: float = TRAINED) -> PosedSurfels:
        """Pose ``surfels``.

        Centre and tangents are transformed by the blended 3 x 4 matrix itself, so a surfel stays in the plane that the
        deformation gives it, and its normal is the cross product of its posed tangents.

        Args:
            surfels: in canonical space.
            pose: one pose (no batch), already corrected.
            iteration: training iteration, for modules that start late.
        """
        offsets = self.non_rigid(surfels.positions, pose.axis_angles, iteration)
        positions, scales, quaternions = surfels.positions, surfels.scales, surfels.quaternions
        if offsets is not None:
            positions = positions + offsets.position
            scales = scales * offsets.log_scale.exp()
            quaternions = quaternions + offsets.quaternion
        weights = self.skinning_weights(surfels.positions)
        transforms = (weights @ self.bones(pose).reshape(-1, 12)).reshape(-1, 3, 4)
        linear, translation = transforms.split([3, 1], -1)
        axis_u, axis_v, normals_canonical = quaternion_to_matrix(quaternions).unbind(-1)
        scale_u, scale_v = scales.split(1, -1)
        columns = torch.stack([axis_u * scale_u, axis_v * scale_v, positions], -1)
        # Products of many 3 x 3 matrices are slow as such: one block of a GPU for each.
        tangents_u, tangents_v, turned = (linear[..., None] * columns[:, None]).sum(2).unbind(-1)
        normals, areas = unit_and_length(torch.linalg.cross(tangents_u, tangents_v), 1e-20)
        return PosedSurfels(
            centers=turned + translation.squeeze(-1),
            tangents_u=tangents_u,
            tangents_v=tangents_v,
            normals=normals,
            areas=areas,
            centers_canonical=positions,
            normals_canonical=normals_canonical,
            world_from_canonical=transforms,
            offsets=offsets,
        )
