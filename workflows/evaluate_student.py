"""Metrics of a student by the conventions that the teacher is measured by: surface and relit images."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from core.evaluation import Surface, alignment, mean_of, relit_metrics, surface_metrics
from core.frames import Frame, FrameSet, GBuffer, world_to_opengl_normals
from core.images import read_hdr, write_image
from core.metric_conventions import Perceptual
from explicit_branch.avatar import Avatar
from explicit_branch.rendering.light import ImageLight
from explicit_branch.rendering.renderer import Renderer


class LightCache:
    """Prefiltered lights by file, each prepared once."""

    def __init__(self, resolution: int, device: torch.device | str) -> None:
        self.resolution, self.device = resolution, device
        self._lights: dict[Path, ImageLight] = {}

    def __getitem__(self, path: Path) -> ImageLight:
        if path not in self._lights:
            self._lights[path] = ImageLight.from_image(read_hdr(path), resolution=self.resolution).to(self.device)
        return self._lights[path]


def surface_of(buffer: GBuffer, frame: Frame) -> Surface:
    """What the metrics look at."""
    return Surface(buffer.alpha, world_to_opengl_normals(buffer.normal, frame.camera), buffer.albedo, buffer.roughness)


def evaluate(
    avatar: Avatar, frames: FrameSet, test_frames: FrameSet | None = None, *, resolution: int = 128
) -> dict[str, float]:
    """``mask_iou``, ``normal_error_deg``, ``albedo_psnr`` on ``frames``; ``relit_psnr`` on ``test_frames``, if given.

    Args:
        avatar: trained.
        frames: with ground truth of shape and albedo.
        test_frames: with images and a light each.
        resolution: of the lights' cube maps.
    """
    values = evaluate_surface(avatar, frames)
    if test_frames is not None:
        values["relit_psnr"] = evaluate_relighting(avatar, test_frames, resolution=resolution)["relit_psnr"]
    return values


@torch.no_grad()
def evaluate_surface(avatar: Avatar, frames: FrameSet) -> dict[str, float]:
    """Means of ``mask_iou``, ``normal_error_deg`` and ``albedo_psnr`` over ``frames``."""
    renderer, rows = Renderer(avatar), []
    for frame in _on_device(avatar, frames, "measuring the student"):
        render = renderer.render(frame.pose, frame.camera, None)
        assert render.buffer is not None
        rows.append(surface_metrics(surface_of(render.buffer, frame), frame))
    return mean_of(rows)


@torch.no_grad()
def evaluate_relighting(
    avatar: Avatar,
    frames: FrameSet,
    *,
    resolution: int = 128,
    shading: str = "forward",
    occlusion: str = "ambient",
    folder: Path | None = None,
    perceptual: Mapping[str, Perceptual] | None = None,
) -> dict[str, float]:
    """Means of the relit metrics over ``frames``, each under its own HDRI, by the published protocol.

    Albedo is aligned with the ground truth per frame and channel before relighting; the same numbers without alignment
    carry the prefix ``unaligned/``.

    Args:
        avatar: trained.
        frames: with images, masks and a light each.
        resolution: of the lights' cube maps.
        shading: ``forward`` or ``deferred``.
        occlusion: one of ``OCCLUSION_KINDS``.
        folder: pictures go here, ``render_pbr_<name>.png``.
        perceptual: see :func:`core.evaluation.relit_metrics`.
    """
    lights, rows = LightCache(resolution, avatar.surfels.positions.device), []
    renderer = Renderer(avatar, occlusion=occlusion)
    for frame in _on_device(avatar, frames, "relighting the student"):
        if frame.hdri is None:
            continue
        light = lights[frame.hdri]
        image, buffer = relit(renderer, frame, light, shading)
        surface = surface_of(buffer, frame)
        row = surface_metrics(surface, frame)
        row |= {f"unaligned/{k}": v for k, v in relit_metrics(image, frame, perceptual).items()}
        gain = alignment(surface, frame)
        if gain is not None:
            image, _ = relit(renderer, frame, light, shading, gain)
        rows.append(row | relit_metrics(image, frame, perceptual))
        if folder is not None:
            write_image(folder / f"render_pbr_{frame.name}.png", image)
    return mean_of(rows)


def relit(
    renderer: Renderer, frame: Frame, light: ImageLight, shading: str, albedo_gain: Tensor | None = None
) -> tuple[Tensor, GBuffer]:
    """Picture [H, W, 3] (sRGB over white) and surface properties of ``frame`` under ``light``."""
    render = renderer.picture(
        frame.pose, frame.camera, light.prefiltered, shading=shading, gbuffer=True, albedo_gain=albedo_gain
    )
    assert render.image is not None
    assert render.buffer is not None
    return render.image, render.buffer


def _on_device(avatar: Avatar, frames: FrameSet, title: str) -> Iterable[Frame]:
    device = avatar.surfels.positions.device
    return (frame.to(device) for frame in tqdm(frames, total=len(frames), desc=title, unit="frame"))
