"""Physically based shading: white furnace, agreement of estimators, visibility against the field itself."""

from dataclasses import replace

import pytest
import torch

from core.camera import Camera
from core.frames import BodyPose
from gs_ir.marching import march, render_weights
from implicit_branch.fields.material import Material
from implicit_branch.rendering.emitters import TextureLight
from implicit_branch.rendering.frame import Illumination, _chunk, render_frame
from implicit_branch.rendering.scatterers import SCATTERERS
from implicit_branch.rendering.secondary import OFFSET, LearnedBounce, RelitBounce, trace
from implicit_branch.rendering.shading import shade
from implicit_branch.rendering.volume import render_rays, sample_layers
from implicit_branch.sampling.lists import Lists
from implicit_branch.sampling.rays import RayBundle
from implicit_branch.settings import ShadingSettings
from implicit_branch.teacher import Teacher


@pytest.fixture(scope="module")
def camera() -> Camera:
    """A small view of the body."""
    return Camera(torch.tensor([[36.0, 0, 12], [0, 36.0, 16], [0, 0, 1]]), torch.eye(4), 24, 32)


@pytest.fixture(scope="module")
def scene(teacher: Teacher, bent_pose: BodyPose, camera: Camera):
    """Rays of frame 0, its posed space, tracer and rendered samples."""
    space = teacher.pose_space(bent_pose)
    rays = RayBundle.of_camera(camera)
    with torch.no_grad():
        rendered = render_rays(teacher.fields, rays, space, teacher.sampling)
    return rays, space, teacher.tracer(space), rendered


def _constant_light(value: float) -> TextureLight:
    light = TextureLight(base_res=4)
    with torch.no_grad():
        light.texture.fill_(value)
    return light


def _uniform_material(samples, albedo: float, roughness: float, metallic: float) -> Material:
    one = torch.ones_like(samples.weights)
    return Material(albedo * one[:, None].expand(-1, 3), roughness * one, metallic * one)


def _shade(teacher, scene, light, material, *, mode="uniform_light", count=64, bounce=None) -> torch.Tensor:
    rays, _, tracer, rendered = scene
    settings = replace(teacher.settings.shading, render_mode=mode, samples_per_pixel=count)
    with torch.no_grad():
        return shade(
            rays, rendered.samples, material, light, tracer=tracer, settings=settings, bounce=bounce,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip


def test_white_furnace_never_gains_energy(teacher: Teacher, scene):
    """Fails when a factor pi, a cosine or a pdf is wrong: under unit light nothing may return more than arrived."""
    rendered = scene[3]
    solid = rendered.alpha > 0.99
    white = _uniform_material(rendered.samples, 1.0, 0.9, 1.0)
    shaded = _shade(teacher, scene, _constant_light(1.0), white)
    ratio = shaded.radiance[solid].mean() / rendered.alpha[solid].mean()
    assert ratio <= 1.0
    diffuse = _shade(teacher, scene, _constant_light(1.0), _uniform_material(rendered.samples, 0.5, 0.99, 0.0))
    # Lambert reflects albedo x visibility; the dielectric coat adds a few per cent.
    expected = 0.5 * shaded.visibility[solid].mean()
    assert float(diffuse.radiance[solid].mean() / expected) == pytest.approx(1.05, abs=0.05)


def test_estimators_agree(teacher: Teacher, scene):
    """Fails when a strategy's density is not the one it samples with: all must converge to one image."""
    rendered = scene[3]
    torch.manual_seed(1)
    light = TextureLight(base_res=8)
    material = _uniform_material(rendered.samples, 0.5, 0.5, 0.3)
    images = {mode: _shade(teacher, scene, light, material, mode=mode, count=256).radiance for mode in SCATTERERS}
    solid = rendered.alpha > 0.9
    reference = images["uniform_light"][solid].mean()
    for mode, image in images.items():
        assert float(image[solid].mean() / reference) == pytest.approx(1.0, abs=0.02), mode


def test_visibility_is_that_of_the_field(teacher: Teacher, scene):
    """Fails when the proxy mesh's shadows differ from marching the density field: mean difference at most 0.02."""
    rays, space, tracer, rendered = scene
    generator = torch.Generator().manual_seed(3)
    # The proxy has to be the field's own surface here, as far as the posed space reaches.
    own = Teacher.tracer(_with_own_proxy(teacher), space)
    solid = rendered.alpha > 0.99
    points = rays.at(solid.nonzero()[:, 0], (rendered.depth / rendered.alpha)[solid])
    normal = torch.nn.functional.normalize(rendered.normal[solid], dim=-1)
    points, normal = points.repeat(8, 1), normal.repeat(8, 1)
    directions = torch.nn.functional.normalize(torch.randn(points.shape, generator=generator), dim=-1)
    facing = (directions * normal).sum(-1) > 0.2
    origins, directions = (points + 3 * OFFSET * normal)[facing], directions[facing]
    index = torch.zeros(len(origins), dtype=torch.int64)
    visible, _ = trace(own, origins, directions, index, near=0.0, far=1.5, bounce=None)
    samples = march(origins, directions, space.seeds.counts, space.seeds.boxes, index, step=0.004,
                    jitter=torch.zeros(len(origins)))  # fmt: skip
    where = origins[samples.ray_indices] + samples.midpoints[:, None] * directions[samples.ray_indices]
    sdf = teacher.fields.layer(where, index[samples.ray_indices], space).sdf
    inside = (sdf < 0).float() * (samples.midpoints < 1.5)
    blocked = torch.zeros(len(origins)).index_add(0, samples.ray_indices, render_weights(inside, samples.packed_info))
    assert float((visible.float() - (1 - blocked)).abs().mean()) <= 0.02


def _with_own_proxy(teacher: Teacher):
    class Own:
        fields = teacher.fields
        proxy = teacher.canonical_mesh(160)

    return Own()


def test_known_layers_are_the_right_ones(teacher: Teacher, scene):
    """Fails when an interval that a round did not cut gets another's layer: all must be as if sought anew."""
    rays, space, _, rendered = scene
    with torch.no_grad():
        again = render_rays(teacher.fields, rays, space, teacher.sampling, lists=Lists())
        jitter = torch.full_like(rays.origins[:, 0], 0.5)
        samples, layer = sample_layers(teacher.fields, rays, space, replace(teacher.sampling, rounds=2), jitter)
        points = rays.at(samples.ray_indices, samples.midpoints)
        expected = teacher.fields.layer(points, rays.frame_index[samples.ray_indices], space)
    assert again.samples.intervals.packed_info.equal(rendered.samples.intervals.packed_info)
    for found, other in zip(rendered[:4], again[:4], strict=True):
        torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-5)
    for found, other in zip(layer, expected, strict=True):
        torch.testing.assert_close(found, other, rtol=1e-4, atol=1e-5)
    nothing, empty = sample_layers(teacher.fields, rays[:0], space, teacher.sampling, jitter[:0])
    assert len(nothing.t_starts) == len(empty.sdf) == 0


def test_bounce_only_adds_light(teacher: Teacher, scene):
    """Fails when hits of secondary rays are counted as open sky, or bounced light replaces the sky's."""
    rendered = scene[3]
    light = _constant_light(0.5)
    material = _uniform_material(rendered.samples, 0.5, 0.8, 0.0)
    direct = _shade(teacher, scene, light, material)
    both = _shade(teacher, scene, light, material, bounce=LearnedBounce(teacher.fields))
    assert (both.radiance >= direct.radiance - 1e-6).all()
    assert both.radiance.sum() > direct.radiance.sum()
    torch.testing.assert_close(both.visibility, direct.visibility)


def test_gradients_reach_light_and_materials_only_as_documented(teacher: Teacher, scene):
    """Fails when shading is detached from what it has to teach."""
    rays, space, tracer, rendered = scene
    material = Material(*(m.clone().requires_grad_() for m in _uniform_material(rendered.samples, 0.4, 0.6, 0.1)))
    shaded = shade(
        rays, rendered.samples, material, teacher.light, tracer=tracer,
        settings=replace(teacher.settings.shading, samples_per_pixel=8), bounce=None,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    gradients = torch.autograd.grad(shaded.radiance.sum(), [*material, teacher.light.amplitudes])
    assert all(g.abs().sum() > 0 for g in gradients)


def test_relit_frame_shows_its_light(teacher: Teacher, bent_pose: BodyPose, camera: Camera):
    """Fails when another light is ignored, is not repeatable, or does not stand behind the body when asked to."""
    torch.manual_seed(2)
    light = TextureLight(base_res=8)
    illumination = Illumination.of_environment(teacher, light, samples_per_pixel=32)
    assert illumination.shading.render_mode == "mis"
    shown = replace(illumination, shading=replace(illumination.shading, add_emitter=True))
    pose = bent_pose[0]
    plain, again = (render_frame(teacher, pose, camera, illumination) for _ in range(2))
    torch.testing.assert_close(plain.shaded, again.shaded, rtol=0, atol=0)
    assert (plain.background == 1).all()
    behind = render_frame(teacher, pose, camera, shown).background
    torch.testing.assert_close(behind, light.radiance(camera.all_rays()[1].reshape(-1, 3)).reshape(32, 24, 3))
    twice = TextureLight(base_res=8)
    with torch.no_grad():
        twice.texture.copy_(light.texture).mul_(2)
    brighter = render_frame(teacher, pose, camera, replace(illumination, light=twice)).shaded
    assert float(brighter.sum() / plain.shaded.sum()) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("bounced", [False, True])
@pytest.mark.parametrize("mode", list(SCATTERERS))
@pytest.mark.parametrize("lighting", ["map", "gaussians"])
def test_kernels_and_operators_have_the_same_mean(teacher: Teacher, scene, lighting, mode, bounced):
    """Fails when the kernels that draw images estimate something else than the differentiable operators.

    Means over independent images, 4.5 standard errors; the noise of a pixel is at most that of the operators (1.2
    times in the median, found 0.9 to 1.05: a pixel's own is known to a fifth and has outliers).
    """
    rays, space, _, rendered = scene
    torch.manual_seed(3)
    light = teacher.light
    if lighting == "map":
        light = TextureLight(base_res=8)
        with torch.no_grad():
            light.texture.copy_(4 * torch.rand(8, 8, 3) ** 4)
    material = _uniform_material(rendered.samples, 0.5, 0.4, 0.3)
    bounce = RelitBounce(teacher.fields, light, teacher.tracer(space), near=0.004, far=1.5) if bounced else None
    settings = replace(teacher.settings.shading, render_mode=mode, samples_per_pixel=16)
    images: dict[bool, list[torch.Tensor]] = {True: [], False: []}
    for seed in range(16):
        for differentiable, found in images.items():
            torch.manual_seed(seed)
            with torch.set_grad_enabled(differentiable):
                shaded = shade(
                    rays, rendered.samples, material, light, tracer=teacher.tracer(space), settings=settings,
                    bounce=bounce, generator=torch.Generator().manual_seed(seed),
                )  # fmt: skip
            found.append(torch.cat([shaded.radiance, shaded.demodulated, shaded.visibility[:, None]], 1).detach())
    operators, kernels = (torch.stack(images[key])[:, rendered.alpha > 0.9] for key in (True, False))
    means, errors = zip(
        *((x.mean((0, 1)), x.mean(1).std(0) / len(x) ** 0.5) for x in (operators, kernels)), strict=True
    )
    assert ((means[0] - means[1]).abs() <= 4.5 * (errors[0] ** 2 + errors[1] ** 2).sqrt() + 1e-6).all()
    noise = [x.std(0) + 1e-6 for x in (operators, kernels)]
    assert ((noise[1] / noise[0]).median(0).values <= 1.2).all()


def test_a_frame_without_the_body_is_empty(teacher: Teacher, bent_pose: BodyPose, camera: Camera):
    """Fails when an image that no ray of meets the body, or its lists of no length, are not drawn."""
    away = replace(camera, camera_from_world=torch.diag(torch.tensor([-1.0, 1, -1, 1])))
    illumination = Illumination.of_environment(teacher, TextureLight(base_res=8), samples_per_pixel=8)
    maps = render_frame(teacher, bent_pose[0], away, illumination)
    assert (maps.alpha == 0).all()
    assert (maps.shaded == 0).all()


@pytest.mark.parametrize("rays", [0, 1, 31, 5000, 404_866])
def test_chunks_are_alike(rays):
    """Fails when a chunk is larger than its room, or the last of several is a small rest."""
    shading = ShadingSettings(samples_per_pixel=64)
    for on_gpu in (False, True):
        chunk = _chunk(rays, 4096, shading, on_gpu=on_gpu)
        most = 4096 * 32 if on_gpu else 2500
        assert 1 <= chunk <= most
        sizes = [len(part) for part in torch.zeros(rays).split(chunk)]
        assert len(sizes) == max(1, -(-rays // most))
        assert min(sizes) >= 0.9 * max(sizes) - 32 * len(sizes)
