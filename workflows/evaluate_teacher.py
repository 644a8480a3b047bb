"""Metrics of a teacher: shape and albedo on training frames, relit images on test frames."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from core.color import composite, linear_to_srgb
from core.evaluation import Surface, alignment, mean_of, relit_metrics, surface_metrics
from core.frames import Frame, FrameSet, world_to_opengl_normals
from core.images import write_image
from core.metric_conventions import Perceptual
from implicit_branch.rendering.emitters import TextureLight
from implicit_branch.rendering.frame import FrameMaps, Illumination, render_frame
from implicit_branch.teacher import Teacher


def evaluate_surface(teacher: Teacher, frames: FrameSet) -> dict[str, float]:
    """Means of ``mask_iou``, ``normal_error_deg`` and ``albedo_psnr`` over ``frames``."""
    rows = []
    for stored in tqdm(frames, total=len(frames), desc="measuring the teacher", unit="frame"):
        frame = _on_device(teacher, stored)
        rows.append(surface_metrics(_surface(_materials(teacher, frame), frame), frame))
    return mean_of(rows)


def evaluate_relighting(
    teacher: Teacher,
    frames: FrameSet,
    *,
    samples_per_pixel: int,
    folder: Path | None = None,
    perceptual: Mapping[str, Perceptual] | None = None,
) -> dict[str, float]:
    """Means of the relit metrics over ``frames``, each under its own HDRI.

    The published protocol: albedo is aligned with the ground truth per frame and channel before relighting, and the
    same numbers without alignment carry the prefix ``unaligned/``.

    Args:
        teacher: trained.
        frames: with images, masks and a light each.
        samples_per_pixel: of the relit images.
        folder: pictures go here, ``render_pbr_<name>.png``.
        perceptual: see :func:`core.evaluation.relit_metrics`.
    """
    rows = []
    for stored in tqdm(frames, total=len(frames), desc="relighting the teacher", unit="frame"):
        frame = _on_device(teacher, stored)
        light = TextureLight(hdr_filepath=frame.hdri).to(frame.pose.transl.device)
        illumination = Illumination.of_environment(teacher, light, samples_per_pixel=samples_per_pixel)
        maps = render_frame(teacher, frame.pose, frame.camera, illumination)
        surface = _surface(maps, frame)
        row = surface_metrics(surface, frame)
        row |= {f"unaligned/{k}": v for k, v in relit_metrics(relit_image(maps), frame, perceptual).items()}
        gain = alignment(surface, frame)
        if gain is not None:
            maps = render_frame(teacher, frame.pose, frame.camera, illumination, albedo_gain=gain)
        rows.append(row | relit_metrics(relit_image(maps), frame, perceptual))
        if folder is not None:
            write_image(folder / f"render_pbr_{frame.name}.png", relit_image(maps))
    return mean_of(rows)


def relit_image(maps: FrameMaps) -> Tensor:
    """The physically based image over white, sRGB [H, W, 3]."""
    return linear_to_srgb(composite(maps.shaded, maps.alpha, 1.0)).clamp(0, 1)


def _materials(teacher: Teacher, frame: Frame) -> FrameMaps:
    """The frame's maps with the cheapest possible shading."""
    shading = replace(teacher.settings.shading, samples_per_pixel=1, global_illumination=False)
    return render_frame(teacher, frame.pose, frame.camera, Illumination(teacher.light, shading, learned=True))


def _surface(maps: FrameMaps, frame: Frame) -> Surface:
    # Albedo over black, as in the published maps and in the ground truth, whose edges are averages too.
    albedo = maps.albedo * maps.alpha[..., None]
    return Surface(maps.alpha, world_to_opengl_normals(maps.normal, frame.camera), albedo, maps.roughness)


def _on_device(teacher: Teacher, frame: Frame) -> Frame:
    return frame.to(teacher.fields.articulation.box.device)
