"""Physically based shading of volume-rendered rays by Monte-Carlo integration."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from core import brdf
from gs_ir.marching import resample
from gs_ir.packed import accumulate
from gs_ir.scattering import FarLight, draw_scatter_points, gather_scattered, scatter_rays, surface_rows
from implicit_branch.deformation.proxy_mesh import ProxyTracer
from implicit_branch.fields.material import Material
from implicit_branch.rendering.emitters import Emitter
from implicit_branch.rendering.scatterers import SCATTERERS, STRATEGIES
from implicit_branch.rendering.secondary import OFFSET, Bounce, draw_seed, trace
from implicit_branch.rendering.volume import FieldSamples
from implicit_branch.sampling.directions import stratified_uniforms
from implicit_branch.sampling.lists import EXACT, Lists
from implicit_branch.sampling.rays import RayBundle
from implicit_branch.settings import ShadingSettings


class Shaded(NamedTuple):
    """Composited shading, premultiplied by coverage."""

    radiance: Tensor
    """[R, 3] linear."""
    demodulated: Tensor
    """[R, 3] linear; diffuse light without the albedo, plus specular."""
    visibility: Tensor
    """[R] cosine-weighted share of the environment that is not hidden by the body."""


class Draws(NamedTuple):
    """Scattering points: D draws of the rays' compositing weights."""

    ray: Tensor
    """[D] int64."""
    interval: Tensor
    """[D] int64, sample whose surface properties hold."""
    weight: Tensor
    """[D] share of the pixel; differentiable."""
    depth: Tensor
    """[D] metres along the ray."""
    row: Tensor
    """[D] int64, number among the R K draws of all rays."""


def composite_materials(samples: FieldSamples, material: Material) -> Material:
    """Sum of w times each property along R rays, premultiplied: albedo [R, 3], roughness [R], metallic [R]."""
    values = torch.cat([material.albedo, material.roughness[:, None], material.metallic[:, None]], -1)
    summed = accumulate(samples.weights, values, samples.intervals.packed_info)
    return Material(summed[:, :3], summed[:, 3], summed[:, 4])


def shade(
    rays: RayBundle,
    samples: FieldSamples,
    material: Material,
    light: Emitter,
    *,
    tracer: ProxyTracer,
    settings: ShadingSettings,
    bounce: Bounce | None,
    generator: torch.Generator | None,
    lists: Lists = EXACT,
) -> Shaded:
    """Radiance that the body scatters towards the eye.

    Scattering points are drawn along each ray from its compositing weights, one light direction per point. Gradients
    reach weights, normals, materials and the light; depths, directions, visibility and bounced light carry none.
    Where no gradient is asked for, and the light is one that they read, kernels of few launches do the same with other
    random numbers.

    Args:
        rays: R rays.
        samples: their field samples.
        material: of the samples.
        light: the environment.
        tracer: the proxy meshes of the rays' frames.
        settings: numbers of samples and distances.
        bounce: radiance of the body where secondary rays hit it; None for direct light only.
        generator: of the directions; None repeats the same ones for every pixel.
        lists: how scattering points and hits are listed.
    """
    read = None if torch.is_grad_enabled() or generator is None else light.far_light()
    if read is not None and generator is not None:
        table = surface_rows(samples.normal, *material)
        return _shade_without_gradient(
            rays, samples, table, read, tracer=tracer, settings=settings, bounce=bounce, generator=generator
        )
    count = settings.samples_per_pixel
    draws = draw_points(rays, samples, count, tracer, lists)
    uniforms = _uniforms(len(rays), count, generator, rays.origins).flatten(0, 1)[draws.row]
    normal, surface = _surface(samples, material, draws.interval)
    view = -rays.directions[draws.ray]
    fixed = Material(*(m.detach() for m in surface))
    directions, density = SCATTERERS[settings.render_mode](normal.detach(), view, fixed, light, uniforms)
    origins = torch.add(rays.at(draws.ray, draws.depth), normal.detach(), alpha=OFFSET)
    frames = rays.frame_index[draws.ray]
    visible, indirect = trace(
        tracer, origins, directions, frames, near=settings.near, far=settings.far, bounce=bounce, lists=lists
    )
    arriving = light.radiance(directions) * visible[:, None]
    if indirect is not None:
        arriving = arriving + indirect
    share = (draws.weight / density.clamp_min(1e-6))[:, None]
    f0 = brdf.base_reflectance(surface.albedo, surface.metallic)
    diffuse, specular = brdf.eval_lobes_cosine(normal, view, directions, f0, surface.roughness)
    diffuse, reaching = diffuse[:, None], share * arriving
    body_colour = (1 - surface.metallic[:, None]) * surface.albedo
    radiance = reaching * (body_colour * diffuse + specular)
    demodulated = reaching * (diffuse + specular)
    open_share = share * diffuse * visible[:, None]
    summed = radiance.new_zeros(len(rays), 7)
    summed = summed.index_add(0, draws.ray, torch.cat([radiance, demodulated, open_share], -1))
    return Shaded(summed[:, :3], summed[:, 3:6], summed[:, 6])


def _shade_without_gradient(
    rays: RayBundle,
    samples: FieldSamples,
    surface: Tensor,
    light: FarLight,
    *,
    tracer: ProxyTracer,
    settings: ShadingSettings,
    bounce: Bounce | None,
    generator: torch.Generator,
) -> Shaded:
    """:func:`shade` of samples with rows ``surface`` [S, 8]. Its secondary rays lie draw by draw."""
    count, intervals = settings.samples_per_pixel, samples.intervals
    coverage = accumulate(samples.weights, torch.ones_like(samples.weights)[:, None], intervals.packed_info)[:, 0]
    # Rays of less coverage than the first stratum's centre scatter nowhere; most rays near a body are among them.
    covered = (coverage > 0.49 / count).nonzero()[:, 0]
    seen, intervals = rays[covered], replace(intervals, packed_info=intervals.packed_info[covered])
    points = draw_scatter_points(intervals, samples.weights, first_depth(seen, tracer), count)
    drawn = scatter_rays(
        seen.origins, seen.directions, points, surface, light, strategy=STRATEGIES[settings.render_mode],
        offset=OFFSET, seed=draw_seed(generator, rays.origins.device),
    )  # fmt: skip
    frames = seen.frame_index.repeat(count)
    visible, indirect = trace(
        tracer, drawn.origins, drawn.directions, frames, near=settings.near, far=settings.far, bounce=bounce
    )
    found = gather_scattered(seen.directions, points, surface, light, drawn, visible=visible, indirect=indirect)
    summed = found.new_zeros(len(rays), found.shape[1]).index_copy_(0, covered, found)
    return Shaded(summed[:, :3], summed[:, 3:6], summed[:, 6])


def _surface(samples: FieldSamples, material: Material, rows: Tensor) -> tuple[Tensor, Material]:
    """Normal [D, 3] and material at ``rows`` [D] of the samples.

    In one piece, and by ``index_select``, whose gradient is added where it belongs; that of indexing is sorted first.
    """
    table = torch.cat([samples.normal, material.albedo, material.roughness[:, None], material.metallic[:, None]], -1)
    chosen = table.index_select(0, rows)
    return chosen[:, :3], Material(chosen[:, 3:6], chosen[:, 6], chosen[:, 7])


def draw_points(rays: RayBundle, samples: FieldSamples, count: int, tracer: ProxyTracer, lists: Lists = EXACT) -> Draws:
    """Scattering points of R rays, ``count`` positions of the weights' CDF each; the background's are left out.

    A point is never placed behind the proxy's first surface, so that secondary rays start outside of the body.
    """
    weights = samples.weights
    depth, interval = (x.flatten() for x in resample(samples.intervals, weights.detach(), count))
    row, used = lists.select("scattering points", interval >= 0)
    depth, interval, ray = depth[row], interval[row].clamp_min(0), row // count
    ones = torch.ones_like(depth) if used is None else used.to(depth.dtype)
    drawn = torch.zeros_like(weights).index_add(0, interval, ones)
    share = (weights / drawn.clamp_min(1)).index_select(0, interval) * ones
    return Draws(ray, interval, share, depth.minimum(first_depth(rays, tracer)[ray]), row)


@torch.no_grad()
def first_depth(rays: RayBundle, tracer: ProxyTracer) -> Tensor:
    """Depth [R] in metres where rays enter the proxy mesh of their frame, infinite for those that miss it."""
    return tracer.entry(rays.origins, rays.directions, rays.frame_index)


def _uniforms(rays: int, count: int, generator: torch.Generator | None, like: Tensor) -> Tensor:
    """[rays, count, 3] in [0, 1), stratified per ray over the first two and, independently, over the third."""
    plane = stratified_uniforms(rays, count, generator, like)
    if generator is None:
        line = torch.arange(count, device=like.device).flip(0).expand(rays, count) + 0.5
    else:
        order = torch.rand(rays, count, generator=generator, device=like.device).argsort(1)
        line = order + torch.rand(rays, count, generator=generator, device=like.device)
    return torch.cat([plane, (line / count).to(like.dtype)[..., None]], -1)
