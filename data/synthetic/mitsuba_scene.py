"""Mitsuba scenes in this project's conventions: OpenCV camera, equirectangular light with its top row at world -y."""

import functools
import logging
import subprocess
import sys
from types import ModuleType
from typing import Any

import numpy as np

from core.camera import Camera
from data.synthetic.optional_packages import require

logger = logging.getLogger(__name__)

_FAST, _SAFE = "llvm_ad_rgb", "scalar_rgb"
_PROBE = (
    "import mitsuba as mi, numpy as np; mi.set_variant('llvm_ad_rgb');"
    "s = mi.load_dict({'type': 'scene', 's': {'type': 'sphere'}, 'e': {'type': 'constant'}, 'sensor': {'type':"
    "'perspective', 'film': {'type': 'hdrfilm', 'width': 8, 'height': 8}}});"
    "np.array(mi.render(s, integrator=mi.load_dict({'type': 'path'}), spp=4))"
)
"""A small render: whether the compiled variant works depends on the libLLVM found and on the processor."""


@functools.lru_cache(maxsize=1)
def mitsuba() -> ModuleType:
    """The package, set to the fastest variant that works here.

    Some versions of LLVM abort the whole process on some processors, so the compiled variant is tried in another one.

    Raises:
        InputError: mitsuba is not installed.
    """
    package = require("mitsuba")
    try:
        probe = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, timeout=120, check=False)
        works = probe.returncode == 0
    except subprocess.TimeoutExpired:
        works = False
    if not works:
        logger.info("Mitsuba's compiled variant does not run here (it needs another libLLVM, 19 is known to work): "
                    "rendering with the slower scalar variant")  # fmt: skip
    package.set_variant(_FAST if works else _SAFE)
    return package


def subject_mesh(
    vertices: np.ndarray, normals: np.ndarray, faces: np.ndarray, albedo: np.ndarray, roughness: np.ndarray
) -> Any:
    """A Mitsuba mesh with materials per vertex; its texture coordinates carry the roughness, for the AOV render.

    Args:
        vertices: [V, 3] world, metres.
        normals: [V, 3] unit.
        faces: [F, 3].
        albedo: [V, 3] linear.
        roughness: [V] perceptual.
    """
    mi = mitsuba()
    properties = mi.Properties()
    # Disney's diffuse lobe, not Lambert: fitted albedos differ from these by a few percent.
    surface = {
        "type": "principled",
        "base_color": {"type": "mesh_attribute", "name": "vertex_color"},
        "roughness": {"type": "mesh_attribute", "name": "vertex_rough"},
        "specular": 0.5,
    }
    properties["bsdf"] = mi.load_dict({"type": "twosided", "inside": surface})
    mesh = mi.Mesh("subject", len(vertices), len(faces), props=properties, has_vertex_normals=True,
                   has_vertex_texcoords=True)  # fmt: skip
    mesh.add_attribute("vertex_color", 3, _flat(albedo))
    mesh.add_attribute("vertex_rough", 1, _flat(roughness))
    parameters = mi.traverse(mesh)
    parameters["faces"] = np.ascontiguousarray(faces, np.uint32).ravel()
    parameters["vertex_positions"] = _flat(vertices)
    parameters["vertex_normals"] = _flat(normals)
    parameters["vertex_texcoords"] = _flat(np.stack([roughness, np.zeros_like(roughness)], 1))
    parameters.update()
    return mesh


def sensor(camera: Camera, crop: tuple[int, int, int, int], samples: int) -> dict[str, Any]:
    """A Mitsuba sensor for ``camera`` (square pixels): box filter, only the pixels in ``crop`` (x0, y0, x1, y1)."""
    mi = mitsuba()
    intrinsics = camera.intrinsics.double().numpy()
    world_from_camera = camera.world_from_camera.double().numpy()
    x0, y0, x1, y1 = crop
    film = {
        "type": "hdrfilm",
        "width": camera.width,
        "height": camera.height,
        "crop_offset_x": x0,
        "crop_offset_y": y0,
        "crop_width": x1 - x0,
        "crop_height": y1 - y0,
        "pixel_format": "rgba",
        "component_format": "float32",
        "rfilter": {"type": "box"},
    }
    return {
        "type": "perspective",
        # Mitsuba's camera looks along +z with x to the left and y up.
        "to_world": mi.ScalarTransform4f((world_from_camera @ np.diag([-1.0, -1.0, 1.0, 1.0])).tolist()),
        "fov": float(np.degrees(2 * np.arctan(camera.width / 2 / intrinsics[0, 0]))),
        "fov_axis": "x",
        "principal_point_offset_x": float(0.5 - intrinsics[0, 2] / camera.width),
        "principal_point_offset_y": float(0.5 - intrinsics[1, 2] / camera.height),
        "near_clip": 0.05,
        "far_clip": 100.0,
        "film": film,
        "sampler": {"type": "independent", "sample_count": samples},
    }


def environment_light(radiance: np.ndarray) -> dict[str, Any]:
    """An environment map from linear ``radiance`` [H, 2H, 3]: top row = world -y, centre column = world +z."""
    mi = mitsuba()
    # Mitsuba has y up; half a turn about z brings its up to -y and keeps its centre column at +z.
    return {
        "type": "envmap",
        "bitmap": mi.Bitmap(np.ascontiguousarray(radiance, np.float32)),
        "to_world": mi.ScalarTransform4f().rotate([0, 0, 1], 180),
    }


def _flat(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, np.float32).ravel()
