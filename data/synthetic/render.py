"""Path-traces one frame of a clothed subject and its ground-truth maps."""

from dataclasses import dataclass

import numpy as np
import torch

from core.camera import Camera
from core.color import linear_to_srgb
from data.synthetic.layouts import Pictures
from data.synthetic.mitsuba_scene import environment_light, mitsuba, sensor, subject_mesh
from data.synthetic.subject import ClothedSubject

_MARGIN = 4
_SURE_NORMAL = 0.05
"""Averaged normals shorter than this have no direction."""


@dataclass(frozen=True)
class Quality:
    """Samples per pixel and path length."""

    samples: int = 128
    map_samples: int = 32
    max_depth: int = 4
    """Bounces including the camera ray: 4 gives direct light and two interreflections."""


def render_frame(
    subject: ClothedSubject,
    camera: Camera,
    *,
    pose: np.ndarray,
    transl: np.ndarray,
    radiance: np.ndarray,
    quality: Quality,
    seed: int,
) -> Pictures:
    """Render the subject in ``pose`` [24, 3] at ``transl`` [3] under the environment ``radiance`` [H, 2H, 3].

    Albedo and roughness are averages over the pixel, zero outside (premultiplied); normals are unit.

    Raises:
        InputError: mitsuba is not installed.
    """
    mi = mitsuba()
    vertices, normals = subject.posed(pose, transl)
    crop = _window(vertices, camera)
    scene = mi.load_dict(
        {
            "type": "scene",
            "sensor": sensor(camera, crop, quality.samples),
            "light": environment_light(radiance),
            "subject": subject_mesh(vertices, normals, subject.faces, subject.albedo, subject.roughness),
        }
    )
    # The depth AOV would start at the near plane; position does not.
    maps = mi.load_dict({"type": "aov", "aovs": "a:albedo,n:sh_normal,p:position,r:uv"})
    path = mi.load_dict({"type": "path", "max_depth": quality.max_depth, "hide_emitters": True})
    properties = np.array(mi.render(scene, integrator=maps, spp=quality.map_samples, seed=seed))[..., -11:]
    colours = np.array(mi.render(scene, integrator=path, spp=quality.samples, seed=seed + 7))[..., :4]
    return encode(_uncropped(colours, crop, camera), _uncropped(properties, crop, camera), camera)


def encode(colours: np.ndarray, properties: np.ndarray, camera: Camera) -> Pictures:
    """Pictures from what was rendered.

    Args:
        colours: [H, W, 4] linear premultiplied RGB and coverage.
        properties: [H, W, 11] averages of albedo (3), world normal (3), world position (3), roughness and one unused.
        camera: as rendered.
    """
    alpha = colours[..., 3:]
    over_white = torch.from_numpy(np.clip(colours[..., :3] + (1 - alpha), 0, 1))
    normals, view = properties[..., 3:6], properties[..., 6:9] - camera.position.double().numpy()
    # Shading normals of two-sided surfaces may look away; the map shows the side that is seen.
    away = (normals * view).sum(-1, keepdims=True) > 0
    in_camera = np.where(away, -normals, normals) @ camera.camera_from_world[:3, :3].double().numpy().T
    opengl = in_camera * [1, -1, -1]
    length = np.linalg.norm(opengl, axis=-1, keepdims=True)
    unit = np.where(length > _SURE_NORMAL, opengl / np.maximum(length, 1e-6), 0)
    return Pictures(
        image=linear_to_srgb(over_white).numpy(),
        mask=(alpha[..., 0] > 0.5).astype(np.uint8),
        albedo=np.clip(properties[..., :3], 0, 1),
        normal=np.where(alpha > 0.5, 0.5 * unit + 0.5, 0.5),
        roughness=np.clip(properties[..., 9], 0, 1),
    )


def _window(vertices: np.ndarray, camera: Camera) -> tuple[int, int, int, int]:
    """Pixels x0, y0, x1, y1 around the projected ``vertices``, within the picture."""
    points, _ = camera.project(torch.as_tensor(vertices, dtype=camera.intrinsics.dtype))
    low = np.floor(points.amin(0).numpy()).astype(int) - _MARGIN
    high = np.ceil(points.amax(0).numpy()).astype(int) + _MARGIN
    size = np.array([camera.width, camera.height])
    x0, y0 = np.clip(low, 0, size - 1)
    x1, y1 = np.clip(high, [x0 + 1, y0 + 1], size)
    return int(x0), int(y0), int(x1), int(y1)


def _uncropped(rendered: np.ndarray, crop: tuple[int, int, int, int], camera: Camera) -> np.ndarray:
    x0, y0, x1, y1 = crop
    full = np.zeros((camera.height, camera.width, rendered.shape[-1]), np.float32)
    full[y0:y1, x0:x1] = rendered
    return full
