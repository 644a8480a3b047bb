"""The teacher's maps on disk: the published pictures, lossless floats, and a manifest."""

import hashlib
import json
import logging
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from core.camera import Camera
from core.color import composite, linear_to_srgb
from core.files import replacing, write_json_atomically, write_npz_atomically
from core.frames import Frame, FrameSet, world_to_opengl_normals
from core.images import write_image
from data.distillation import SCHEMA
from implicit_branch.rendering.frame import FrameMaps, Illumination, render_frame
from implicit_branch.teacher import Teacher

ROOT_RADIUS = 1.0
"""Metres behind the camera's distance to the body at which the published depth map puts the background."""

MOST_WRITERS = 16
"""Threads that compress and write frames."""

_log = logging.getLogger(__name__)


def write_maps(
    teacher: Teacher,
    frames: FrameSet,
    folder: Path,
    *,
    step: int,
    checkpoint: Path | None,
    illumination: Illumination | None = None,
    light: str = "training",
) -> None:
    """Render every frame of ``frames`` into ``folder`` (``it<step>-test``); frames that are complete are kept.

    The folder's manifest says what it was made from; a folder made from something else is rendered anew.

    Args:
        teacher: trained.
        frames: capture or motion.
        folder: pictures with alpha go to ``<folder>-with-alpha``, strips to ``<folder>-all``.
        step: the teacher's training step.
        checkpoint: its file, whose hash the manifest records.
        illumination: default: the training light.
        light: what the manifest calls it.
    """
    manifest = _manifest(teacher, frames, step=step, checkpoint=checkpoint, light=light)
    path = folder / "manifest.json"
    same = path.is_file() and path.read_text() == _as_json(manifest)
    if not same and path.is_file():
        _log.info("%s was made from another teacher or other frames: rendering it anew", folder)
        for stale in folder.glob("*-maps.npz"):
            stale.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    write_json_atomically(path, manifest)
    device = teacher.fields.articulation.box.device
    with _Writers() as writers:
        for stored in tqdm(frames, total=len(frames), desc=f"rendering {folder.name}", unit="frame"):
            if _complete(folder, stored.index).is_file():
                continue
            frame = stored.to(device)
            seed = stored.index if teacher.settings.shading.resample_light else 0
            maps = render_frame(teacher, frame.pose, frame.camera, illumination, seed=seed)
            writers.submit(_write_frame, folder, frame, maps)


def _complete(folder: Path, index: int) -> Path:
    """The file that a frame ends with."""
    return folder / f"{index:04d}-maps.npz"


def _write_frame(folder: Path, frame: Frame, maps: FrameMaps) -> None:
    _write_pictures(folder, f"{frame.index:04d}", maps, frame.camera, image=frame.image, mask=frame.mask)
    # Last, because its presence means that the frame is complete.
    write_npz_atomically(_complete(folder, frame.index), _floats(maps))


class _Writers:
    """Compresses and writes frames while the next ones are rendered; few enough wait that they fit into memory."""

    def __init__(self) -> None:
        count = min(MOST_WRITERS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(count)
        self._waiting: deque[Future] = deque()
        self._most = 2 * count

    def submit(self, write: Callable[..., None], *arguments: Any) -> None:
        """Call ``write`` in another thread. Raises what an earlier call raised."""
        self._waiting.append(self._pool.submit(write, *arguments))
        while len(self._waiting) > self._most:
            self._waiting.popleft().result()

    def __enter__(self) -> "_Writers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        for future in self._waiting:
            if kind is None:
                future.result()


def _manifest(teacher: Teacher, frames: FrameSet, *, step: int, checkpoint: Path | None, light: str) -> dict:
    camera = frames[0].camera
    return {
        "schema": SCHEMA,
        **asdict(teacher.identity),
        "subject": frames.subject,
        "width": camera.width,
        "height": camera.height,
        "frames": [{"name": f"{i:04d}", "index": i} for i in range(len(frames))],
        "teacher": hashlib.sha256(checkpoint.read_bytes()).hexdigest() if checkpoint else None,
        "step": step,
        "light": light,
        "pixel_centres": 0.5,
        "colour": "pictures sRGB, albedo linear; float maps linear",
    }


def _as_json(manifest: dict) -> str:
    return json.dumps(manifest, indent=2) + "\n"


def _floats(maps: FrameMaps) -> dict[str, np.ndarray]:
    named = {
        "pbr_rgb": maps.shaded,
        "rf_rgb": maps.radiance,
        "alpha": maps.alpha,
        "normal": maps.normal,
        "albedo": maps.albedo,
        "roughness": maps.roughness,
        "metallic": maps.metallic,
        "depth": maps.depth,
        "visibility": maps.visibility,
    }
    return {name: values.cpu().numpy().astype(np.float16) for name, values in named.items()}


def pictures(maps: FrameMaps, camera: Camera) -> dict[str, Tensor]:
    """The published pictures [H, W, 3] in [0, 1] by name.

    Colours lie over the frame's background (white, unless the light is shown), albedo over black; normals are OpenGL.
    """
    alpha = maps.alpha[..., None]
    normal = world_to_opengl_normals(maps.normal, camera) * alpha

    def picture(premultiplied: Tensor) -> Tensor:
        return linear_to_srgb(composite(premultiplied, maps.alpha, maps.background)).clamp(0, 1)

    def grey(values: Tensor) -> Tensor:
        return (values * maps.alpha + 1 - maps.alpha)[..., None].expand(-1, -1, 3)

    return {
        "rf_rgb": picture(maps.radiance),
        "pbr_rgb": picture(maps.shaded),
        "pbr_demod": picture(maps.demodulated),
        "pbr_albedo": maps.albedo * alpha,
        "pbr_metallic": grey(maps.metallic),
        "pbr_roughness": grey(maps.roughness),
        "visibility": maps.visibility[..., None].expand(-1, -1, 3),
        "depth": _false_colour(maps),
        "normal": (normal + 1) / 2,
    }


def _false_colour(maps: FrameMaps) -> Tensor:
    """Depth by colour between its least and greatest covered value (jet), black where nothing is covered."""
    inside = maps.alpha > 0.5
    if not bool(inside.any()):
        return torch.zeros_like(maps.radiance)
    low, high = maps.depth[inside].min(), maps.depth[inside].max()
    scaled = ((maps.depth - low) / (high - low).clamp_min(1e-6)).clamp(0, 1) * inside
    colours = cv2.applyColorMap((scaled.cpu().numpy() * 255).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    return torch.from_numpy(colours.copy()).float().to(inside.device) / 255 * inside[..., None]


def _write_pictures(
    folder: Path, name: str, maps: FrameMaps, camera: Camera, *, image: Tensor | None, mask: Tensor | None
) -> None:
    named = pictures(maps, camera)
    alphas = dict.fromkeys(named, maps.alpha)
    if image is not None and mask is not None:
        named, alphas = {"gt_rgb": image, **named}, {"gt_rgb": mask, **alphas}
    with_alpha, strips = (folder.with_name(folder.name + suffix) for suffix in ("-with-alpha", "-all"))
    for kind, picture in named.items():
        write_image(folder / f"{name}-{kind}.png", picture)
        write_image(with_alpha / f"{name}-{kind}.png", torch.cat([picture, alphas[kind][..., None]], -1))
    write_image(strips / f"{int(name)}.png", torch.cat(list(named.values()), 1))
    far = camera.position.norm() + ROOT_RADIUS
    published = maps.depth * maps.alpha + (1 - maps.alpha) * far
    with replacing(folder / f"{name}-depth.npy") as temporary, temporary.open("wb") as stream:
        np.save(stream, published.cpu().numpy().astype(np.float32))
