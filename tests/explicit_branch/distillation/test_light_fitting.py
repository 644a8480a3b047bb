"""The light of the training."""

import torch

from explicit_branch.distillation.light import LightFitter, teacher_light
from gs_ir.cubemap import sample_cubemap
from gs_ir.prefiltering import prefilter


def shading_loss(light, directions, target):
    """Something that depends on every part of a prefiltered light."""
    rough = sample_cubemap(light.mips, directions, torch.full((len(directions),), 1.5))
    return ((rough - target) ** 2).mean() + (light.irradiance_sh**2).mean()


def test_gathered_gradients_equal_direct_ones():
    """Fails when gradients that wait at the prefiltered maps are lost, doubled or scaled."""
    torch.manual_seed(0)
    base, directions, target = torch.rand(6, 16, 16, 3), torch.randn(40, 3), torch.rand(40, 3)
    fitter = LightFitter(base, None, rate=0.0, interval=2)
    for _ in range(2):
        shading_loss(fitter.light, directions, target).backward()
    direct = base.clone().requires_grad_()
    shading_loss(prefilter(direct), directions, target).backward()
    seen = {}
    fitter.adam.step = lambda: seen.update(gradient=fitter.base.grad.clone())
    fitter.update(anchor=0.0, smoothness=0.0)
    torch.testing.assert_close(seen["gradient"], direct.grad, atol=1e-6, rtol=1e-4)


def test_teacher_anchors_the_light_evenly_over_the_sphere(teacher):
    """Fails when texels weigh by number instead of solid angle, or the anchor pulls away."""
    target = teacher_light(teacher, 16, torch.zeros(1))
    fitter = LightFitter(target + 0.1, target, rate=0.02, interval=1)
    assert abs(float(fitter.distance().detach()) - 0.01) < 1e-6
    for _ in range(10):
        fitter.update(anchor=1.0, smoothness=0.0)
    assert float(fitter.distance().detach()) < 3e-3
    assert float(fitter.base.detach().min()) >= 0


def test_a_light_that_does_not_learn_gathers_nothing():
    """Fails when gradients of the time before the light is trained wait for its first step."""
    fitter = LightFitter(torch.full((6, 16, 16, 3), 0.5), None, rate=0.01, interval=2)
    directions = torch.nn.functional.normalize(torch.randn(5, 3), dim=-1).requires_grad_()
    for learning in (False, True):
        light = fitter.seen(learning=learning)
        light.radiance(directions, torch.full((5,), 0.3)).sum().backward()
        assert (fitter.light.mips[0].grad is not None) == learning
