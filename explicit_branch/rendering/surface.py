"""Surface elements, whether surfels or pixels: their properties as raster channels, and their shading."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from core.camera import Camera
from core.frames import GBuffer
from core.vectors import unit
from explicit_branch.rendering.shading import Shading, ShadingOptions, oriented_normals, shade
from explicit_branch.surfels import SurfaceMaterial
from gs_ir.cubemap import PrefilteredLight

ALPHA_FLOOR = 1e-4
"""Coverage below which a pixel holds no surface."""

PROPERTIES = {"material": 5, "normal": 3, "occlusion": 1}
"""Raster channels of a surface and their widths, in order; materials are albedo, roughness, metallic."""


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
    lobe_visibility: Tensor | None = None
    """[N, 6] shares of diffuse and specular light (rgb each) that arrive; they take the place of ``visibility``."""

    def channels(self) -> dict[str, Tensor]:
        """Raster channels [N, c] by name: ``PROPERTIES``, and ``lobes`` where each has its visibility."""
        material = self.material
        visibility = torch.ones_like(material.roughness) if self.visibility is None else self.visibility
        lobes = {} if self.lobe_visibility is None else {"lobes": self.lobe_visibility}
        return {
            "material": material.stacked,
            "normal": self.normals,
            "occlusion": visibility[:, None],
            **lobes,
        }

    def shaded(self, light: PrefilteredLight, options: ShadingOptions) -> Shading:
        """Linear radiance [N, 3] towards the viewer."""
        lobes = shade(
            self.normals,
            self.to_viewer,
            albedo=self.material.albedo,
            roughness=self.material.roughness,
            metallic=self.material.metallic,
            occlusion=self.visibility if self.lobe_visibility is None else None,
            light=light,
            options=replace(options, normals="given"),
        )
        if self.lobe_visibility is None:
            return lobes
        diffuse, specular = self.lobe_visibility.split(3, -1)
        return Shading(lobes.diffuse * diffuse, lobes.specular * specular)


def gather(images: dict[str, Tensor], alpha: Tensor, depth: Tensor, camera: Camera) -> GBuffer:
    """Averages over the covered part of each pixel, from the premultiplied ``images`` of ``Surface.channels``.

    ``alpha`` [H, W] is the coverage, ``depth`` [H, W] premultiplied and along the camera's axis.
    """
    per_coverage = alpha.clamp_min(ALPHA_FLOOR).reciprocal()
    albedo, roughness, metallic = (images["material"] * per_coverage[..., None]).split([3, 1, 1], -1)
    return GBuffer(
        alpha=alpha,
        depth=depth * per_coverage * camera.length_per_depth,
        normal=unit(images["normal"], ALPHA_FLOOR),
        albedo=albedo,
        roughness=roughness.squeeze(-1),
        metallic=metallic.squeeze(-1),
        occlusion=images["occlusion"].squeeze(-1) * per_coverage,
        lobe_visibility=images["lobes"] * per_coverage[..., None] if "lobes" in images else None,
    )


def shade_pixels(buffer: GBuffer, camera: Camera, light: PrefilteredLight, options: ShadingOptions) -> Shading:
    """Deferred shading of the covered pixels; premultiplied linear radiance [H, W, 3].

    Where gradients are wanted every pixel is shaded: to select the covered ones would wait for their number.
    """
    covered = buffer.alpha > ALPHA_FLOOR
    if buffer.alpha.requires_grad:
        return _shade_all(buffer, covered, camera, light, options)
    inside = covered.nonzero(as_tuple=True)
    to_viewer = -camera.directions[inside]
    material = SurfaceMaterial(buffer.albedo[inside], buffer.roughness[inside], buffer.metallic[inside])
    visibility, shares = (None if x is None else x[inside] for x in (buffer.occlusion, buffer.lobe_visibility))
    surface = Surface(buffer.normal[inside], to_viewer, material, visibility, shares)
    lobes = _shade(surface, light, options)
    alpha = buffer.alpha[inside][:, None]
    empty = torch.zeros_like(buffer.normal)
    return Shading(*(empty.index_put(inside, lobe * alpha) for lobe in (lobes.diffuse, lobes.specular)))


def _shade_all(
    buffer: GBuffer, covered: Tensor, camera: Camera, light: PrefilteredLight, options: ShadingOptions
) -> Shading:
    to_viewer = -camera.directions.reshape(-1, 3)
    weight = torch.where(covered, buffer.alpha, 0).reshape(-1, 1)
    # An empty pixel has no normal: facing the viewer, it has finite derivatives, which its weight of zero removes.
    normals = torch.where(covered.reshape(-1, 1), buffer.normal.reshape(-1, 3), to_viewer)
    material = SurfaceMaterial(buffer.albedo.reshape(-1, 3), buffer.roughness.reshape(-1), buffer.metallic.reshape(-1))
    visibility = None if buffer.occlusion is None else buffer.occlusion.reshape(-1)
    shares = None if buffer.lobe_visibility is None else buffer.lobe_visibility.reshape(-1, 6)
    lobes = _shade(Surface(normals, to_viewer, material, visibility, shares), light, options)
    shape = buffer.normal.shape
    return Shading(*((lobe * weight).reshape(shape) for lobe in (lobes.diffuse, lobes.specular)))


def _shade(surface: Surface, light: PrefilteredLight, options: ShadingOptions) -> Shading:
    normals = oriented_normals(surface.normals, surface.to_viewer, options.normals)
    return replace(surface, normals=normals).shaded(light, options)
