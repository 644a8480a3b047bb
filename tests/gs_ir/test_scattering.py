"""Drawn directions and what they bring: native against reference, closed forms, densities by chi-square."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from core import brdf
from gs_ir.marching import resample
from gs_ir.reference import philox
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
    surface_rows,
)
from tests.chi_square import p_value, sphere_grid
from tests.gs_ir.scattering_scenes import LIGHTS, far_light, hit_scene, ray_samples, scene, surfaces

RAYS = [0, 1, 31, 70]
SEED = torch.tensor([-(2**40) - 12345])
EXACT = {"rtol": 1e-9, "atol": 1e-9}
"""Worst found: 2e-12."""


def test_philox_gives_the_published_numbers():
    """Fails when a round, a key or a word differs from the generator's known answers (Random123, kat_vectors)."""
    words = philox.philox(torch.zeros(1, dtype=torch.int64), 0, 0, torch.tensor(0))
    assert [hex(int(w)) for w in words] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]


@pytest.mark.parametrize("count", [1, 2, 3, 8, 16, 50])
def test_permutations_are_permutations(count):
    """Fails when two numbers go to one place, a number goes to some places more often than to others (images are then
    wrong in the mean), or pairs of numbers to some halves (5.5 and 8 standard deviations).
    """
    orders = 4000
    keys = philox.philox(torch.arange(orders), 0, 1, torch.tensor(7))
    i, owner = torch.arange(count).repeat(orders), torch.arange(orders).repeat_interleave(count)
    places = philox.permuted(i, torch.full_like(i, count), [k[owner] for k in keys]).reshape(orders, count)
    assert (places.sort(1).values == torch.arange(count)).all()
    often = torch.stack([torch.bincount(column, minlength=count) for column in places.T]) / orders
    assert (often - 1 / count).abs().max() <= 5.5 / (count * orders) ** 0.5
    if count > 2:
        first = (places < count // 2).double()
        together = (first.T @ first / orders)[~torch.eye(count, dtype=torch.bool)]
        expected = count // 2 * (count // 2 - 1) / (count * (count - 1))
        assert (together - expected).abs().max() <= 8 * 0.45 / orders**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("draws", [1, 16, 37])
@pytest.mark.parametrize("rays", RAYS)
def test_points(rays, draws, dtype):
    """Fails when the CDF is inverted otherwise than by `resample`, or an interval's weight is not shared exactly."""
    fields, weights, limit = ray_samples(rays, dtype)
    samples = scene(rays, dtype)[2]
    points = draw_scatter_points(samples, weights, limit, draws)
    depth, interval = (x.T for x in resample(samples, weights, draws))
    agree = points.rows == interval
    assert (~agree).sum() <= (0 if dtype == torch.float64 else 0.01 * agree.numel())
    found = agree & (interval >= 0)
    close = {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(points.depth[found], depth.minimum(limit)[found], **close)
    shared = torch.zeros_like(weights).index_add(
        0, points.rows[points.rows >= 0].long(), points.share[points.rows >= 0]
    )
    torch.testing.assert_close(shared, torch.where(shared > 0, weights, 0), **close)
    assert (points.share[points.rows < 0] == 0).all()
    if dtype == torch.float64:
        expected = reference.scatter_points(*fields[:2], fields[3], weights, limit, draws)
        torch.testing.assert_close((points.rows, points.depth, points.share), expected, **EXACT)


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize("draws", [1, 7, 16])
def test_rays_and_their_sums(draws, strategy, light):
    """Fails when a direction, a density, an origin or a sum differs from the reference with the same random numbers."""
    for rays in RAYS:
        origins, directions, samples, weights, limit, surface = scene(rays, torch.float64)
        source = far_light(light, torch.float64)
        points = draw_scatter_points(samples, weights, limit, draws)
        drawn = scatter_rays(origins, directions, points, surface, source, strategy=strategy, offset=0.1, seed=SEED)
        where = points.rows, points.depth, surface, *source.arguments
        expected = reference.scatter_rays(origins, directions, *where, strategy, 0.1, SEED)
        torch.testing.assert_close((drawn.origins, drawn.directions, drawn.density), expected, **EXACT)
        generator = torch.Generator().manual_seed(1)
        visible = torch.rand(points.rows.numel(), generator=generator) < 0.6
        for indirect in (None, torch.rand(points.rows.numel(), 3, generator=generator, dtype=torch.float64)):
            found = gather_scattered(directions, points, surface, source, drawn, visible=visible, indirect=indirect)
            where = points.rows, points.share, surface, *source.arguments
            sums = reference.gather_scattered(directions, *where, [*expected[1:]], visible, indirect)
            torch.testing.assert_close(found, sums, **EXACT)
            assert rays < 31 or (found[:, :6] > 0).any()


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("strategy", list(Strategy))
def test_one_direction_each(strategy, light):
    """Fails when a point's direction or scattered radiance differs from the reference's."""
    for count in RAYS:
        surface, view = surfaces(count, torch.float64)
        source = far_light(light, torch.float64)
        found = scatter_once(surface, view, source, strategy=strategy, seed=SEED)
        expected = reference.scatter_once(surface, view, *source.arguments, strategy, SEED)
        torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", RAYS)
def test_surface_at_hits(count, dtype):
    """Fails when a corner, a weight or the side of a normal is mistaken; in single precision too."""
    rays, hits, directions, mesh = hit_scene(count, dtype)
    found = surface_at_hits(rays, hits, directions, **mesh)
    expected = reference.surface_at_hits(rays, hits.face, hits.barycentric, directions, *mesh.values())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("light", LIGHTS)
def test_single_precision(light):
    """Fails when single precision loses more than rounding: worst found 3e-5 of directions, 2e-3 of sharp lobes."""
    surface, view = surfaces(3000, torch.float32)
    source = far_light(light, torch.float32)
    exact = replace(source, tensors=[x.double() for x in source.tensors])
    single = scatter_once(surface, view, source, strategy=Strategy.MIXTURE, seed=SEED)
    double = scatter_once(surface.double(), view.double(), exact, strategy=Strategy.MIXTURE, seed=SEED)
    # At a texel's side rounding decides which density is read, on the horizon whether there is a direction.
    wrong = ~torch.isclose(single[1].double(), double[1], rtol=2e-2, atol=1e-4).all(1)
    assert wrong.float().mean() <= 0.01
    torch.testing.assert_close(single[0][~wrong].double(), double[0][~wrong], rtol=0, atol=1e-3)


# ---- Statistics -----------------------------------------------------------------------------------------------------


def _one_point(strategy: Strategy, light: FarLight, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Surface rows and views of one point, repeated, with its directions and radiances."""
    normal = normalize(torch.tensor([[0.3, -0.8, 0.4]], dtype=torch.float64), dim=-1)
    view = normalize(normal + torch.tensor([[0.5, 0.2, -0.4]], dtype=torch.float64), dim=-1)
    half = torch.tensor([0.5], dtype=torch.float64)
    row = surface_rows(normal, torch.tensor([[0.7, 0.4, 0.2]], dtype=torch.float64), half, 0.6 * half)
    surface, view = row.expand(count, -1), view.expand(count, -1)
    return surface, view, *scatter_once(surface, view, light, strategy=strategy, seed=SEED)


def _brdf_arguments(surface: Tensor, view: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    return surface[:1, :3], view[:1], (surface[:1, 3:6], surface[:1, 6], surface[:1, 7])


def _density(strategy: Strategy, light: FarLight, surface: Tensor, view: Tensor, directions: Tensor) -> Tensor:
    """Of the definition in core.brdf, with that of the light; directions below the surface are never returned."""
    normal, view, material = _brdf_arguments(surface, view)
    of_light = reference.pdf(*light.arguments, directions)
    lobes = brdf.pdf(normal, view, directions, *material)
    density = {
        Strategy.COSINE: brdf.pdf_cosine(normal, directions),
        Strategy.LIGHT: of_light,
        Strategy.MATERIAL: lobes,
        Strategy.MIXTURE: (of_light + lobes) / 2,
    }[strategy]
    return torch.where((directions * normal).sum(-1) > 0, density, 0)


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("strategy", list(Strategy))
def test_directions_follow_their_density(strategy, light):
    """Fails when a strategy draws otherwise than its density says (chi-square; what is below the horizon is a bin)."""
    source = far_light(light, torch.float64)
    surface, view, directions, _ = _one_point(strategy, source, 60_000)
    kept = directions[(directions != 0).any(1)]
    grid, solid_angle = sphere_grid(400, 800)
    mass = _density(strategy, source, surface, view, grid).sum() * solid_angle
    assert float(len(kept) / len(directions)) == pytest.approx(float(mass), abs=0.01)

    def pdf(d: Tensor) -> Tensor:
        return _density(strategy, source, surface, view, d) / mass

    assert p_value(kept, pdf) > 1e-3


@pytest.mark.parametrize("light", LIGHTS)
@pytest.mark.parametrize("strategy", list(Strategy))
def test_radiance_is_that_of_the_integral(strategy, light):
    """Fails when reflectance, light and density do not belong together: mean against quadrature, 4 standard errors."""
    source = far_light(light, torch.float64)
    surface, view, _, radiance = _one_point(strategy, source, 60_000)
    grid, solid_angle = sphere_grid(400, 800)
    normal, view, material = _brdf_arguments(surface, view)
    light_there = reference.radiance(*source.arguments, grid)
    expected = (brdf.eval_cosine(normal, view, grid, *material) * light_there).sum(0) * solid_angle
    error = radiance.std(0) / len(radiance) ** 0.5
    assert ((radiance.mean(0) - expected).abs() <= 4 * error + 2e-3 * expected).all()


@pytest.mark.parametrize("draws", [16, 15])
@pytest.mark.parametrize("strategy", list(Strategy))
def test_drawn_rays_agree_with_single_ones(strategy, draws):
    """Fails when strata leave out or repeat a part of the integral: means within 4 standard errors, and less noise."""
    source, rays = far_light("map", torch.float64), 3000
    surface, view, _, radiance = _one_point(strategy, source, rays * draws)
    points = ScatterPoints(
        torch.zeros(draws, rays, dtype=torch.int32), torch.ones(draws, rays, dtype=torch.float64),
        torch.full((draws, rays), 1 / draws, dtype=torch.float64),
    )  # fmt: skip
    directions, origins = -view[:rays], torch.zeros(rays, 3, dtype=torch.float64)
    row = surface[:1]
    drawn = scatter_rays(origins, directions, points, row, source, strategy=strategy, offset=0.1, seed=SEED)
    visible = torch.ones(rays * draws, dtype=torch.bool)
    sums = gather_scattered(directions, points, row, source, drawn, visible=visible, indirect=None)[:, :3]
    # 32 rays share their strata: the spread of their means is what tells the error of the mean of all.
    groups = sums[: rays // 32 * 32].reshape(-1, 32, 3).mean(1)
    error = (groups.var(0) / len(groups) + radiance.var(0) / len(radiance)).sqrt()
    assert ((sums.mean(0) - radiance.mean(0)).abs() <= 4 * error).all()
    assert (sums.var(0) < 1.05 * radiance.var(0) / draws).all()


def test_strata_are_all_visited():
    """Fails when a ray's draws miss a stratum of their strategy; cosine directions lie in their own cell each."""
    draws, rays = 32, 50
    normal = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    half = torch.tensor([0.5], dtype=torch.float64)
    row = surface_rows(normal, half[:, None].expand(1, 3), half, half)
    one = torch.ones(draws, rays, dtype=torch.float64)
    points = ScatterPoints(one.int() - 1, one, one / draws)
    directions = -normal.expand(rays, 3).contiguous()
    light = far_light("gaussians", torch.float64)
    drawn: ScatterRays = scatter_rays(
        directions, directions, points, row, light, strategy=Strategy.COSINE, offset=0.0, seed=SEED
    )
    x, y, z = drawn.directions.reshape(draws, rays, 3).unbind(-1)
    rows = reference.strata_rows(draws)
    across = ((torch.atan2(y, x) / (2 * torch.pi)) % 1 * (draws // rows)).long()
    cell = ((1 - z * z) * rows).long() * (draws // rows) + across
    assert (cell.sort(0).values == torch.arange(draws)[:, None]).all()


def test_wrong_arguments_are_named():
    """Fails when shapes that do not belong together reach a kernel."""
    origins, directions, samples, weights, limit, surface = scene(5, torch.float64)
    light = far_light("map", torch.float64)
    with pytest.raises(ValueError, match="draw_scatter_points"):
        draw_scatter_points(samples, weights, limit[:-1], 4)
    points = draw_scatter_points(samples, weights, limit, 4)
    drawing = {"strategy": Strategy.COSINE, "offset": 0.0, "seed": SEED}
    with pytest.raises(ValueError, match="scatter_rays"):
        scatter_rays(origins[1:], directions, points, surface, light, **drawing)
    drawn = scatter_rays(origins, directions, points, surface, light, **drawing)
    with pytest.raises(ValueError, match="gather_scattered"):
        gather_scattered(
            directions, points, surface, light, drawn, visible=torch.ones(3, dtype=torch.bool), indirect=None
        )
    with pytest.raises(ValueError, match="scatter_once"):
        scatter_once(surface, directions[:2], light, strategy=Strategy.COSINE, seed=SEED)
    rays, hits, directions, mesh = hit_scene(5, torch.float64)
    with pytest.raises(ValueError, match="surface_at_hits"):
        surface_at_hits(rays, hits, directions[1:], **mesh)
