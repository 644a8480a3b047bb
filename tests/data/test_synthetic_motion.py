"""Motions and pose sets: smooth, periodic, within limits, free of self-intersection."""

import numpy as np
import pytest
import torch

from body_models import CanonicalBody, load_body
from body_models.mesh import vertex_normals
from core.frames import BodyPose
from data.synthetic.clearance import _segment_distance, clearance
from data.synthetic.motion import JOINT, MOTIONS, facing_camera, smooth_noise, standing, turntable
from data.synthetic.pose_sets import distillation_poses, random_poses


@pytest.fixture(scope="module")
def canonical():
    return CanonicalBody(load_body(None, "male"), torch.zeros(10))


@pytest.mark.parametrize("name", MOTIONS)
def test_motions_are_smooth_and_move(name):
    """Fails when a motion jumps between frames, stands still, or moves wrists, whose rotation captures lack."""
    poses = MOTIONS[name](120)
    assert poses.shape == (120, 24, 3)
    assert np.isfinite(poses).all()
    inner = np.abs(np.diff(poses[:, 1:], axis=0))
    assert inner.max() < 0.25  # radians from frame to frame
    assert inner.max() > 1e-3
    assert not poses[:, [JOINT[n] for n in ("left_wrist", "right_wrist", "left_hand", "right_hand")]].any()


def test_turntable_turns_once():
    """Fails when the turn is not closed: frame T must be frame 0."""
    poses = turntable(36)
    heading = poses[:, 0, 1] - 2 * np.pi * np.arange(36) / 36
    np.testing.assert_allclose(np.cos(heading), 1)
    assert not poses[:, 0, [0, 2]].any()


def test_facing_camera_points_the_head_up_in_the_picture(canonical):
    """Fails when the body stands on its head or shows its back: y is down and the camera looks along +z."""
    pose = torch.as_tensor(facing_camera(standing(1)), dtype=torch.float32)
    joints = canonical.bone_transforms(BodyPose(pose[:, 0], pose[:, 1:].flatten(1), torch.zeros(1, 3)))
    places = (joints[0, :, :3, :3] @ canonical.joints[..., None]).squeeze(-1) + joints[0, :, :3, 3]
    assert places[JOINT["head"], 1] < places[JOINT["left_ankle"], 1]
    assert places[JOINT["left_shoulder"], 0] > places[JOINT["right_shoulder"], 0]  # its left is on our right
    assert places[JOINT["left_foot"], 2] < places[JOINT["left_ankle"], 2]  # toes towards the camera


def test_smooth_noise_has_unit_variance_and_no_jumps():
    """Fails when knots are joined with a jump or the spline overshoots."""
    noise = smooth_noise(20000, 2, 25, np.random.default_rng(0))
    assert abs(noise.mean()) < 0.1
    assert noise.std() == pytest.approx(0.9, abs=0.15)
    assert np.abs(np.diff(noise, axis=0)).max() < 0.3


def test_segment_distance_against_sampling():
    """Fails when an end point or a parallel pair is handled wrongly."""
    generator = np.random.default_rng(1)
    p0, p1, q0, q1 = generator.normal(size=(4, 60, 3))
    q1[:10] = q0[:10] + 0.5 * (p1 - p0)[:10]  # parallel
    t = np.linspace(0, 1, 201)[:, None, None]
    on_p, on_q = p0 + t * (p1 - p0), q0 + t * (q1 - q0)
    sampled = np.linalg.norm(on_p[:, None] - on_q[None], axis=-1).min((0, 1))
    exact = _segment_distance(p0, p1, q0, q1)
    assert (exact <= sampled + 1e-12).all()
    np.testing.assert_allclose(exact, sampled, atol=0.02)


def inside_share(canonical: CanonicalBody, pose: np.ndarray) -> float:
    """Share of forearms, hands and shins that lies inside the posed mesh, by generalised winding number."""
    angles = torch.as_tensor(pose, dtype=torch.float32)
    vertices = canonical.pose_vertices(BodyPose(angles[0], angles[1:].flatten(), torch.zeros(3)))
    limbs = torch.isin(canonical.weights.argmax(-1), torch.tensor([4, 5, 18, 19, 20, 21, 22, 23])).nonzero()[::13, 0]
    outside = (vertices + 2e-3 * vertex_normals(vertices, canonical.faces))[limbs].double()
    corners = vertices.double()[canonical.faces][None] - outside[:, None, None]
    a, b, c = corners.unbind(2)
    la, lb, lc = (v.norm(dim=-1) for v in (a, b, c))
    determinant = (a * torch.linalg.cross(b, c)).sum(-1)
    denominator = la * lb * lc + (a * b).sum(-1) * lc + (b * c).sum(-1) * la + (a * c).sum(-1) * lb
    winding = torch.atan2(determinant, denominator).sum(-1) / (2 * torch.pi)  # van Oosterom and Strackee 1983
    return float((winding > 0.5).double().mean())


def test_clearance_agrees_with_the_mesh(canonical):
    """Fails when the capsules miss an intersection that the mesh has, or reject poses that have none."""
    joints = canonical.rest_joints.numpy()
    crossed = np.zeros((24, 3))
    crossed[JOINT["left_hip"], 2] = -0.2
    crossed[JOINT["right_hip"], 2] = 0.2
    hand_in_thigh = standing(1, arms=1.55)[0]
    hand_in_thigh[JOINT["left_hip"], 2] = 0.35
    good = random_poses(2, joints, np.random.default_rng(5))
    bad = np.stack([crossed, hand_in_thigh])
    assert clearance(good, joints).min() > 0
    assert clearance(bad, joints).max() < 0
    assert max(inside_share(canonical, pose) for pose in good) < 0.02
    assert min(inside_share(canonical, pose) for pose in bad) > 0.05


def test_distillation_poses(canonical):
    """Fails when views repeat, random poses are nearly alike, or the set is not reproducible."""
    joints = canonical.rest_joints.numpy()
    poses = distillation_poses(12, joints, seed=1)
    assert poses.shape == (22, 24, 3)
    np.testing.assert_array_equal(poses, distillation_poses(12, joints, seed=1))
    steps = np.diff(np.unwrap(poses[:10, 0, 1]))
    np.testing.assert_allclose(np.abs(steps), 0.2 * np.pi)
    assert abs(np.cos(poses[0, 0, 1]) + 1) < 1e-6  # the first view shows the back
    assert clearance(poses, joints).min() > 0.01
    varied = poses[10:, 1:]
    difference = np.abs(varied[:, None] - varied[None]).max((2, 3)) + 9 * np.eye(12)
    assert difference.min() > 0.05
