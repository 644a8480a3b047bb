"""Pose refinement: gradients of rendered images by the pose, steps of residuals, and poses that are found again."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks.pose_error import refined, surface_errors, surface_points
from core.camera import Camera
from core.frames import BodyPose, Frame
from core.rotation import axis_angle_to_matrix, compose_axis_angles
from implicit_branch.module import TeacherModule, TrainingSettings
from implicit_branch.optimizer import TeacherAdam
from implicit_branch.rendering.frame import render_frame
from implicit_branch.rendering.volume import composite, evaluate
from implicit_branch.sampling.pixels import edge_sampler
from implicit_branch.sampling.rays import PrimarySampling, RayBundle, sample_rays
from implicit_branch.teacher import Teacher
from implicit_branch.training_images import TrainingImages

UPRIGHT = BodyPose(torch.tensor([torch.pi, 0.0, 0.0]), torch.zeros(69), torch.tensor([0.0, 0.2, 3.0]))


def _camera(width: int, height: int) -> Camera:
    focal = 1.1 * height
    return Camera(torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]), torch.eye(4), width, height)


# ---- gradient --------------------------------------------------------------------------------------------------


def _pose_at(amount: Tensor, direction: Tensor) -> BodyPose:
    """Two frames turned and moved by ``amount`` along ``direction`` [2, 75]."""
    base = torch.cat([UPRIGHT.global_orient, UPRIGHT.body_pose]).double()
    turned = compose_axis_angles(base.reshape(1, 24, 3), (amount * direction[:, :72]).reshape(2, 24, 3)).flatten(1)
    return BodyPose(turned[:, :3], turned[:, 3:], UPRIGHT.transl.double() + amount * direction[:, 72:])


def _rays() -> RayBundle:
    """Through every pixel of a small camera, in two frames."""
    one = RayBundle.of_camera(_camera(12, 16))
    frames = torch.arange(2).repeat_interleave(len(one))
    return RayBundle(one.origins.double().repeat(2, 1), one.directions.double().repeat(2, 1), frames)


@pytest.mark.parametrize(("part", "columns"), [("root", (0, 3)), ("joints", (3, 72)), ("translation", (72, 75))])
def test_gradient_is_that_of_rendering_again(teacher: Teacher, part: str, columns: tuple[int, int]):
    """Fails when the gradient of images by the pose lacks a part (points, normals) or turns the wrong way, half a turn
    of the root included: compared with rendering at changed poses, at the same samples, in double precision. Normals
    are allowed more, because how the blend of bones changes along the surface is left out.
    """
    teacher, rays = copy.deepcopy(teacher).double(), _rays()
    teacher.fields.density.floor.fill_(0.005)
    sampling, zero = PrimarySampling(step=0.02, rounds=0), torch.zeros((), dtype=torch.float64)
    generator = torch.Generator().manual_seed(5)
    direction = torch.zeros(2, 75, dtype=torch.float64)
    direction[:, slice(*columns)] = torch.randn(2, columns[1] - columns[0], generator=generator).double()
    seeds = teacher.pose_space(_pose_at(zero, direction)).seeds
    jitter = torch.full((len(rays),), 0.5, dtype=torch.float64)
    intervals = sample_rays(rays, seeds.counts, seeds.boxes, lambda *_: zero, sampling, jitter=jitter)
    cotangent = torch.randn(len(rays), 3, generator=generator).double()

    def rendered(amount: Tensor) -> Tensor:
        """Coverage and a component of the normal [2, n] of some rays."""
        space = replace(teacher.pose_space(_pose_at(amount, direction)), seeds=seeds)
        seen = composite(evaluate(teacher.fields, rays, space, intervals, sampling))
        return torch.stack([seen.alpha, (seen.normal * cotangent).sum(1)])[:, ::5]

    amount, step = zero.clone().requires_grad_(), 1e-4
    values = rendered(amount).flatten()
    gradient = torch.stack([torch.autograd.grad(x, amount, retain_graph=True)[0] for x in values]).reshape(2, -1)
    with torch.no_grad():
        numeric = (rendered(zero + step) - rendered(zero - step)) / (2 * step)
    error, size = (gradient - numeric).abs(), numeric.abs().sum(1)
    assert error[0].sum() < 0.01 * size[0]
    assert error[1].sum() < 0.06 * size[1]


def test_rotations_are_composed_as_matrices_are():
    """Fails when the composition is in the wrong order, or value or gradient break at no rotation or at half a turn."""
    generator = torch.Generator().manual_seed(6)
    axes = torch.nn.functional.normalize(torch.randn(20, 3, generator=generator).double(), dim=1)
    first = (torch.linspace(0, torch.pi, 20).double()[:, None] * axes).requires_grad_()
    second = 0.3 * torch.randn(20, 3, generator=generator).double()
    second[:2] = 0
    second[-1] = 0
    second.requires_grad_()
    composed = axis_angle_to_matrix(compose_axis_angles(first, second))
    torch.testing.assert_close(composed, axis_angle_to_matrix(first) @ axis_angle_to_matrix(second))
    assert torch.autograd.gradcheck(compose_axis_angles, (first, second))


# ---- steps -----------------------------------------------------------------------------------------------------


def _stepped(gradient: Tensor, *, rate: float = 0.01, decay: float = 0.0) -> Tensor:
    table = torch.nn.Parameter(torch.ones(gradient.shape[1:]))
    optimizer = TeacherAdam(
        [{"params": [table], "by_joint": True, "weight_decay": decay}], rate, betas=(0.9, 0.99), eps=1e-15
    )
    for now in gradient:
        table.grad = now.clone()
        optimizer.step()
    return table.detach() - 1


def test_rows_that_are_not_seen_stay():
    """Fails when old gradients or the weight decay move a frame that a step does not see, or it dilutes the moments."""
    gradient = torch.zeros(50, 4, 6)
    gradient[:, 0] = 3.0
    moved = _stepped(gradient, decay=0.1)
    assert (moved[1:] == 0).all()
    torch.testing.assert_close(moved[0], torch.full((6,), -0.5), rtol=1e-2, atol=0)


def test_axes_of_a_joint_share_their_scale():
    """Fails when an axis that images hardly show moves as far as one that they fix, or joints share a scale."""
    gradient = torch.zeros(1, 1, 6)
    gradient[..., 0], gradient[..., 1], gradient[..., 3] = 1.0, 1e-3, 1e-6
    moved = _stepped(gradient)[0]
    torch.testing.assert_close(moved[1] / moved[0], torch.tensor(1e-3))
    torch.testing.assert_close(moved[3], moved[0], rtol=1e-2, atol=0)


# ---- recovery --------------------------------------------------------------------------------------------------


def _poses(frames: int, noise: float) -> BodyPose:
    """``frames`` poses of one body, each joint turned further by ``noise`` radians."""
    generator = torch.Generator().manual_seed(7)
    angles = 0.2 * torch.randn(frames, 72, generator=generator)
    angles[:, :3] = UPRIGHT.global_orient
    offsets = noise * torch.randn(frames, 72, generator=generator)
    turned = compose_axis_angles(angles.reshape(-1, 24, 3), offsets.reshape(-1, 24, 3)).flatten(1)
    return BodyPose(turned[:, :3], turned[:, 3:], UPRIGHT.transl.expand(frames, 3))


def test_wrong_poses_are_found_again(teacher: Teacher):
    """Fails when residuals do not follow masks of a field that stands still: less than 70 % of the error of wrong poses
    on the surface may be left.
    """
    teacher, camera = copy.deepcopy(teacher), _camera(48, 64)
    true, wrong = _poses(2, 0.0), _poses(2, 0.03)
    frames = []
    for k in range(2):
        seen = render_frame(teacher, true[k], camera)
        image = torch.where(seen.alpha[..., None] > 0.5, seen.radiance.clamp(0, 1), 1.0)
        frames.append(Frame(k, f"{k:04d}", camera, wrong[k], image=image, mask=(seen.alpha > 0.5).float()))
    images = TrainingImages(frames)
    settings = TrainingSettings(max_steps=1, frames_per_step=2)
    module = TeacherModule(teacher, settings, images, edge_sampler(images.masks, num_sample=512, kernel_size=5))
    residuals = teacher.residuals
    residuals.enable = residuals.active = True
    group = {"params": list(residuals.parameters()), "by_joint": True}
    optimizer = TeacherAdam([group], 1e-2, betas=(0.9, 0.99))
    points, articulation = surface_points(teacher), teacher.fields.articulation
    before = surface_errors(articulation, points, wrong, true)
    for step in range(40):
        group["lr"] = 1e-2 * 0.95**step
        terms = module._terms(("mask_bce",), torch.Generator().manual_seed(step))
        terms["mask_bce"].backward()
        optimizer.step()
    after = surface_errors(articulation, points, refined(teacher, wrong), true)
    assert after["total"] < 0.7 * before["total"]
