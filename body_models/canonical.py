"""The canonical pose: the rest pose that teacher and student share, and the way from it to any pose."""

from collections.abc import Sequence
from math import pi

import torch
from torch import Tensor

from body_models.body import BodyModel
from body_models.mesh import vertex_normals
from body_models.skeleton import JOINTS
from body_models.skinning import joint_transforms, rest_joints, rigid_inverse, shaped_vertices, skin, translated
from core.errors import InputError
from core.frames import BodyPose

DEFAULT_POSE = "A_pose"

CANONICAL_POSES: dict[str, tuple[float, float, float, float]] = {
    "A_pose": (0.2, -0.2, -0.8, 0.8),
    "da_pose": (pi / 6, -pi / 6, 0.0, 0.0),
    "star_pose": (pi / 4, -pi / 4, 0.0, 0.0),
    "ps_pose": (0.2, -0.2, 0.0, 0.0),
    "ps_female_3_pose": (0.2, -0.2, -0.2, 0.2),
}
"""Radians about z of left hip, right hip, left shoulder, right shoulder; everything else is zero."""

_STUDENT_SPELLINGS = {"a_pose": "A_pose", "ps_female3_pose": "ps_female_3_pose"}
_JOINTS_TURNED = (1, 2, 16, 17)


def canonical_pose(name: str | Sequence[float]) -> Tensor:
    """Axis-angle [24, 3] in radians of a canonical pose.

    Args:
        name: a name of ``CANONICAL_POSES`` in the teacher's or the student's spelling, or the four angles themselves.

    Raises:
        InputError: no such name, or not four numbers.
    """
    known = [*CANONICAL_POSES, *_STUDENT_SPELLINGS]
    if isinstance(name, str):
        angles: Sequence[float] | None = CANONICAL_POSES.get(_STUDENT_SPELLINGS.get(name, name))
    else:
        angles = [float(angle) for angle in name] if len(name) == len(_JOINTS_TURNED) else None
    if angles is None:
        raise InputError(
            "canonical pose",
            found=repr(name),
            expected=f"one of {', '.join(known)}, or four angles in radians (hips, shoulders)",
            next_step="Teacher and student must name the same pose; A_pose is the default of both.",
        )
    pose = torch.zeros(JOINTS, 3)
    for joint, angle in zip(_JOINTS_TURNED, angles):
        pose[joint, 2] = angle
    return pose


class CanonicalBody:
    """A subject's body in the canonical pose: SMPL rest with ``betas``, arms and legs turned, y up, metres.

    Pose blend shapes are left out: they do not enter the map between canonical and posed space.
    """

    def __init__(self, body: BodyModel, betas: Tensor, pose_name: str | Sequence[float] = DEFAULT_POSE) -> None:
        """Set up for ``betas`` [10] (or [1, 10]); everything takes device and dtype of ``body``."""
        self.body = body
        self.betas = betas.reshape(-1).to(body.v_template)
        self.pose_name = pose_name
        self.pose = canonical_pose(pose_name).to(body.v_template)
        self.rest_joints = rest_joints(body, self.betas)
        """[24, 3] joints of the T-pose."""
        from_rest = joint_transforms(self.pose, self.rest_joints)
        self.rest_from_canonical = rigid_inverse(from_rest)
        """[24, 4, 4]."""
        self.vertices = skin(shaped_vertices(body, self.betas), body.weights, from_rest)
        """[V, 3]."""
        self.joints = (from_rest[:, :3, :3] @ self.rest_joints[..., None]).squeeze(-1) + from_rest[:, :3, 3]
        """[24, 3]."""
        self.normals = vertex_normals(self.vertices, body.faces)
        """[V, 3] unit."""

    @property
    def faces(self) -> Tensor:
        """[F, 3] int64."""
        return self.body.faces

    @property
    def weights(self) -> Tensor:
        """[V, 24] skinning weights."""
        return self.body.weights

    @property
    def box(self) -> Tensor:
        """[2, 3] lowest and highest corner around the vertices, each side moved out by a tenth of the extent."""
        low, high = self.vertices.amin(0), self.vertices.amax(0)
        margin = 0.1 * (high - low)
        return torch.stack([low - margin, high + margin])

    def bone_transforms(self, pose: BodyPose) -> Tensor:
        """Canonical to world, per joint: A(pose) A(canonical)^-1, then the translation.

        Args:
            pose: with any leading dimensions; the root turns about the pelvis.

        Returns:
            [..., 24, 4, 4] with the leading dimensions of ``pose``; differentiable in it.
        """
        posed_from_rest = joint_transforms(pose.axis_angles, self.rest_joints)
        return translated(posed_from_rest @ self.rest_from_canonical, pose.transl)

    def pose_vertices(self, pose: BodyPose) -> Tensor:
        """Canonical vertices carried to ``pose`` [...]: world vertices [..., V, 3], no pose blend shapes."""
        return skin(self.vertices, self.weights, self.bone_transforms(pose))

    def to(self, device: torch.device | str) -> "CanonicalBody":
        """The same body on ``device``."""
        return CanonicalBody(self.body.to(device), self.betas.to(device), self.pose_name)
