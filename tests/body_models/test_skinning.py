"""Skinning against closed forms, direct evaluation and finite differences."""

import pytest
import torch

from body_models import CanonicalBody, canonical_pose, load_body
from body_models.skeleton import JOINTS, PARENTS
from body_models.skinning import joint_transforms, pose_offsets, posed_body, rest_joints, shaped_vertices, skin
from core.frames import BodyPose
from core.rotation import axis_angle_to_matrix


@pytest.fixture(scope="module")
def body():
    return load_body(None, "male").to(dtype=torch.float64)


@pytest.fixture
def betas():
    return torch.randn(10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def random_pose(seed: int, *leading: int, scale: float = 0.5) -> BodyPose:
    generator = torch.Generator().manual_seed(seed)
    draw = [torch.randn(*leading, n, generator=generator, dtype=torch.float64) for n in (3, 69, 3)]
    return BodyPose(scale * draw[0], scale * draw[1], draw[2])


def test_zero_pose_is_the_identity(body, betas):
    """Fails when the rest position is not undone, or blend shapes are measured from another pose than rest."""
    transforms = joint_transforms(torch.zeros(JOINTS, 3, dtype=torch.float64), rest_joints(body, betas))
    torch.testing.assert_close(transforms, torch.eye(4, dtype=torch.float64).expand(JOINTS, 4, 4))
    nothing = BodyPose(*(torch.zeros(n, dtype=torch.float64) for n in (3, 69, 3)))
    torch.testing.assert_close(posed_body(body, betas, nothing)[0], shaped_vertices(body, betas))


def test_transforms_equal_the_chain_of_rotations(body, betas):
    """Fails when a level of the tree is multiplied in the wrong order or with the wrong parent."""
    joints, pose = rest_joints(body, betas), random_pose(2)
    transforms = joint_transforms(pose.axis_angles, joints)
    point = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    for joint in range(JOINTS):
        moved, at = point, joint
        while at >= 0:  # rotate about each joint up to the root, innermost first
            moved = axis_angle_to_matrix(pose.axis_angles[at]) @ (moved - joints[at]) + joints[at]
            at = PARENTS[at]
        torch.testing.assert_close(transforms[joint, :3, :3] @ point + transforms[joint, :3, 3], moved)


def test_root_turns_about_the_pelvis(body, betas):
    """Fails when the root turns about the origin, the usual mistake with translations."""
    pose = random_pose(4)
    pelvis = rest_joints(body, betas)[0]
    torch.testing.assert_close(posed_body(body, betas, pose)[1][0], pelvis + pose.transl)


def test_rigid_motion_moves_everything_alike(body, betas):
    """Fails when the global orientation or translation reaches some joints only."""
    pose = random_pose(5)
    still = BodyPose(torch.zeros_like(pose.global_orient), pose.body_pose, torch.zeros_like(pose.transl))
    pelvis, rotation = rest_joints(body, betas)[0], axis_angle_to_matrix(pose.global_orient)
    expected = (posed_body(body, betas, still)[0] - pelvis) @ rotation.T + pelvis + pose.transl
    torch.testing.assert_close(posed_body(body, betas, pose)[0], expected)


def test_batch_equals_one_by_one(body, betas):
    """Fails when batched poses or shapes are mixed up."""
    poses = random_pose(6, 2, 3)
    together = posed_body(body, betas, poses)[0]
    assert together.shape == (2, 3, *body.v_template.shape)
    torch.testing.assert_close(together[1, 2], posed_body(body, betas, poses[1, 2])[0])
    shapes = torch.stack([betas, -betas])
    torch.testing.assert_close(rest_joints(body, shapes)[1], rest_joints(body, -betas))


def test_pose_blend_shapes_sum_rotation_entries(body):
    """Fails when the root's rotation enters, or the 207 features are ordered otherwise than row-major per joint."""
    posedirs = torch.zeros(len(body.v_template), 3, 207, dtype=torch.float64)
    posedirs[7, 1, 9 * 4 + 5] = 2.0  # joint 5, row 1, column 2
    changed = type(body)(**{**body.__dict__, "posedirs": posedirs})
    pose = random_pose(7)
    offsets = pose_offsets(changed, pose.axis_angles)
    expected = torch.zeros_like(offsets)
    expected[7, 1] = 2 * axis_angle_to_matrix(pose.axis_angles[5])[1, 2]
    torch.testing.assert_close(offsets, expected)


def test_gradients_of_skinning():
    """Fails when a gradient is cut: in pose, translation, shape of the joints, vertices or weights."""
    generator = torch.Generator().manual_seed(8)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    vertices, joints, weights = draw(4, 3), draw(JOINTS, 3), draw(4, JOINTS).softmax(-1)
    axis_angles, translation = 0.5 * draw(2, JOINTS, 3), draw(2, 3)
    axis_angles[0, 3] = 0  # Rodrigues' formula at zero rotation
    inputs = [t.requires_grad_() for t in (vertices, joints, weights, axis_angles, translation)]

    def posed(vertices, joints, weights, axis_angles, translation):
        return skin(vertices, weights, joint_transforms(axis_angles, joints)) + translation[:, None]

    assert torch.autograd.gradcheck(posed, inputs, fast_mode=True)


def test_bone_transforms_carry_canonical_vertices_to_the_pose(body, betas):
    """Fails when the canonical pose is not undone, or the translation is added on the wrong side."""
    canonical = CanonicalBody(body, betas, "a_pose")
    poses = random_pose(9, 2)
    at_rest = shaped_vertices(body, betas)
    direct = joint_transforms(poses.axis_angles, canonical.rest_joints)
    for joint in (0, 4, 16, 23):  # transforms agree per joint, not only after blending
        ones = torch.ones(len(at_rest), 1, dtype=torch.float64)
        canonical_points = (
            joint_transforms(canonical.pose, canonical.rest_joints)[joint] @ torch.cat([at_rest, ones], 1).T
        )
        there = (canonical.bone_transforms(poses)[:, joint] @ canonical_points)[:, :3].mT
        expected = at_rest @ direct[:, joint, :3, :3].mT + direct[:, joint, :3, 3][:, None] + poses.transl[:, None]
        torch.testing.assert_close(there, expected)
    rigid = (body.weights.amax(-1) > 1 - 1e-9).nonzero()[:, 0]
    assert len(rigid) > 1000  # where one bone holds a vertex, skinning twice is skinning once
    expected = skin(at_rest, body.weights, direct) + poses.transl[:, None]
    torch.testing.assert_close(canonical.pose_vertices(poses)[:, rigid], expected[:, rigid], atol=1e-6, rtol=0)


def test_canonical_pose_maps_canonical_vertices_to_themselves(body, betas):
    """Fails when the canonical vertices and the canonical transforms are made from different poses."""
    canonical = CanonicalBody(body, betas)
    pose = canonical_pose("A_pose").double()
    there = BodyPose(pose[0], pose[1:].flatten(), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(canonical.pose_vertices(there), canonical.vertices)
    assert (canonical.box[0] < canonical.vertices.amin(0)).all()
    assert (canonical.box[1] > canonical.vertices.amax(0)).all()
    # Arms hang: the A-pose brings the wrists well below the shoulders, and the left arm stays on the left (+x).
    assert canonical.joints[20, 1] < canonical.joints[16, 1] - 0.2
    assert canonical.joints[20, 0] > 0.3
    assert canonical.joints[7, 0] > canonical.rest_joints[7, 0]


def test_normals_point_outwards(body, betas):
    """Fails when faces are wound inwards: the closed surface's flux of x must be three times its volume, positive."""
    canonical = CanonicalBody(body, betas)
    corners = canonical.vertices[canonical.faces]
    volume = torch.einsum("fa,fa->f", corners[:, 0], torch.linalg.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert 0.04 < volume < 0.12  # a person's, in cubic metres
    away = (canonical.vertices - canonical.vertices.mean(0)) * canonical.normals
    assert away.sum() > 0
    torch.testing.assert_close(canonical.normals.norm(dim=-1), torch.ones(len(body.v_template), dtype=torch.float64))


def test_agrees_with_smplx(tmp_path, betas):
    """Fails when our skinning differs from the published package's, or an exported file cannot be read by it."""
    smplx = pytest.importorskip("smplx", reason="smplx is not installed: agreement with it is not checked")
    from body_models.export import write_smpl_pickle

    body = load_body(None, "female")
    posedirs = 1e-3 * torch.randn(body.posedirs.shape, generator=torch.Generator().manual_seed(0))
    body = type(body)(**{**body.__dict__, "posedirs": posedirs})
    write_smpl_pickle(body, tmp_path / "SMPL_FEMALE.pkl")
    theirs = smplx.SMPL(str(tmp_path), gender="female", dtype=torch.float64)
    poses = random_pose(10, 3)
    output = theirs(betas=betas[None].expand(3, -1), global_orient=poses.global_orient, body_pose=poses.body_pose,
                    transl=poses.transl)  # fmt: skip
    vertices, joints = posed_body(body.to(dtype=torch.float64), betas, poses)
    torch.testing.assert_close(vertices, output.vertices, atol=1e-6, rtol=0)
    torch.testing.assert_close(joints, output.joints[:, :24], atol=1e-6, rtol=0)
