"""The pictures of a relit frame under the published folder and file names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from core.color import composite, linear_to_srgb
from core.frames import Frame, world_to_opengl_normals
from core.images import write_hdr, write_image
from explicit_branch.losses import depth_normals
from explicit_branch.rendering.light import ImageLight
from explicit_branch.rendering.renderer import Render
from gs_ir.cubemap import equirect_to_cubemap

PREVIEW_RESOLUTION = 256
STEM = "c01_f{frame:06d}.png"
"""Camera and frame number; ``{frame}`` is filled in by the caller."""


def frame_pictures(
    renders: Mapping[str, Render], frame: Frame, light: ImageLight, gain: Tensor | None
) -> dict[str, Tensor]:
    """Path below the test folder → picture [H, W, 3] or [H, W] in [0, 1]. Materials are linear, colours sRGB.

    Args:
        renders: of ``forward`` (with colour pathway and G-buffer) and ``deferred`` shading.
        frame: whose camera was used.
        light: for the background.
        gain: [3] that aligned the albedo with a ground truth, already in ``renders``.
    """
    forward, deferred = renders["forward"], renders["deferred"]
    buffer, lobes = forward.buffer, deferred.lobes
    assert buffer is not None
    assert lobes is not None
    assert forward.image is not None
    assert forward.colour is not None
    assert deferred.image is not None
    alpha = buffer.alpha
    covered = alpha[..., None]
    unscaled = buffer.albedo if gain is None else buffer.albedo / gain.clamp_min(1e-6)
    from_depth = depth_normals(forward.raster.median_depth, frame.camera) * covered
    parts = [linear_to_srgb(composite(lobe, alpha, 0.0).clamp(0, 1)) for lobe in (lobes.diffuse, lobes.specular)]
    pictures = {
        f"renders/render_{STEM}": forward.colour,
        f"renders_pbr/render_pbr_{STEM}": forward.image,
        f"renders_deferred_pbr/render_pbr_{STEM}": torch.cat([deferred.image, *parts], 1),
        f"renders_deferred_pbr_bg/render_pbr_{STEM}": over_environment(deferred, frame, light),
        f"opacity/opacity_{STEM}": alpha,
        f"depth/depth_{STEM}": false_colour(buffer.depth, alpha),
        f"normal/normal_{STEM}": encoded_normals(forward.raster.normal, frame),
        f"normal_splat/normal_splat_{STEM}": encoded_normals(buffer.normal * covered, frame),
        f"normal_depth/normal_depth_{STEM}": encoded_normals(from_depth, frame),
        f"albedo/albedo_{STEM}": unscaled * covered,
        f"roughness/roughness_{STEM}": buffer.roughness * alpha,
        f"metallic/metallic_{STEM}": buffer.metallic * alpha,
    }
    if gain is not None:
        pictures[f"albedo/albedo_aligned_{STEM}"] = buffer.albedo * covered
    if buffer.occlusion is not None:
        pictures[f"occlusion/occlusion_{STEM}"] = buffer.occlusion * alpha
    return pictures


def over_environment(render: Render, frame: Frame, light: ImageLight) -> Tensor:
    """The shaded body in front of the environment [H, W, 3], composited in linear light, sRGB."""
    assert render.radiance is not None
    _, directions = frame.camera.all_rays()
    return linear_to_srgb(composite(render.radiance, render.alpha, light.radiance(directions)).clamp(0, 1))


def encoded_normals(normals: Tensor, frame: Frame) -> Tensor:
    """World normals [H, W, 3] as (n + 1) / 2 in OpenGL camera axes."""
    return (world_to_opengl_normals(normals, frame.camera) + 1) / 2


def false_colour(depth: Tensor, alpha: Tensor) -> Tensor:
    """Depth [H, W] in turbo colours over the range of the body, black elsewhere; [H, W, 3]."""
    inside = alpha > 0.5
    if not bool(inside.any()):
        return torch.zeros(*depth.shape, 3)
    low, high = depth[inside].min(), depth[inside].max()
    level = ((depth - low) / (high - low).clamp_min(1e-6)).clamp(0, 1) * inside
    grey = (level * 255).to(torch.uint8).cpu().numpy()
    colours = cv2.applyColorMap(grey, cv2.COLORMAP_TURBO)[..., ::-1].astype(np.float32) / 255
    return torch.from_numpy(np.ascontiguousarray(colours)) * inside.cpu()[..., None]


@dataclass(frozen=True)
class LightPictures:
    """Previews of the lights under the published names."""

    trained: Tensor | None
    """[6, R, R, 3] the light of the training."""
    relight: Tensor
    """[H, W, 3] equirectangular."""

    def write(self, folder: Path) -> None:
        """Write ``cubemap_256_{origin,relight,relight_IA}`` into ``folder``: PNG strips of faces, EXR of the map."""
        if self.trained is not None:
            write_image(folder / "cubemap_256_origin.png", face_strip(self.trained))
        faces = equirect_to_cubemap(self.relight, PREVIEW_RESOLUTION, samples=1)
        write_image(folder / "cubemap_256_relight.png", face_strip(faces))
        write_image(folder / "cubemap_256_relight_IA.png", linear_to_srgb(self.relight.clamp(0, 1)))
        write_hdr(folder / "cubemap_256_relight_IA.exr", self.relight)


def face_strip(faces: Tensor) -> Tensor:
    """Cube map [6, R, R, 3] as six faces side by side [R, 6 R, 3], sRGB."""
    return linear_to_srgb(torch.cat(list(faces), 1).clamp(0, 1))
