"""The embedded subject: conventions of what is shipped, checked against the body, the lights and the generator."""

import cv2
import numpy as np
import pytest
import torch

from body_models import load_body
from body_models.skinning import posed_body, rest_joints
from core.camera import Camera
from core.color import srgb_to_linear
from core.images import read_hdr
from data import embedded
from data.animation import MotionFrames
from data.peoplesnapshot import PeopleSnapshotFrames
from data.rana import RanaFrames
from data.synthetic.clearance import clearance
from data.synthetic.motion import dance, facing_camera, turntable, walk

LIGHTS = ("courtyard", "city", "forest", "interior", "sunrise", "sunset")


def rana(split: str) -> RanaFrames:
    return RanaFrames(root=embedded.load_root() / "rana", subject=embedded.SUBJECT, gender=embedded.GENDER, split=split)


def silhouette(vertices: torch.Tensor, faces: torch.Tensor, camera: Camera) -> np.ndarray:
    """Pixels at least half covered by projected triangles, counted on a grid of 8 x 8 points per pixel."""
    fine = 8
    points, _ = camera.resized(fine * camera.width, fine * camera.height).project(vertices)
    covered = np.zeros((fine * camera.height, fine * camera.width), np.uint8)
    # OpenCV's integer coordinates are pixel centres.
    for triangle in np.round((points.numpy()[faces.numpy()] - 0.5) * 16).astype(np.int32):
        cv2.fillConvexPoly(covered, triangle, 1, shift=4)
    return covered.reshape(camera.height, fine, camera.width, fine).mean((1, 3)) > 0.5


def test_assets_are_small():
    """Fails when a large file slips into the repository: the assets are for every clone."""
    assert sum(path.stat().st_size for path in embedded.root().rglob("*") if path.is_file()) < 5e6


@pytest.mark.parametrize("split", ["train_p1", "test"])
def test_posed_body_covers_the_mask(split):
    """Fails when camera axes, pose, translation or betas of a layout are read or written otherwise than rendered.

    The body must lie inside the mask; hair, shoes and clothes stick out by a sixth of the area.
    """
    frames, body = rana(split), load_body(None, embedded.GENDER)
    overlaps = []
    for frame in frames:
        vertices, _ = posed_body(body, frames.betas, frame.pose)
        inside, mask = silhouette(vertices, body.faces, frame.camera), frame.mask.numpy() > 0.5
        overlaps.append((inside & mask).sum() / (inside | mask).sum())
        assert (inside & mask).sum() / inside.sum() > 0.985  # the clothed subject contains the body
    assert min(overlaps) > 0.82


def test_peoplesnapshot_frames_are_the_rana_frames():
    """Fails when poses and pictures of the copy go out of step, or a held-out frame is also trained on."""
    source = {frame.image.numpy().tobytes(): frame for frame in rana("train_p1")}
    seen = []
    for split, first, count in (("train", 0, 20), ("test", 20, 4)):
        layout = {"root": embedded.load_root() / "peoplesnapshot", "subject": embedded.SUBJECT, "gender": "male"}
        frames = PeopleSnapshotFrames(**layout, split=split, frames=_range(first, first + count))
        assert len(frames) == count
        torch.testing.assert_close(frames.betas, rana("train_p1").betas)
        for frame in frames:
            original = source[frame.image.numpy().tobytes()]
            seen.append(original.index)
            torch.testing.assert_close(frame.pose.axis_angles, original.pose.axis_angles)
            torch.testing.assert_close(frame.pose.transl, original.pose.transl)
            torch.testing.assert_close(frame.camera.intrinsics, original.camera.intrinsics)
    assert sorted(seen) == list(range(24))
    assert seen[20:] == [5, 11, 17, 23]


def _range(start: int, stop: int):
    from data.frame_range import FrameRange

    return FrameRange(start, stop)


def test_generator_reproduces_the_shipped_poses():
    """Fails when the motions drift away from those that were rendered."""
    shipped = torch.stack([frame.pose.axis_angles for frame in rana("train_p1")]).numpy()
    np.testing.assert_allclose(facing_camera(turntable(24, seed=3)), shipped, atol=1e-6)
    novel = np.concatenate([dance(24, seed=3)[::6], walk(12)[::3]])[np.random.default_rng(3).permutation(8)]
    shipped = torch.stack([frame.pose.axis_angles for frame in rana("test")]).numpy()
    np.testing.assert_allclose(facing_camera(novel), shipped, atol=1e-6)


def test_lights_have_the_radiance_that_was_rendered():
    """Fails when a probe is darkened by its encoding, clipped, or stored as an 8-bit picture."""
    assert sorted(path.stem for path in embedded.hdris().glob("*.hdr")) == sorted(LIGHTS)
    for name in LIGHTS:
        image = read_hdr(embedded.hdris() / f"{name}.hdr")
        weights = torch.sin((torch.arange(image.shape[0]) + 0.5) / image.shape[0] * torch.pi)[:, None]
        mean = (image.mean(-1) * weights).sum() / (weights.sum() * image.shape[1])
        assert mean == pytest.approx(0.8965, abs=0.003)
        assert image.max() > 10


def irradiance(environment: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    """[N, 3] irradiance over pi by summing the sphere: top row = up = -y, centre column = +z, u grows towards +x."""
    height, width = environment.shape[:2]
    polar = (torch.arange(height) + 0.5) / height * torch.pi
    azimuth = ((torch.arange(width) + 0.5) / width - 0.5) * 2 * torch.pi
    sine = polar.sin()[:, None]
    directions = torch.stack(
        [sine * azimuth.sin(), (-polar.cos())[:, None].expand(-1, width), sine * azimuth.cos()], -1
    )
    solid_angle = (sine * (torch.pi / height) * (2 * torch.pi / width)).expand(-1, width)
    cosine = (normals @ directions.reshape(-1, 3).T).clamp_min(0)
    return cosine @ (environment * solid_angle[..., None]).reshape(-1, 3) / torch.pi


def test_light_orientation():
    """Fails when the probes are mirrored, upside down or turned against the light that the images were rendered under.

    Lambert shading of the shipped normals and albedo must explain the pictures better with the light as stored than
    with the light flipped or turned.
    """
    changes = {
        "as stored": lambda e: e,
        "mirrored": lambda e: e.flip(1),
        "upside down": lambda e: e.flip(0),
        "turned": lambda e: e.roll(e.shape[1] // 2, 1),
        "quarter": lambda e: e.roll(e.shape[1] // 4, 1),
    }
    errors = dict.fromkeys(changes, 0.0)
    for frame in rana("test"):
        # Reduced by averaging, which keeps the energy of the sun.
        environment = read_hdr(frame.hdri).reshape(32, 4, 64, 4, 3).mean((1, 3))
        solid = (frame.mask > 0.5) & (frame.normal.norm(dim=-1) > 0.9)
        normals = frame.normal[solid] * torch.tensor([1.0, -1.0, -1.0])
        target = srgb_to_linear(frame.image[solid])
        for name, change in changes.items():
            shaded = (frame.albedo[solid] * irradiance(change(environment), normals)).clamp(0, 1)
            errors[name] += float((shaded - target).square().mean())
    best = errors.pop("as stored")
    assert best < 0.8 * min(errors.values()), (best, errors)


def test_motions_and_distillation_poses():
    """Fails when a motion is missing, moves the body off the picture, or a distillation pose intersects itself."""
    subject = embedded.load_root() / "peoplesnapshot" / embedded.SUBJECT
    body = load_body(None, embedded.GENDER)
    folders = [("animation", "turntable", 60), ("animation", "walk", 120), ("animation", "dance", 120),
               ("distill_pose", embedded.DISTILLATION_POSES, 64)]  # fmt: skip
    for kind, motion, count in folders:
        frames = MotionFrames(root=embedded.load_root() / kind, motion=motion, subject_root=subject, gender="male")
        assert len(frames) == count
        for index in range(0, count, 7):
            frame = frames[index]
            points, depth = frame.camera.project(posed_body(body, frames.betas, frame.pose)[0])
            assert points.min() > 0
            assert points.max() < frame.camera.width
            assert depth.min() > 3
    joints = rest_joints(body, frames.betas).numpy()
    poses = torch.stack([frame.pose.axis_angles for frame in frames]).numpy()
    assert clearance(poses, joints).min() > 0.01
    views = poses[:10]
    assert np.allclose(views[:, 1:], views[:1, 1:])
    facing = [posed_body(body, frames.betas, frames[i].pose)[1] for i in (0, 5)]
    # The left shoulder is on the right of the picture when the body faces the camera (frame 5), else on the left.
    assert facing[0][16, 0] < facing[0][17, 0]
    assert facing[1][16, 0] > facing[1][17, 0]
