"""Surface elements, whether surfels or pixels: their properties as raster channels, and their shading."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from core.camera import Camera
from core.frames import GBuffer
from explicit_branch.rendering.shading import Shading, ShadingOptions, oriented_normals, shade
from explicit_branch.surfels import SurfaceMaterial
from gs_ir.cubemap import PrefilteredLight

ALPHA_FLOOR = 1e-4
"""Coverage below which a pixel holds no surface."""

PROPERTIES = {"albedo": 3, "roughness": 1, "metallic": 1, "normal": 3, "occlusion": 1}
"""Raster channels of a surface and their widths, in order."""


@dataclass(frozen=True)
class Surface:
    """What shading needs to know about N surface elements."""

    normals: Tensor
    """[N, 3] unit, world, towards the viewer."""
    to_viewer: Tensor
    """[N, 3] unit, world."""
    material: SurfaceMaterial
    visibility: Tensor | None
    """[N] ambient visibility; None: open."""

    def channels(self) -> dict[str, Tensor]:
        """Properties as raster channels [N, c] by name: ``PROPERTIES``."""
        material = self.material
        visibility = torch.ones_like(material.roughness) if self.visibility is None else self.visibility
        return {
            "albedo": material.albedo,
            "roughness": material.roughness[:, None],
            "metallic": material.metallic[:, None],
            "normal": self.normals,
            "occlusion": visibility[:, None],
        }

    def shaded(self, light: PrefilteredLight, options: ShadingOptions) -> Shading:
        """Linear radiance [N, 3] towards the viewer."""
        return shade(
            self.normals,
            self.to_viewer,
            albedo=self.material.albedo,
            roughness=self.material.roughness,
            metallic=self.material.metallic,
            occlusion=self.visibility,
            light=light,
            options=replace(options, normals="given"),
        )


def gather(images: dict[str, Tensor], alpha: Tensor, depth: Tensor, camera: Camera) -> GBuffer:
    """Averages over the covered part of each pixel, from the premultiplied ``images`` of ``Surface.channels``.

    ``alpha`` [H, W] is the coverage, ``depth`` [H, W] premultiplied and along the camera's axis.
    """
    coverage = alpha.clamp_min(ALPHA_FLOOR)[..., None]
    _, directions = camera.all_rays()
    along_ray = 1 / (directions @ camera.camera_from_world[2, :3])
    return GBuffer(
        alpha=alpha,
        depth=depth / coverage[..., 0] * along_ray,
        normal=functional.normalize(images["normal"], dim=-1, eps=ALPHA_FLOOR),
        albedo=images["albedo"] / coverage,
        roughness=(images["roughness"] / coverage)[..., 0],
        metallic=(images["metallic"] / coverage)[..., 0],
        occlusion=(images["occlusion"] / coverage)[..., 0],
    )


def shade_pixels(buffer: GBuffer, camera: Camera, light: PrefilteredLight, options: ShadingOptions) -> Shading:
    """Deferred shading of the covered pixels; premultiplied linear radiance [H, W, 3]."""
    inside = (buffer.alpha > ALPHA_FLOOR).nonzero(as_tuple=True)
    _, directions = camera.pixel_rays(inside[1], inside[0])
    material = SurfaceMaterial(buffer.albedo[inside], buffer.roughness[inside], buffer.metallic[inside])
    normals = oriented_normals(buffer.normal[inside], -directions, options.normals)
    visibility = None if buffer.occlusion is None else buffer.occlusion[inside]
    lobes = Surface(normals, -directions, material, visibility).shaded(light, options)
    alpha = buffer.alpha[inside][:, None]
    empty = torch.zeros_like(buffer.normal)
    return Shading(*(empty.index_put(inside, lobe * alpha) for lobe in (lobes.diffuse, lobes.specular)))
