"""Linear blend skinning, piece by piece (Loper et al. 2015, eq. 2-10). Everything is differentiable and batched."""

import torch
from torch import Tensor

from body_models.body import BodyModel
from body_models.skeleton import DEPTH_LEVELS, PARENTS
from core.frames import BodyPose
from core.rotation import axis_angle_to_matrix


def shaped_vertices(body: BodyModel, betas: Tensor) -> Tensor:
    """Rest vertices [..., V, 3] in metres of shape ``betas`` [..., 10], without pose blend shapes."""
    return body.v_template + torch.einsum("vdk,...k->...vd", body.shapedirs, betas)


def rest_joints(body: BodyModel, betas: Tensor) -> Tensor:
    """Joints [..., 24, 3] in metres at rest, of shape ``betas`` [..., 10]."""
    return body.joint_regressor @ shaped_vertices(body, betas)


def pose_offsets(body: BodyModel, axis_angles: Tensor) -> Tensor:
    """Pose blend shapes [..., V, 3] in metres of joint rotations ``axis_angles`` [..., 24, 3], applied at rest."""
    rotations = axis_angle_to_matrix(axis_angles[..., 1:, :])
    identity = torch.eye(3, dtype=rotations.dtype, device=rotations.device)
    return torch.einsum("vdk,...k->...vd", body.posedirs, (rotations - identity).flatten(-3))


def joint_transforms(axis_angles: Tensor, joints: Tensor) -> Tensor:
    """Transforms from rest to pose of every joint, the root's rotation about the pelvis included, no translation.

    Args:
        axis_angles: [..., 24, 3] radians, root first.
        joints: [24, 3] or [..., 24, 3] joints at rest, metres.

    Returns:
        [..., 24, 4, 4]; the identity for the zero pose.
    """
    rotations = axis_angle_to_matrix(axis_angles)
    joints = joints.expand(*axis_angles.shape[:-1], 3)
    parents = torch.stack([joints[..., max(parent, 0), :] for parent in PARENTS], -2)
    offsets = torch.cat([joints[..., :1, :], (joints - parents)[..., 1:, :]], -2)
    local = _rigid(rotations, offsets)
    levels = [local[..., :1, :, :]]
    posed = list(levels[0].unbind(-3))
    for level in DEPTH_LEVELS:
        above = torch.stack([posed[PARENTS[joint]] for joint in level], -3)
        levels.append(above @ local[..., level.start : level.stop, :, :])
        posed.extend(levels[-1].unbind(-3))
    world = torch.cat(levels, -3)
    # Undo the rest position, so that the transform acts on points of the rest pose.
    rotation = world[..., :3, :3]
    return _rigid(rotation, world[..., :3, 3] - (rotation @ joints[..., None]).squeeze(-1))


def translated(transforms: Tensor, translation: Tensor) -> Tensor:
    """``transforms`` [..., J, 4, 4] followed by ``translation`` [..., 3] metres."""
    return _rigid(transforms[..., :3, :3], transforms[..., :3, 3] + translation[..., None, :])


def skin(vertices: Tensor, weights: Tensor, transforms: Tensor) -> Tensor:
    """Linear blend skinning.

    Args:
        vertices: [V, 3] or [..., V, 3] metres.
        weights: [V, J]; rows sum to 1.
        transforms: [..., J, 4, 4].

    Returns:
        [..., V, 3] metres.
    """
    rows = transforms[..., :3, :]
    blended = (weights @ rows.flatten(-2)).unflatten(-1, (3, 4))
    return (blended[..., :3] @ vertices[..., None]).squeeze(-1) + blended[..., 3]


def posed_body(body: BodyModel, betas: Tensor, pose: BodyPose) -> tuple[Tensor, Tensor]:
    """The complete SMPL function, pose blend shapes included.

    Args:
        body: the model.
        betas: [10] or [..., 10].
        pose: with any leading dimensions.

    Returns:
        Vertices [..., V, 3] and joints [..., 24, 3] in world space, metres.
    """
    joints = rest_joints(body, betas)
    transforms = translated(joint_transforms(pose.axis_angles, joints), pose.transl)
    at_rest = shaped_vertices(body, betas) + pose_offsets(body, pose.axis_angles)
    posed_joints = (transforms[..., :3, :3] @ joints[..., None]).squeeze(-1) + transforms[..., :3, 3]
    return skin(at_rest, body.weights, transforms), posed_joints


def rigid_inverse(transforms: Tensor) -> Tensor:
    """Inverse [..., 4, 4] of rigid ``transforms`` [..., 4, 4]."""
    rotation = transforms[..., :3, :3].transpose(-1, -2)
    return _rigid(rotation, -(rotation @ transforms[..., :3, 3:]).squeeze(-1))


def _rigid(rotation: Tensor, translation: Tensor) -> Tensor:
    """[..., 4, 4] from [..., 3, 3] and [..., 3]."""
    upper = torch.cat([rotation, translation[..., None]], -1)
    zero = torch.zeros_like(translation)[..., None, :]
    last = torch.cat([zero, torch.ones_like(zero[..., :1])], -1)
    return torch.cat([upper, last], -2)
