"""The frame in one operator against the renderer's operators, on a GPU."""

from dataclasses import replace

import pytest
import torch

import gs_ir
from body_models.parts import PART_OF_JOINT
from core.camera import Camera
from core.errors import InputError
from explicit_branch.avatar import Avatar, avatar_from_state
from explicit_branch.rendering.probe_baking import bake_probes
from explicit_branch.rendering.probes import OcclusionProbes
from explicit_branch.rendering.renderer import Renderer
from explicit_branch.rendering.shading import ShadingOptions
from gs_ir.cubemap import PrefilteredLight
from gs_ir.prefiltering import prefilter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(
        torch.cuda.is_available() and not gs_ir.has_kernel("draw_frame", "CUDA"),
        reason="the native library was built without CUDA kernels",
    ),
]
ONE_LEVEL = 1 / 255


@pytest.fixture
def avatar(body, make_avatar) -> Avatar:
    """Surfels on the embedded body with random materials, and coarse probes."""
    made = make_avatar(12000, feature_dim=4)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for logits in (made.surfels.albedo_logits, made.surfels.roughness_logits, made.surfels.metallic_logits):
            logits.copy_(torch.randn(logits.shape, generator=generator))
    parts = torch.tensor(PART_OF_JOINT)
    volumes = bake_probes(body.vertices, body.faces, body.weights.argmax(1), parts, cell=0.08, directions=64)
    made.probes = OcclusionProbes(volumes)
    return avatar_from_state(made.state(), "cuda").requires_grad_(False).eval()


@pytest.fixture(scope="module")
def sky() -> PrefilteredLight:
    generator = torch.Generator().manual_seed(1)
    return prefilter(3 * torch.rand(6, 32, 32, 3, generator=generator) ** 4).to("cuda")


def _camera(width: int = 300, height: int = 270) -> Camera:
    intrinsics = torch.tensor([[400.0, 0, 141.3], [0, 410.0, 128.9], [0, 0, 1]])
    pose = torch.eye(4)
    pose[:3, 3] = torch.tensor([0.05, 0.1, 0.0])
    return Camera(intrinsics, pose, width, height)


def _apart(renderer: Renderer, pose, camera: Camera, light, **options):
    """Share of pixels that differ by more than one level, and the two pictures."""
    with torch.no_grad():
        quick = renderer.picture(pose, camera, light, gbuffer=True, **options)
        renderer.real_time.serves = lambda camera: False  # type: ignore[method-assign]
        slow = renderer.render(pose.to("cuda"), camera.to("cuda"), light, **options)
    return ((quick.image - slow.image).abs().amax(-1) > ONE_LEVEL).float().mean(), quick, slow


@pytest.mark.parametrize("shading", ["forward", "deferred"])
@pytest.mark.parametrize("occlusion", ["none", "own", "ambient", "directional"])
def test_frame_equals_the_operators(avatar, sky, pose_of, shading, occlusion):
    """Fails when skinning, culling, occlusion, shading, order or compositing differ anywhere; background grey 0.5."""
    share, quick, slow = _apart(
        Renderer(avatar, occlusion=occlusion), pose_of(0.4), _camera(), sky, shading=shading, background=0.5
    )
    assert slow.alpha.mean() > 0.05
    assert share < 2e-4
    assert (quick.alpha - slow.alpha).abs().max() < ONE_LEVEL
    for name in ("depth", "albedo", "normal", "roughness", "metallic", "occlusion"):
        found, expected = getattr(quick.buffer, name), getattr(slow.buffer, name)
        seen = slow.alpha > 0.5
        assert (found - expected)[seen].abs().quantile(0.999) < 2e-3, name
    if occlusion == "directional":
        difference = quick.buffer.lobe_visibility - slow.buffer.lobe_visibility
        assert difference[slow.alpha > 0.5].abs().quantile(0.999) < 2e-3
    else:
        assert quick.buffer.lobe_visibility is None


@pytest.mark.parametrize(
    "options",
    [
        ShadingOptions(normals="published", lobe_direction="mirror"),
        ShadingOptions(normals="given", specular_occlusion="lagarde"),
        ShadingOptions(multi_bounce=True),
    ],
)
@pytest.mark.parametrize("shading", ["forward", "deferred"])
@pytest.mark.parametrize("occlusion", ["ambient", "directional"])
def test_rules_of_shading(avatar, sky, pose_of, occlusion, shading, options):
    """Fails when an option reaches one path only, or the light is turned the other way."""
    renderer = Renderer(avatar, occlusion=occlusion, options=options, compositing="published")
    gain = torch.tensor([0.5, 1.1, 0.9], device="cuda")
    assert _apart(renderer, pose_of(-0.7), _camera(), sky.rotated(0.8), shading=shading, albedo_gain=gain)[0] < 2e-4


@pytest.mark.parametrize("occlusion", ["ambient", "directional"])
def test_replayed_graph_follows_its_inputs(avatar, sky, pose_of, occlusion):
    """Fails when pose, camera, light, its turn, the size or the surfels are frozen into the graph."""
    renderer = Renderer(avatar, occlusion=occlusion)
    bright = prefilter(2 * sky.source.flip(1))
    near = replace(_camera(), camera_from_world=_camera().camera_from_world + 0.01)
    views = [(0.0, _camera(), sky), (0.5, _camera(), sky), (0.5, near, sky), (0.5, near, bright),
             (0.5, near, bright.rotated(1.0)), (0.5, _camera(280, 310), sky)]  # fmt: skip
    with torch.no_grad():
        replayed = [renderer.picture(pose_of(turn), camera, light).image for turn, camera, light in views]
        fresh = [
            Renderer(avatar, occlusion=occlusion).picture(pose_of(turn), camera, light).image
            for turn, camera, light in views
        ]
    for found, expected in zip(replayed, fresh):
        assert torch.equal(found, expected)
    assert all(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(replayed, replayed[1:]))


def test_changed_surfels_are_noticed(avatar, sky, pose_of):
    """Fails when the frame keeps drawing surfels that have been edited."""
    edited = avatar_from_state(avatar.state(), "cuda").requires_grad_(False)
    renderer = Renderer(edited)
    with torch.no_grad():
        before = renderer.picture(pose_of(0.0), _camera(), sky).image
        edited.surfels.albedo_logits += 2
        after = renderer.picture(pose_of(0.0), _camera(), sky).image
        assert torch.equal(after, Renderer(edited).picture(pose_of(0.0), _camera(), sky).image)
    assert (after - before).abs().max() > 0.05


def test_full_lists_grow_and_are_reported(avatar, sky, pose_of, caplog):
    """Fails when a frame that lacks surfels goes unnoticed, or the next one still does."""
    renderer = Renderer(avatar)
    far = replace(_camera(), camera_from_world=_camera().camera_from_world.clone())
    far.camera_from_world[2, 3] = 30
    with torch.no_grad():
        renderer.picture(pose_of(0.0), far, sky)
        renderer.picture(pose_of(0.0), _camera(), sky)
        torch.cuda.synchronize()
        found = renderer.picture(pose_of(0.0), _camera(), sky).image
        expected = Renderer(avatar).picture(pose_of(0.0), _camera(), sky).image
    assert torch.equal(found, expected)
    assert "lacks some" in caplog.text or int(
        renderer.real_time._graphs[next(iter(renderer.real_time._graphs))].written
    )


def test_picture_without_a_buffer(avatar, sky, pose_of):
    """Fails when directional shadows need the channels of a G-buffer, or are left out without one."""
    renderer = Renderer(avatar, occlusion="directional")
    with torch.no_grad():
        for shading in ("forward", "deferred"):
            bare = renderer.picture(pose_of(0.3), _camera(), sky, shading=shading)
            full = renderer.picture(pose_of(0.3), _camera(), sky, shading=shading, gbuffer=True)
            assert bare.buffer is None
            torch.testing.assert_close(bare.image, full.image, atol=1e-6, rtol=0)
        ambient = Renderer(avatar).picture(pose_of(0.3), _camera(), sky).image
    assert (bare.image - ambient).abs().max() > ONE_LEVEL


def test_probes_without_masks(avatar, sky, pose_of):
    """Fails when probes of earlier versions are drawn as if nothing were occluded."""
    bare = replace(avatar.probes.volumes, masks=None, surface_points=None, surface_masks=None)
    avatar.probes = OcclusionProbes(bare)
    with torch.no_grad(), pytest.raises(InputError, match="again"):
        Renderer(avatar, occlusion="directional").picture(pose_of(0.3), _camera(), sky)


def test_probes_that_come_later(avatar, sky, pose_of):
    """Fails when a renderer that has drawn without probes goes on without them."""
    probes, avatar.probes = avatar.probes, None
    renderer = Renderer(avatar, occlusion="directional")
    with torch.no_grad():
        renderer.picture(pose_of(0.3), _camera(), sky)
        avatar.probes = probes
        found = renderer.picture(pose_of(0.3), _camera(), sky).image
        expected = Renderer(avatar, occlusion="directional").picture(pose_of(0.3), _camera(), sky).image
    assert torch.equal(found, expected)
