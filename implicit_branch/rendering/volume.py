"""Volume rendering of the posed field."""

from typing import NamedTuple

import torch
from torch import Tensor

from gs_ir.marching import RaySamples, render_weights
from gs_ir.packed import accumulate
from implicit_branch.deformation.articulation import PosedSpace, carry_normals
from implicit_branch.fields.fields import Fields
from implicit_branch.sampling.rays import PrimarySampling, RayBundle, keep, sample_rays


class FieldSamples(NamedTuple):
    """The field along rays: S intervals that all lie in the body's neighbourhood."""

    intervals: RaySamples
    weights: Tensor
    """[S] compositing weights."""
    canonical: Tensor
    """[S, 3]"""
    sdf: Tensor
    """[S] metres."""
    gradient: Tensor
    """[S, 3] canonical gradient of the distance, not normalised."""
    normal: Tensor
    """[S, 3] unit, world."""
    geometry: Tensor
    """[S, G] geometry feature."""
    appearance: Tensor
    """[S, F] appearance feature."""
    radiance: Tensor
    """[S, 3] linear, towards the eye."""


class Rendered(NamedTuple):
    """Composited rays, premultiplied by coverage."""

    radiance: Tensor
    """[R, 3] linear."""
    alpha: Tensor
    """[R] coverage."""
    depth: Tensor
    """[R] sum of w t, metres along the ray."""
    normal: Tensor
    """[R, 3] sum of w n, world."""
    samples: FieldSamples


def render_rays(
    fields: Fields,
    rays: RayBundle,
    space: PosedSpace,
    sampling: PrimarySampling,
    *,
    generator: torch.Generator | None = None,
) -> Rendered:
    """Volume-render the radiance field along ``rays``.

    Args:
        fields: the canonical fields.
        rays: R world rays whose frame_index counts the frames of ``space``.
        space: the posed frames.
        sampling: densities of the samples.
        generator: shifts the coarse samples of each ray at random; None puts them mid-step.
    """
    shape = (len(rays),)
    if generator is None:
        jitter = rays.origins.new_full(shape, 0.5)
    else:
        jitter = torch.rand(shape, generator=generator, device=rays.origins.device, dtype=rays.origins.dtype)

    def alpha(points: Tensor, frame_index: Tensor, lengths: Tensor) -> Tensor:
        return fields.density.alpha(fields.layer(points, frame_index, space).sdf, lengths)

    intervals = sample_rays(rays, space.seeds.counts, space.seeds.boxes, alpha, sampling, jitter=jitter)
    samples = evaluate(fields, rays, space, intervals)
    return composite(samples)


def evaluate(fields: Fields, rays: RayBundle, space: PosedSpace, intervals: RaySamples) -> FieldSamples:
    """Evaluate the fields with gradients at the middle of ``intervals``; those outside the volume are dropped."""
    frame_index = rays.frame_index[intervals.ray_indices]
    points = rays.at(intervals.ray_indices, intervals.midpoints)
    layer = fields.layer(points, frame_index, space, distances=False)
    # Points that no canonical point is carried to are empty: leaving them out changes nothing.
    intervals, layer, frame_index = keep(intervals, layer.valid), layer.where_valid(), frame_index[layer.valid]
    canonical = fields.articulation.attach_pose(layer.canonical, layer.jacobian, frame_index, space)
    canonical, surface = fields.surface(canonical, frame_index, space)
    alphas = fields.density.alpha(surface.sdf, intervals.t_ends - intervals.t_starts)
    weights = render_weights(alphas, intervals.packed_info)
    normal = carry_normals(surface.gradient, layer.jacobian)
    appearance = fields.radiance.appearance(canonical)
    view_dir = -rays.directions[intervals.ray_indices]
    radiance = fields.radiance(appearance, surface.features, normal, view_dir)
    return FieldSamples(
        intervals=intervals,
        weights=weights,
        canonical=canonical,
        sdf=surface.sdf,
        gradient=surface.gradient,
        normal=normal,
        geometry=surface.features,
        appearance=appearance,
        radiance=radiance,
    )


def composite(samples: FieldSamples) -> Rendered:
    """Accumulate along the rays: C = sum w c (Max 1995)."""
    ones = torch.ones_like(samples.weights)[:, None]
    depth = samples.intervals.midpoints[:, None]
    values = torch.cat([samples.radiance, ones, depth, samples.normal], -1)
    summed = accumulate(samples.weights, values, samples.intervals.packed_info)
    return Rendered(summed[:, :3], summed[:, 3], summed[:, 4], summed[:, 5:8], samples)


def first_rays(samples: FieldSamples, rays: int) -> FieldSamples:
    """The samples of the first ``rays`` rays."""
    packed_info = samples.intervals.packed_info[:rays]
    end = int(packed_info[-1].sum()) if rays else 0
    intervals = samples.intervals
    cut = RaySamples(intervals.t_starts[:end], intervals.t_ends[:end], intervals.ray_indices[:end], packed_info)
    return FieldSamples(cut, *(values[:end] for values in samples[1:]))
