"""CUDA kernels of drawn directions and their sums."""

import pytest
import torch

from gs_ir.bvh import Hits
from gs_ir.marching import RaySamples
from gs_ir.reference import scattering as reference
from gs_ir.scattering import (
    FarLight,
    ScatterPoints,
    ScatterRays,
    Strategy,
    draw_scatter_points,
    gather_scattered,
    scatter_once,
    scatter_rays,
    surface_at_hits,
)
from tests.gs_ir.cuda.agreement import assert_agree, moved
from tests.gs_ir.scattering_scenes import LIGHTS, far_light, hit_scene, ray_samples, scene, surfaces

RAYS = [0, 1, 127, 300]
SEED = torch.tensor([2**50 + 99])
TIGHT = {"rtol": 1e-9, "atol": 1e-9}


@pytest.mark.parametrize("draws", [1, 16, 37])
@pytest.mark.parametrize("rays", RAYS)
def test_points(rays, draws):
    """Fails when the CDF of a ray is inverted otherwise, or a draw of the background is not written."""
    fields, weights, limit = ray_samples(rays, torch.float64)

    def on_ops(*tensors):
        points = draw_scatter_points(RaySamples(*tensors[:4]), *tensors[4:], draws)
        return points.rows, points.depth, points.share

    def on_reference(*tensors):
        return reference.scatter_points(*tensors[:2], *tensors[3:], draws)

    assert_agree(on_ops, (*fields, weights, limit), reference=on_reference, rtol=1e-12, atol=1e-12)


def _drawn(tensors: tuple, light: FarLight, strategy: Strategy, draws: int) -> tuple[ScatterPoints, ScatterRays]:
    """Points of a scene given as its tensors, and rays from them."""
    origins, directions, *fields, weights, limit, surface, seed = tensors
    points = draw_scatter_points(RaySamples(*fields), weights, limit, draws)
    drawing = {"strategy": strategy, "offset": 0.1, "seed": seed}
    return points, scatter_rays(origins, directions, points, surface, light, **drawing)


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize("draws", [1, 16, 37])
@pytest.mark.parametrize("rays", RAYS)
def test_rays_and_their_sums(rays, draws, strategy, light):
    """Fails when a draw has other random numbers, another direction or density, or is summed twice; worst 1e-11."""
    origins, directions, samples, weights, limit, surface = scene(rays, torch.float64)
    fields = samples.t_starts, samples.t_ends, samples.ray_indices, samples.packed_info
    source = far_light(light, torch.float64)
    visible = torch.rand(rays * draws, generator=torch.Generator().manual_seed(0)) < 0.5
    indirect = torch.rand(rays * draws, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def on_ops(tensors, lit, visible, indirect):
        there = FarLight(lit, source.light_from_world)
        points, drawn = _drawn(tensors, there, strategy, draws)
        view, surface = tensors[1], tensors[-2]
        sums = [
            gather_scattered(view, points, surface, there, drawn, visible=visible, indirect=i) for i in (None, indirect)
        ]
        return drawn.origins, drawn.directions, drawn.density, *sums

    tensors = (origins, directions, *fields, weights, limit, surface, SEED)
    assert_agree(on_ops, (tensors, source.tensors, visible, indirect), **TIGHT)


def test_rays_in_single_precision():
    """Fails when more than the rounding at sides of texels, strata and the horizon tells the GPU from the CPU.

    Expected of 20 000 draws: directions within 1e-5, densities within 1e-3, but for less than 1 %.
    """
    origins, directions, samples, weights, limit, surface = scene(2000, torch.float32)
    fields = samples.t_starts, samples.t_ends, samples.ray_indices, samples.packed_info
    source = far_light("turned map", torch.float32)
    tensors = (origins, directions, *fields, weights, limit, surface, SEED)
    found = []
    for device in ("cpu", "cuda"):
        light = FarLight(moved(source.tensors, device), source.light_from_world)
        points, drawn = _drawn(moved(tensors, device), light, Strategy.MIXTURE, 10)
        visible = torch.ones(20_000, dtype=torch.bool, device=device)
        view, rows = directions.to(device), surface.to(device)
        sums = gather_scattered(view, points, rows, light, drawn, visible=visible, indirect=None)
        found.append([x.cpu() for x in (drawn.directions, drawn.density, sums)])
    for tolerance, cpu, gpu in zip((1e-4, 1e-2, 1e-2), *found, strict=True):
        close = torch.isclose(cpu, gpu, rtol=tolerance, atol=tolerance)
        assert (~close).float().mean() <= 0.02
    torch.testing.assert_close(found[0][2].mean(0), found[1][2].mean(0), rtol=5e-3, atol=1e-4)


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize("count", RAYS)
def test_one_direction_each(count, strategy, light):
    """Fails when a point's direction or radiance differs; worst expected 1e-11."""
    surface, view = surfaces(count, torch.float64)
    source = far_light(light, torch.float64)

    def on_ops(surface, view, lit, seed):
        return scatter_once(surface, view, FarLight(lit, source.light_from_world), strategy=strategy, seed=seed)

    def on_reference(surface, view, lit, seed):
        return reference.scatter_once(surface, view, lit, list(source.light_from_world), strategy, seed)

    assert_agree(on_ops, (surface, view, source.tensors, SEED), reference=on_reference, **TIGHT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", RAYS)
def test_surface_at_hits(count, dtype):
    """Fails when a corner or weight is mistaken; worst expected 1e-6 in single precision."""
    rays, hits, directions, mesh = hit_scene(count, dtype)

    def on_ops(rays, t, face, barycentric, directions, *mesh_tensors):
        names = ("faces", "vertices", "canonical")
        return surface_at_hits(
            rays, Hits(t, face, barycentric), directions, **dict(zip(names, mesh_tensors, strict=True))
        )

    def on_reference(rays, t, face, barycentric, directions, *mesh_tensors):
        return reference.surface_at_hits(rays, face, barycentric, directions, *mesh_tensors)

    tensors = (rays, hits.t, hits.face, hits.barycentric, directions, *mesh.values())
    assert_agree(on_ops, tensors, reference=on_reference, rtol=2e-5, atol=2e-5)


def test_surfaces_may_lie_between_vectors():
    """Fails when rows are loaded by vectors from an address that none begins at."""
    surface, view = surfaces(200, torch.float32)
    source = far_light("map", torch.float32)

    def on_ops(flat, view, lit, seed):
        return scatter_once(flat[1:].reshape(-1, 8), view, FarLight(lit), strategy=Strategy.COSINE, seed=seed)

    flat = torch.cat([surface.new_zeros(1), surface.flatten()])
    assert_agree(on_ops, (flat, view, source.tensors, SEED), rtol=1e-3, atol=1e-3)


def test_host_never_waits():
    """Fails when a kernel's launch needs a number from the device."""
    origins, directions, samples, weights, limit, surface = scene(100, torch.float32)
    fields = samples.t_starts, samples.t_ends, samples.ray_indices, samples.packed_info
    on_device = moved((origins, directions, *fields, weights, limit, surface, SEED), "cuda")
    source = far_light("map", torch.float32)
    light = FarLight(moved(source.tensors, "cuda"))
    visible = torch.ones(1600, dtype=torch.bool, device="cuda")
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        points, drawn = _drawn(on_device, light, Strategy.MIXTURE, 16)
        gather_scattered(on_device[1], points, on_device[-2], light, drawn, visible=visible, indirect=None)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
