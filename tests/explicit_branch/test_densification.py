"""Growing and shrinking the surfel set together with its optimiser."""

import torch

from explicit_branch.densification import Densifier, far_from
from explicit_branch.optimisation import SurfelOptimiser
from explicit_branch.settings import TrainingSettings
from explicit_branch.surfels import SHAPES, Surfels, raw_attributes

SETTINGS = TrainingSettings(densify_from_iter=0, densify_until_iter=100, densification_interval=10, max_surfels=100)


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
    densifier.observe(gradient, torch.full((6,), 3, dtype=torch.int32))
    assert densifier.update(10, torch.Generator().manual_seed(0))
    # One clone more, the split parent gone, two children more.
    assert len(surfels) == 6 + 1 + 2 - 1
    largest = surfels.scales.detach().amax(-1).sort(descending=True).values
    torch.testing.assert_close(largest[:2], torch.full((2,), 0.05 / 1.6), rtol=1e-3, atol=0)


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
    densifier.observe(torch.ones(6, 2), torch.full((6,), 3, dtype=torch.int32))
    densifier.update(10, torch.Generator())
    assert len(surfels) == 8


def test_unseen_surfels_do_not_count():
    """Fails when the mean is taken over views in which the surfel was culled."""
    _, optimiser = a_set()
    densifier = Densifier(optimiser, SETTINGS)
    radii = torch.tensor([3, 0, 3, 3, 3, 3], dtype=torch.int32)
    densifier.observe(torch.ones(6, 2), radii)
    densifier.observe(torch.zeros(6, 2), radii)
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
