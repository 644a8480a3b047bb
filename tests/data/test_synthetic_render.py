"""The path tracer against the project's camera, light and shipped frames (needs the optional package mitsuba)."""

import numpy as np
import pytest
import torch

pytest.importorskip("mitsuba", reason="mitsuba is not installed: the generator's renderer is not checked")

from core.camera import Camera
from core.rotation import axis_angle_to_matrix
from data.synthetic.mitsuba_scene import environment_light, mitsuba, sensor, subject_mesh


def quad(roughness: np.ndarray, normal: tuple[float, float, float] = (0, 0, -1)):
    """A white square of side 6 m in the plane z = 0."""
    corners = np.array([[-3, -3, 0], [3, -3, 0], [3, 3, 0], [-3, 3, 0]], float)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    return subject_mesh(corners, np.tile(np.array(normal, float), (4, 1)), faces, np.full((4, 3), 0.5), roughness)


def test_camera_agrees_with_ours():
    """Fails when an axis, the principal point's sign, the crop window or the pixel centre differs from core.camera."""
    mi = mitsuba()
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = axis_angle_to_matrix(torch.tensor([0.1, -0.2, 0.05], dtype=torch.float64))
    pose[:3, 3] = torch.tensor([0.1, 0.2, 3.0])
    intrinsics = torch.tensor([[90.0, 0, 40.3], [0, 90.0, 21.7], [0, 0, 1]], dtype=torch.float64)
    camera = Camera(intrinsics, pose, 64, 64)
    scene = {"type": "scene", "view": sensor(camera, (8, 4, 50, 60), 64), "quad": quad(np.array([0.2, 0.4, 0.6, 0.8]))}
    integrator = mi.load_dict({"type": "aov", "aovs": "p:position,r:uv"})
    rendered = np.array(mi.render(mi.load_dict(scene), integrator=integrator, spp=64))[..., -5:]
    seen, _ = camera.project(torch.from_numpy(rendered[..., :3].astype(np.float64)))
    rows, columns = np.mgrid[4:60, 8:50] + 0.5
    error = seen.numpy() - np.stack([columns, rows], -1)
    assert np.abs(error.mean((0, 1))).max() < 0.01
    assert np.abs(error).max() < 0.2
    # The roughness that travels as a texture coordinate is interpolated like everything else.
    u, v = (rendered[..., :2].transpose(2, 0, 1) + 3) / 6
    expected = np.where(v < u, 0.2 + 0.2 * u + 0.2 * v, 0.2 - 0.2 * u + 0.6 * v)
    assert np.abs(rendered[..., 3] - expected).mean() < 1e-3


@pytest.mark.parametrize(
    ("normal", "row", "column"), [((0, -1, 0), 0, 16), ((0, 0, -1), 16, 0), ((1, 0, 0), 16, 48), ((0, 0, 1), 16, 32)]
)
def test_light_comes_from_where_the_map_says(normal, row, column):
    """Fails when the environment is mirrored or turned: a patch in the map must light the side that faces it."""
    mi = mitsuba()
    radiance = np.zeros((32, 64, 3), np.float32)
    rows = slice(0, 3) if row == 0 else slice(row - 2, row + 2)
    radiance[rows, [(column + shift) % 64 for shift in (-2, -1, 0, 1)]] = 50.0
    if row == 0:
        radiance[rows] = 50.0
    light = mi.load_dict({"type": "scene", "light": environment_light(radiance), "quad": quad(np.full(4, 0.5))})
    towards = mi.Vector3f(*normal)
    ray = mi.Ray3f(o=mi.Point3f(5.0, 5.0, 5.0) * towards, d=towards)
    interaction = light.ray_intersect(ray)
    seen = light.environment().eval(interaction)
    away = light.environment().eval(light.ray_intersect(mi.Ray3f(o=mi.Point3f(9, 9, 9), d=-towards)))
    assert np.array(seen).ravel()[0] > 20
    assert np.array(away).ravel()[0] < 1
