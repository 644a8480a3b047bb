"""Posing surfels: exactness of the deformation, and every optional module."""

import pytest
import torch

from core.frames import BodyPose
from explicit_branch.components import build
from explicit_branch.deformation.networks import frequency_encoding
from explicit_branch.deformation.pose_correction import FrameOffsets

NON_RIGID = "explicit_branch.deformation.non_rigid."


def test_tangents_are_the_images_of_canonical_tangents(avatar, camera, pose_of):
    """Fails when tangents are rotated by a re-orthonormalised frame instead of the blended transform itself."""
    deformation, surfels, pose = avatar.deformation, avatar.surfels, pose_of(0.4)
    with torch.no_grad():
        here = deformation(surfels, pose, camera)
        step = 1e-2
        tangents = surfels.rotations[:, :, 0] * surfels.scales[:, :1]
        surfels.positions += step * tangents
        there = deformation(surfels, pose, camera)  # the weights stay cached, as within one step of training
    torch.testing.assert_close((there.centers - here.centers) / step, here.tangents_u, atol=2e-4, rtol=0)
    dots = (here.normals * here.tangents_u).sum(-1), (here.normals * here.tangents_v).sum(-1)
    assert max(float(d.abs().max()) for d in dots) < 1e-6


def test_normals_point_outwards(avatar, camera, pose_of):
    """Fails when a mirrored frame or a transposed transform turns normals inside."""
    with torch.no_grad():
        posed = avatar.deformation(avatar.surfels, pose_of(0.0, lean=0.0), camera)
    torso = avatar.deformation.parts(avatar.surfels) == 8
    middle = posed.centers[torso].mean(0)
    outward = ((posed.centers[torso] - middle)[:, [0, 2]] * posed.normals[torso][:, [0, 2]]).sum(-1)
    assert float((outward > 0).float().mean()) > 0.9


def test_rigid_motion_of_the_root_moves_everything_rigidly(avatar, camera, pose_of):
    """Fails when the translation is blended or the root's rotation is applied twice."""
    pose = pose_of(0.3)
    moved = BodyPose(pose.global_orient, pose.body_pose, pose.transl + torch.tensor([0.1, -0.2, 0.5]))
    with torch.no_grad():
        a, b = (avatar.deformation(avatar.surfels, chosen, camera) for chosen in (pose, moved))
    torch.testing.assert_close(
        b.centers - a.centers, torch.tensor([0.1, -0.2, 0.5]).expand_as(a.centers), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(a.tangents_u, b.tangents_u)


def test_part_frames_invert_the_bones(avatar, body, pose_of):
    """Fails when a part's frame is that of another joint, or is not inverted."""
    pose = pose_of(0.5)
    transforms = avatar.deformation.part_from_world(pose)
    bones = body.bone_transforms(pose)
    point = torch.tensor([0.3, 0.2, 0.1])
    for part, joint in ((0, 16), (5, 5), (8, 0)):
        world = bones[joint, :3, :3] @ point + bones[joint, :3, 3]
        back = transforms[part, :, :3] @ world + transforms[part, :, 3]
        torch.testing.assert_close(back, point, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "component",
    [
        {"_target_": NON_RIGID + "OffsetNetwork", "width": 32, "depth": 6, "feature_dim": 4},
        {"_target_": NON_RIGID + "OffsetNetwork", "width": 32, "depth": 6, "full_band_at": 10000},
        {"_target_": NON_RIGID + "OffsetHashGrid", "width": 32, "log2_size": 10},
    ],
)
def test_non_rigid_modules_wait_then_learn(body, component, pose_of):
    """Fails when a module acts before its delay, does not start near zero, or gets no gradient."""
    module = build(component, body=body)
    points, angles = body.vertices[::200], pose_of(0.3).axis_angles
    assert module(points, angles, iteration=module.delay - 1) is None
    offsets = module(points, angles, iteration=module.delay + 100)
    assert float(offsets.position.detach().abs().max()) < 1e-2
    (offsets.position.sum() + offsets.log_scale.sum() + offsets.quaternion.sum()).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in module.parameters())
    assert set(offsets.penalties()) == {"nr_xyz", "nr_scale", "nr_rot"}


def test_hann_window_opens_octaves_in_order():
    """Fails when coarse-to-fine shows high frequencies first."""
    points = torch.rand(5, 3)
    closed, half, full = (frequency_encoding(points, 4, band) for band in (0.0, 1.0, None))
    assert float(closed[:, 3:].abs().max()) < 1e-6
    torch.testing.assert_close(half[:, :9], full[:, :9])
    assert float(half[:, 9:].abs().max()) < 1e-6
    torch.testing.assert_close(frequency_encoding(points, 4, 4.0), full)


def test_pose_correction_moves_its_own_frame_only(pose_of):
    """Fails when a correction leaks into other frames or poses, or starts before its delay."""
    module = FrameOffsets(frames=3, delay=10)
    with torch.no_grad():
        module.offsets[1, 72:] = 1.0
    pose = pose_of(0.2)
    assert module(pose, 1, iteration=9) is pose
    assert module(pose, None, iteration=20) is pose
    torch.testing.assert_close(module(pose, 0, iteration=20).transl, pose.transl)
    torch.testing.assert_close(module(pose, 1, iteration=20).transl, pose.transl + 1)
