"""Growing and shrinking the surfel set together with its optimiser."""

import math
from dataclasses import replace

import pytest
import torch

from explicit_branch.densification import Densifier, far_from
from explicit_branch.optimisation import SurfelOptimiser
from explicit_branch.settings import TrainingSettings
from explicit_branch.surfels import SHAPES, Surfels, raw_attributes

SETTINGS = TrainingSettings(
    densify_from_iter=0, densify_until_iter=100, densification_interval=10, max_surfels=100, densify_rule="published"
)
PIXEL = torch.tensor(0.01)
DETAIL = replace(SETTINGS, densify_rule="detail", densify_growth=1024.0, size_pruning_from_iter=1000)


def a_set(count: int = 6, scale: float = 0.01) -> tuple[Surfels, SurfelOptimiser]:
    """Surfels on a line, one Adam step done."""
    points = torch.stack([torch.arange(count) * 0.02, torch.zeros(count), torch.zeros(count)], -1)
    quaternions = torch.tensor([1.0, 0, 0, 0]).expand(count, 4).clone()
    surfels = Surfels(raw_attributes(points, quaternions, torch.full((count,), scale), opacity=0.9, feature_dim=4))
    optimiser = SurfelOptimiser(surfels, dict.fromkeys(SHAPES, 1e-4))
    sum((getattr(surfels, name) ** 2).sum() * (1 + i) for i, name in enumerate(SHAPES)).backward()
    optimiser.step()
    return surfels, optimiser


def moments(optimiser: SurfelOptimiser, name: str) -> torch.Tensor:
    """First moments of attribute ``name``."""
    return optimiser.adam.state[getattr(optimiser.surfels, name)]["exp_avg"]


def test_moments_follow_their_rows():
    """Fails when removed or added rows shift the optimiser's state against the parameters."""
    surfels, optimiser = a_set()
    before = moments(optimiser, "positions").clone()
    optimiser.keep(torch.tensor([True, False, True, True, False, True]))
    torch.testing.assert_close(moments(optimiser, "positions"), before[[0, 2, 3, 5]])
    optimiser.append({name: value[:2] for name, value in surfels.raw().items()})
    assert len(surfels) == 6
    assert bool((moments(optimiser, "positions")[4:] == 0).all())
    surfels.positions.square().sum().backward()
    optimiser.step()
    assert surfels.positions.shape == (6, 3)


def test_small_surfels_are_cloned_and_large_ones_split():
    """Fails when the clone/split threshold or the bookkeeping of parents is wrong."""
    surfels, optimiser = a_set()
    with torch.no_grad():
        surfels.log_scales[0] = torch.log(torch.tensor(0.05))
    densifier = Densifier(optimiser, SETTINGS)
    gradient = torch.zeros(6, 2)
    gradient[:2] = 1
    densifier.observe(gradient, torch.full((6,), 3, dtype=torch.int32), PIXEL)
    assert densifier.update(10, torch.Generator().manual_seed(0))
    # One clone more, the split parent gone, two children more.
    assert len(surfels) == 6 + 1 + 2 - 1
    largest = surfels.scales.detach().amax(-1).sort(descending=True).values
    torch.testing.assert_close(largest[:2], torch.full((2,), 0.05 / 1.6), rtol=1e-3, atol=0)


def test_what_shows_most_error_is_halved():
    """Fails when another row is split, a half lies elsewhere or has other properties, or what is fine grows too."""
    surfels, optimiser = a_set()
    with torch.no_grad():
        surfels.log_scales[2, 1] += 0.1
        surfels.log_scales[4] = math.log(0.0049)  # as fine as the limit, half a pixel
        surfels.albedo_logits += torch.arange(6)[:, None]
    before = {name: value.clone() for name, value in surfels.raw().items()}
    densifier = Densifier(optimiser, DETAIL)
    gradient = 0.1 * torch.ones(6, 2)
    gradient[2], gradient[4] = 1, 2
    densifier.observe(gradient, torch.full((6,), 3, dtype=torch.int32), PIXEL)
    assert densifier.update(10, torch.Generator())
    assert len(surfels) == len(densifier.views) == len(densifier.max_radii) == 7
    kept, halves = ({k: v[rows] for k, v in surfels.raw().items()} for rows in (slice(5), slice(5, 7)))
    for name, value in before.items():
        assert torch.equal(kept[name], value[[0, 1, 3, 4, 5]])
        if name not in ("positions", "log_scales"):
            assert torch.equal(halves[name], value[[2, 2]])
    torch.testing.assert_close(halves["positions"].mean(0), before["positions"][2])
    apart = (halves["positions"][1] - halves["positions"][0]).norm()
    torch.testing.assert_close(apart, before["log_scales"][2, 1].exp())
    shrunk = before["log_scales"][2] - torch.tensor([0, math.log(1.6)])
    torch.testing.assert_close(halves["log_scales"], shrunk.expand(2, 2))


def test_halves_cover_what_the_whole_did():
    """Fails when splitting opens a hole or thickens the surface, so that pictures jump: at the centre, within 3 %."""
    one = 0.9 * math.exp(-0.5 * (0.5 * 1.6) ** 2)
    assert 1 - (1 - one) ** 2 == pytest.approx(0.9, rel=0.03)


def grown(factor: float = 1.0, pixels_per_metre: float = 300.0) -> tuple[int, int, bool]:
    """Surfels in the fifth of a surface that has detail and in the rest after 60 intervals; whether growth had ended.

    On five square metres of 10 x 10 surfels each; the error of a surfel goes with its size and the detail it hides.
    """
    along, across = torch.linspace(0.05, 4.95, 50), torch.linspace(0.05, 0.95, 10)
    points = torch.cartesian_prod(along, across, torch.zeros(1))
    quaternions = torch.tensor([1.0, 0, 0, 0]).expand(500, 4)
    surfels = Surfels(raw_attributes(points, quaternions, torch.full((500,), 0.03), opacity=0.9, feature_dim=4))
    settings = replace(DETAIL, max_surfels=10_000_000, densify_until_iter=600, densify_growth=1e6)
    densifier = Densifier(SurfelOptimiser(surfels, dict.fromkeys(SHAPES, 1e-4)), settings)
    changed = True
    for turn in range(1, 61):
        size = surfels.scales.detach().amax(-1)
        contrast = torch.where(surfels.positions.detach()[:, 0] < 1, 10.0, 1.0)
        gradient = factor * (size * contrast)[:, None].expand(-1, 2)
        densifier.observe(gradient, torch.ones(len(size), dtype=torch.int32), torch.tensor(1 / pixels_per_metre))
        changed = densifier.update(10 * turn, torch.Generator())
    detailed = surfels.positions.detach()[:, 0] < 1
    return int(detailed.sum()), int((~detailed).sum()), not changed


def test_growth_follows_detail_and_ends_by_itself():
    """Fails when growth fills any limit, spreads to where nothing is missing, or depends on the losses' weights."""
    detailed, plain, ended = grown()
    assert ended
    assert plain == 400
    assert 1000 < detailed < 10_000  # measured 6400: ten times the detail, four times as fine
    assert grown(factor=1e-3) == grown(factor=1e3) == (detailed, plain, ended)


def test_finer_pictures_allow_more_surfels():
    """Fails when the number has nothing to do with what pictures can show."""
    assert 3 < grown(pixels_per_metre=60)[0] / grown(pixels_per_metre=30)[0] < 6


def test_the_finest_view_counts():
    """Fails when far views make surfels look finer than the nearest one shows them."""
    _, optimiser = a_set()
    densifier = Densifier(optimiser, DETAIL)
    for size in (0.02, 0.01, 0.03):
        densifier.observe(torch.ones(6, 2), torch.ones(6, dtype=torch.int32), torch.tensor(size))
    assert float(densifier.finest_pixel) == pytest.approx(0.01)


def test_growth_is_spread_over_the_training():
    """Fails when a single turn may use up what the whole training may grow."""
    surfels, optimiser = a_set(count=50)
    densifier = Densifier(optimiser, replace(DETAIL, densify_growth=2.0))
    gradient = torch.zeros(50, 2)
    gradient[:20] = 1
    densifier.observe(gradient, torch.full((50,), 9, dtype=torch.int32), PIXEL)
    densifier.update(10, torch.Generator())
    assert len(surfels) == 50 + math.ceil(50 * (2**0.1 - 1))


def test_a_set_that_stays_is_left_in_place():
    """Fails when nothing to do still replaces parameters, which would throw away recorded steps."""
    surfels, optimiser = a_set()
    before = surfels.positions
    densifier = Densifier(optimiser, DETAIL)
    densifier.observe(torch.ones(6, 2), torch.full((6,), 9, dtype=torch.int32), PIXEL)
    assert not densifier.update(10, torch.Generator())
    assert surfels.positions is before
    assert float(densifier.views.sum()) == 0


def test_unknown_rule_is_refused():
    """Fails when a misspelt rule silently means another one."""
    with pytest.raises(ValueError, match="detail | published"):
        Densifier(a_set()[1], replace(SETTINGS, densify_rule="details"))


def test_transparent_surfels_are_pruned():
    """Fails when invisible surfels stay, or visible ones go."""
    surfels, optimiser = a_set()
    with torch.no_grad():
        surfels.opacity_logits[3] = -10
    Densifier(optimiser, SETTINGS).update(10, torch.Generator())
    assert len(surfels) == 5


def test_room_is_respected():
    """Fails when densification grows past ``max_surfels``."""
    surfels, optimiser = a_set()
    densifier = Densifier(optimiser, TrainingSettings(**{**vars(SETTINGS), "max_surfels": 8}))
    densifier.observe(torch.ones(6, 2), torch.full((6,), 3, dtype=torch.int32), PIXEL)
    densifier.update(10, torch.Generator())
    assert len(surfels) == 8


def test_unseen_surfels_do_not_count():
    """Fails when the mean is taken over views in which the surfel was culled."""
    _, optimiser = a_set()
    densifier = Densifier(optimiser, SETTINGS)
    radii = torch.tensor([3, 0, 3, 3, 3, 3], dtype=torch.int32)
    densifier.observe(torch.ones(6, 2), radii, PIXEL)
    densifier.observe(torch.zeros(6, 2), radii, PIXEL)
    assert densifier.views.tolist() == [2, 0, 2, 2, 2, 2]
    assert float(densifier.gradient_sum[1]) == 0


def test_refill_closes_holes_only():
    """Fails when covered points are duplicated, or far-away ones filled."""
    surfels, optimiser = a_set(count=40, scale=0.01)
    densifier = Densifier(optimiser, SETTINGS)
    covered = surfels.positions.detach()[:5]
    hole = torch.tensor([[0.1, 0.05, 0.0]])
    far = torch.tensor([[5.0, 0.0, 0.0]])
    assert densifier.refill(torch.cat([hole, far]), 3e-4, 1e-1) == 1
    torch.testing.assert_close(surfels.positions.detach()[-1:], hole)
    assert len(densifier.views) == len(surfels) == 41
    assert densifier.refill(covered, 3e-2, 1e-1) == 0


def test_outliers_are_found():
    """Fails when surfels off the surface are kept, or a sparse surface makes every surfel an outlier."""
    surfels, _ = a_set(count=40)
    points = surfels.positions.detach().clone()
    with torch.no_grad():
        surfels.positions[14, 1] = 3.0
    assert far_from(surfels, points).nonzero().flatten().tolist() == [14]
    assert int(far_from(surfels, points[::4]).sum()) == 1
