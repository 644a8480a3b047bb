"""Between canonical and world space: round trips, normals, gradients to the pose."""

import torch

from body_models import CanonicalBody
from core.frames import BodyPose
from implicit_branch.deformation.articulation import Adjugate, Articulation, apply_transforms, carry_normals
from implicit_branch.deformation.non_rigid import HierarchicalPoseEncoding, NonRigidOffsets
from implicit_branch.deformation.pose_correction import PoseResiduals
from implicit_branch.deformation.weight_volume import NEIGHBOURS, SWEEPS, build_weight_volume, lattice, volume_box
from implicit_branch.teacher import Teacher


def test_weight_volume_holds_the_weights_of_nearby_vertices(body: CanonicalBody):
    """Fails when axes of the volume are swapped or smoothing leaks: at a thigh vertex the thigh's joint must win."""
    box = volume_box(body.vertices)
    volume = build_weight_volume(body.vertices, body.weights, box, 0.05)
    torch.testing.assert_close(volume.sum(-1), torch.ones(volume.shape[:3]))
    nodes = lattice(box, 0.05)
    assert nodes.shape[:3] == volume.shape[:3]
    sure = body.weights.max(1).values > 0.95
    vertex = body.vertices[sure][::50]
    nearest = (nodes.reshape(-1, 3) - vertex[:, None]).norm(dim=-1).argmin(1)
    same = volume.reshape(-1, 24)[nearest].argmax(1) == body.weights[sure][::50].argmax(1)
    assert same.float().mean() > 0.9


def test_round_trip_through_a_bent_pose(teacher: Teacher, bent_pose: BodyPose):
    """Fails when the search and forward skinning disagree: shell points must be found again within 0.1 mm."""
    articulation = teacher.fields.articulation
    space = teacher.pose_space(bent_pose)
    points = teacher.proxy.vertices[::7]
    world = articulation.to_world(points, space)
    index = torch.arange(2).repeat_interleave(len(points))
    roots = articulation.to_canonical(world.reshape(-1, 3), index, space)
    distance = (roots.canonical - points.repeat(2, 1)[:, None]).norm(dim=-1).masked_fill(~roots.valid, 1e9)
    assert (distance.amin(1) < 1e-4).float().mean() >= 0.999


def test_forward_skinning_is_near_the_posed_body(teacher: Teacher, body: CanonicalBody, bent_pose: BodyPose):
    """Fails when translation, root or canonical transforms are left out: the volume must repeat SMPL's skinning."""
    world = teacher.fields.articulation.to_world(body.vertices, teacher.pose_space(bent_pose))
    error = (world - body.pose_vertices(bent_pose)).norm(dim=-1)
    assert error.mean() < 0.012


def test_normals_go_by_the_inverse_transpose():
    """Fails when normals are carried like tangents: the image of a plane must stay perpendicular to its normal."""
    torch.manual_seed(0)
    jacobian = torch.eye(3).double() + 0.3 * torch.randn(20, 3, 3).double()
    gradient = torch.randn(20, 3).double()
    tangents = torch.linalg.cross(gradient, torch.randn(20, 3).double())
    carried = (jacobian @ tangents[..., None])[..., 0]
    normal = carry_normals(gradient, Adjugate.of(jacobian))
    assert ((normal * carried).sum(-1).abs() < 1e-9).all()
    expected = torch.nn.functional.normalize(torch.linalg.inv(jacobian).transpose(1, 2) @ gradient[..., None], dim=1)
    torch.testing.assert_close(normal * jacobian.det().sign()[:, None], expected[..., 0])


def test_pose_gradient_is_that_of_searching_again(teacher: Teacher, bent_pose: BodyPose):
    """Fails when the implicit gradient has the wrong sign or Jacobian: compared with solving at a changed pose."""
    articulation: Articulation = teacher.fields.articulation
    body_pose = bent_pose.body_pose.clone().requires_grad_()
    pose = BodyPose(bent_pose.global_orient, body_pose, bent_pose.transl)
    proxy = teacher.settings.proxy
    options = {"radius": proxy.initial_radius, "resolution": 32}
    space = articulation.pose_space(pose, teacher.proxy.vertices, **options)
    canonical = teacher.proxy.vertices[::97]
    index = torch.zeros(len(canonical), dtype=torch.int64)
    world = articulation.to_world(canonical, space)[0]
    roots = articulation.to_canonical(world, index, space)
    nearest = (roots.canonical - canonical[:, None]).norm(dim=-1).masked_fill(~roots.valid, 1e9).argmin(1)
    every = torch.arange(len(canonical))
    jacobian = roots.jacobian[every, nearest]
    attached, _ = articulation.attach_pose(roots.canonical[every, nearest], jacobian, index, space)
    cotangent = torch.randn(attached.shape, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((attached * cotangent).sum(), body_pose)

    step, direction = 1e-3, torch.randn(body_pose.shape, generator=torch.Generator().manual_seed(3))
    values = []
    for sign in (1, -1):
        moved = BodyPose(pose.global_orient, (body_pose + sign * step * direction).detach(), pose.transl)
        moved_space = articulation.pose_space(moved, teacher.proxy.vertices, **options)
        found = articulation.to_canonical(world, index, moved_space)
        distance = (found.canonical - canonical[:, None]).norm(dim=-1).masked_fill(~found.valid, 1e9)
        values.append(found.canonical[every, distance.argmin(1)])
    numeric = (((values[0] - values[1]) / (2 * step)) * cotangent).sum()
    torch.testing.assert_close((gradient * direction).sum(), numeric, rtol=0.03, atol=0.02)


def test_carried_points_move_with_the_translation(teacher: Teacher, bent_pose: BodyPose):
    """Fails when the translation enters twice or not at all."""
    articulation = teacher.fields.articulation
    moved = BodyPose(bent_pose.global_orient, bent_pose.body_pose, bent_pose.transl + torch.tensor([0.1, 0.2, 0.3]))
    points = teacher.proxy.vertices[:10]
    before = articulation.to_world(points, teacher.pose_space(bent_pose))
    after = articulation.to_world(points, teacher.pose_space(moved))
    torch.testing.assert_close(after - before, torch.tensor([0.1, 0.2, 0.3]).expand_as(before), atol=1e-5, rtol=0)


def test_transforms_apply_to_points():
    """Fails when the translation column is taken from the wrong place."""
    transform = torch.arange(12.0).reshape(1, 3, 4)
    torch.testing.assert_close(
        apply_transforms(transform, torch.tensor([[1.0, 0.0, 2.0]])), torch.tensor([[7.0, 23, 39]])
    )


def test_residuals_act_on_their_own_frame_from_their_step():
    """Fails when residuals act early, or on another frame's pose."""
    residuals = PoseResiduals(dataset_length=5, enable=True, start_step=4000)
    with torch.no_grad():
        residuals.transl[3] = 1.0
    pose = BodyPose(torch.zeros(2, 3), torch.zeros(2, 69), torch.zeros(2, 3))
    frames = torch.tensor([1, 3])
    residuals.open(3999)
    assert residuals(pose, frames) is pose
    residuals.open(4000)
    assert residuals(pose, frames).transl.tolist() == [[0.0] * 3, [1.0] * 3]


def test_offsets_start_as_identity_and_know_their_jacobian():
    """Fails when opening the offsets jumps, or their Jacobian is not their derivative."""
    torch.manual_seed(0)
    offsets = NonRigidOffsets(condition_features=144, n_neurons=16, n_hidden_layers=3, skip_in=2).double()
    encoding = HierarchicalPoseEncoding().double()
    pose = BodyPose(torch.zeros(1, 3).double(), torch.randn(1, 69).double(), torch.zeros(1, 3).double())
    condition = encoding(pose, torch.randn(24, 3).double()).expand(4, -1)
    points = torch.randn(4, 3).double()
    offsets.open(4000)
    assert offsets.active
    assert offsets(points, condition).abs().max() < 1e-4
    offsets.open(12000)
    with torch.no_grad():
        offsets.last.weight.normal_(0, 0.1)
    moved, jacobian = offsets.with_jacobian(points, condition)
    step = 1e-8 * torch.randn(4, 3).double()
    change = points + step + offsets(points + step, condition) - moved
    torch.testing.assert_close(change, (jacobian @ step[..., None])[..., 0], rtol=1e-3, atol=1e-13)


def test_smoothing_is_the_six_neighbour_average(body: CanonicalBody):
    """Fails when a neighbour is counted twice or a sweep reads what it has already changed."""
    box = volume_box(body.vertices)
    nodes = lattice(box, 0.1)
    distance, index = torch.cdist(nodes.reshape(-1, 3), body.vertices).topk(NEIGHBOURS, largest=False)
    share = 1 / distance.clamp(1e-4, 1)
    share = share / share.sum(1, keepdim=True)
    volume = (share[..., None] * body.weights[index]).sum(1).reshape(*nodes.shape[:3], -1)
    for _ in range(max(1, round(SWEEPS * (0.016 / 0.1) ** 2))):
        padded, inner = volume.clone(), (slice(1, -1),) * 3
        total = sum(padded.roll(step, axis) for axis in range(3) for step in (-1, 1))
        volume[inner] = 0.7 * padded[inner] + 0.05 * total[inner]
    expected = volume / volume.sum(-1, keepdim=True)
    found = build_weight_volume(body.vertices, body.weights, box, 0.1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
