"""Volume rendering of the posed field."""

from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from gs_ir.marching import RaySamples, render_weights
from gs_ir.packed import accumulate
from implicit_branch.deformation.articulation import Adjugate, PosedSpace, carry_normals
from implicit_branch.fields.fields import Fields
from implicit_branch.sampling.lists import EXACT, Lists
from implicit_branch.sampling.rays import PrimarySampling, RayBundle, keep, sample_rays


class FieldSamples(NamedTuple):
    """The field along rays: S intervals that all lie in the body's neighbourhood.

    The last ones may be unused: lists of expected length. They are of no ray and have no weight.
    """

    intervals: RaySamples
    used: Tensor
    """[S] 1 for intervals that count, 0 for unused ones."""
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
    lists: Lists = EXACT,
) -> Rendered:
    """Volume-render the radiance field along ``rays``.

    Args:
        fields: the canonical fields.
        rays: R world rays whose frame_index counts the frames of ``space``.
        space: the posed frames.
        sampling: densities of the samples.
        generator: shifts the coarse samples of each ray at random; None puts them mid-step.
        lists: how samples are listed.
    """
    shape = (len(rays),)
    if generator is None:
        jitter = rays.origins.new_full(shape, 0.5)
    else:
        jitter = torch.rand(shape, generator=generator, device=rays.origins.device, dtype=rays.origins.dtype)

    rounds = count()

    def alpha(points: Tensor, frame_index: Tensor, lengths: Tensor) -> Tensor:
        name = f"roots of round {next(rounds)}"
        return fields.density.alpha(fields.distance(points, frame_index, space, lists, name), lengths)

    intervals = sample_rays(rays, space.seeds.counts, space.seeds.boxes, alpha, sampling, jitter=jitter, lists=lists)
    return composite(evaluate(fields, rays, space, intervals, sampling, lists))


def evaluate(
    fields: Fields,
    rays: RayBundle,
    space: PosedSpace,
    intervals: RaySamples,
    sampling: PrimarySampling,
    lists: Lists = EXACT,
) -> FieldSamples:
    """Evaluate the fields with gradients at the middle of ``intervals`` that can matter.

    Points that no canonical point is carried to are empty: leaving them out changes nothing. Negligible intervals, in
    front of and behind the surface, are dropped as ``sampling`` says.
    """
    with torch.no_grad():
        frame_index = rays.frame_index[intervals.ray_indices]
        points = rays.at(intervals.ray_indices, intervals.midpoints)
        layer = fields.layer(points, frame_index, space, distances=sampling.dropping, lists=lists)
        wanted = layer.valid
        if sampling.dropping:
            alphas = fields.density.alpha(layer.sdf, intervals.t_ends - intervals.t_starts)
            wanted = wanted & (render_weights(alphas, intervals.packed_info) > sampling.negligible)
        kept = keep(intervals, wanted, lists)
        intervals, frame_index = kept.samples, frame_index[kept.rows]
        jacobian = layer.jacobian[kept.rows]
        inverse = Adjugate.of(jacobian)
    canonical = fields.articulation.attach_pose(layer.canonical[kept.rows], inverse, frame_index, space)
    canonical, surface = fields.surface(canonical, frame_index, space)
    alphas = fields.density.alpha(surface.sdf, intervals.t_ends - intervals.t_starts)
    weights = render_weights(alphas, intervals.packed_info)
    normal = carry_normals(surface.gradient, inverse)
    appearance = fields.radiance.appearance(canonical)
    view_dir = -rays.directions[intervals.ray_indices]
    radiance = fields.radiance(appearance, surface.features, normal, view_dir)
    return FieldSamples(
        intervals=intervals,
        used=torch.ones_like(surface.sdf) if kept.used is None else kept.used.to(surface.sdf.dtype),
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
    depth = samples.intervals.midpoints[:, None]
    values = torch.cat([samples.radiance, samples.used[:, None], depth, samples.normal], -1)
    summed = accumulate(samples.weights, values, samples.intervals.packed_info)
    return Rendered(summed[:, :3], summed[:, 3], summed[:, 4], summed[:, 5:8], samples)


def first_rays(samples: FieldSamples, rays: int, lists: Lists = EXACT) -> FieldSamples:
    """The samples of the first ``rays`` rays."""
    intervals = samples.intervals
    packed_info = intervals.packed_info[:rays]
    total = packed_info[-1].sum() if rays else intervals.packed_info.new_zeros(())
    lists.found("shaded intervals", total)
    end = min(lists.room("shaded intervals"), len(samples.used)) or int(total)
    start = packed_info[:, 0].clamp_max(end)
    packed_info = torch.stack([start, packed_info[:, 1].minimum(end - start)], 1)
    cut = RaySamples(intervals.t_starts[:end], intervals.t_ends[:end], intervals.ray_indices[:end], packed_info)
    rest = FieldSamples(cut, *(values[:end] for values in samples[1:]))
    if lists.room("shaded intervals") == 0:
        return rest
    own = torch.arange(end, device=total.device) < total
    return rest._replace(used=rest.used * own, weights=torch.where(own, rest.weights, 0))
