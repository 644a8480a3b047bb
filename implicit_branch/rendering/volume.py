"""Volume rendering of the posed field."""

from itertools import count
from typing import NamedTuple

import torch
from torch import Tensor

from gs_ir import normals
from gs_ir.marching import RaySamples, insert_samples, march, render_weights, resample
from gs_ir.packed import accumulate
from implicit_branch.deformation.articulation import Adjugate, PosedSpace, carry_normals
from implicit_branch.fields.fields import Fields, SurfaceLayer
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

    if lists is EXACT and sampling.dropping:
        intervals, layer = sample_layers(fields, rays, space, sampling, jitter)
        return composite(evaluate(fields, rays, space, intervals, sampling, layer=layer))
    rounds = count()

    def alpha(points: Tensor, frame_index: Tensor, lengths: Tensor) -> Tensor:
        name = f"roots of round {next(rounds)}"
        return fields.density.alpha(fields.distance(points, frame_index, space, lists, name), lengths)

    intervals = sample_rays(rays, space.seeds.counts, space.seeds.boxes, alpha, sampling, jitter=jitter, lists=lists)
    return composite(evaluate(fields, rays, space, intervals, sampling, lists))


@torch.no_grad()
def sample_layers(
    fields: Fields, rays: RayBundle, space: PosedSpace, sampling: PrimarySampling, jitter: Tensor
) -> tuple[RaySamples, SurfaceLayer]:
    """Intervals as of :func:`sample_rays` with jitter [R], and the layers [S] at their middles.

    About half of a round's intervals are as they were in the round before: where they are is not sought again.
    """
    samples = march(
        rays.origins, rays.directions, space.seeds.counts, space.seeds.boxes, rays.frame_index, step=sampling.step,
        jitter=jitter,
    )  # fmt: skip
    layer = _layer_at(fields, rays, space, samples.ray_indices, samples.midpoints)
    for _ in range(sampling.rounds):
        opacities = fields.density.alpha(layer.sdf, samples.t_ends - samples.t_starts)
        t, interval = resample(samples, render_weights(opacities, samples.packed_info), sampling.samples)
        place, cut = _after_cutting(interval, len(opacities))
        samples = insert_samples(samples, t, interval)
        fresh = torch.ones_like(samples.t_starts, dtype=torch.bool).index_copy_(0, place, cut)
        rows = fresh.nonzero()[:, 0]
        found = _layer_at(fields, rays, space, samples.ray_indices[rows], samples.midpoints[rows])
        layer = SurfaceLayer(*(
            old.new_empty(len(fresh), *old.shape[1:]).index_copy_(0, place, old).index_copy_(0, rows, new)
            for old, new in zip(layer, found, strict=True)
        ))  # fmt: skip
    return samples, layer


def _layer_at(fields: Fields, rays: RayBundle, space: PosedSpace, ray: Tensor, depth: Tensor) -> SurfaceLayer:
    return fields.layer(rays.at(ray, depth), rays.frame_index[ray], space)


def _after_cutting(interval: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Where each of ``count`` intervals begins when ``interval`` [R, K] (-1: none) are cut, and whether it is cut."""
    drawn = interval.flatten()
    if count == 0:
        return drawn[:0], drawn[:0] > 0
    # What is drawn from the background adds nothing, to different entries: additions to the same one would queue.
    spread = torch.arange(len(drawn), device=drawn.device) % count
    cuts = torch.zeros(count, dtype=drawn.dtype, device=drawn.device)
    cuts.index_add_(0, torch.where(drawn < 0, spread, drawn), (drawn >= 0).to(drawn.dtype))
    return torch.arange(count, device=drawn.device) + cuts.cumsum(0) - cuts, cuts > 0


def evaluate(
    fields: Fields,
    rays: RayBundle,
    space: PosedSpace,
    intervals: RaySamples,
    sampling: PrimarySampling,
    lists: Lists = EXACT,
    *,
    layer: SurfaceLayer | None = None,
) -> FieldSamples:
    """Evaluate the fields with gradients at the middle of ``intervals`` that can matter; ``layer`` is there if known.

    Points that no canonical point is carried to are empty: leaving them out changes nothing. Negligible intervals, in
    front of and behind the surface, are dropped as ``sampling`` says.
    """
    differentiable = torch.is_grad_enabled()
    with torch.no_grad():
        frame_index = rays.frame_index[intervals.ray_indices]
        if layer is None:
            points = rays.at(intervals.ray_indices, intervals.midpoints)
            layer = fields.layer(points, frame_index, space, distances=sampling.dropping, lists=lists)
        wanted = layer.valid
        if sampling.dropping:
            alphas = fields.density.alpha(layer.sdf, intervals.t_ends - intervals.t_starts)
            wanted = wanted & (render_weights(alphas, intervals.packed_info) > sampling.negligible)
        kept = keep(intervals, wanted, lists)
        intervals, frame_index = kept.samples, frame_index[kept.rows]
        canonical, jacobian = layer.canonical[kept.rows], layer.jacobian[kept.rows]
    inverse: Adjugate | None = None
    if differentiable:
        canonical, inverse = fields.articulation.attach_pose(canonical, jacobian, frame_index, space)
    canonical, surface = fields.surface(canonical, frame_index, space)
    alphas = fields.density.alpha(surface.sdf, intervals.t_ends - intervals.t_starts)
    weights = render_weights(alphas, intervals.packed_info)
    if inverse is None:
        normal = normals.carry_normals(jacobian, surface.gradient)
    else:
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
