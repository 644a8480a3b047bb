"""Posed to canonical: a limb of three bones is bent and found again."""

import math

import pytest
import torch

from gs_ir.correspondence import SeedGrid, build_seeds, find_correspondences
from gs_ir.reference import correspondence as reference
from gs_ir.skinning import blend_transforms, sample_transforms

LIMB_RADIUS = 0.07
JOINTS = (-0.2, 0.2)
SHELL = 0.06
"""Metres from the surface within which correspondences have to be found."""


def _box(dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor([[-0.4, -0.8, -0.3], [0.4, 0.8, 0.3]], dtype=dtype)


def _limb_transforms(first: float, second: float, dtype: torch.dtype) -> torch.Tensor:
    """[3, 4, 4] of a chain along y that bends about z at the two joints, radians."""
    chain = [torch.eye(4, dtype=dtype)]
    for angle, y in zip((first, second), JOINTS, strict=True):
        c, s = math.cos(angle), math.sin(angle)
        bend = [[c, -s, 0, s * y], [s, c, 0, y - c * y], [0, 0, 1, 0], [0, 0, 0, 1]]
        chain.append(chain[-1] @ torch.tensor(bend, dtype=dtype))
    return torch.stack(chain)


def _volume(bends: list[tuple[float, float]], dtype: torch.dtype) -> torch.Tensor:
    """[B, 31, 81, 41, 12]: 2 cm voxels, weights that change over about 10 cm at each joint."""
    y = torch.linspace(-0.8, 0.8, 81, dtype=dtype)
    beyond = [torch.sigmoid((y - joint) / 0.025) for joint in JOINTS]
    weights = torch.stack([1 - beyond[0], beyond[0] * (1 - beyond[1]), beyond[0] * beyond[1]], -1)
    weights = weights[None, :, None].expand(31, 81, 41, 3).contiguous()
    return blend_transforms(weights, torch.stack([_limb_transforms(*bend, dtype) for bend in bends]))


def _surface(dtype: torch.dtype) -> torch.Tensor:
    """[M, 3] points every 1.5 cm on the limb, from y = -0.6 to 0.6."""
    angle = torch.arange(30, dtype=dtype) * (2 * math.pi / 30)
    y = torch.linspace(-0.6, 0.6, 81, dtype=dtype)
    ring = LIMB_RADIUS * torch.stack([angle.cos(), torch.zeros_like(angle), angle.sin()], -1)
    return (ring[None] + y[:, None, None] * torch.tensor([0, 1, 0], dtype=dtype)).reshape(-1, 3)


def _shell_points(count: int, dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    random = torch.rand(count, 3, generator=generator, dtype=dtype)
    radius, angle = LIMB_RADIUS + SHELL * (2 * random[:, 0] - 1), 2 * math.pi * random[:, 1]
    return torch.stack([radius * angle.cos(), 1.2 * random[:, 2] - 0.6, radius * angle.sin()], -1)


def _skin(points: torch.Tensor, volume: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
    transforms = sample_transforms(points, volume, _box(points.dtype), frame)
    return (transforms[:, :, :3] @ points[:, :, None])[..., 0] + transforms[:, :, 3]


def _seeds(volume: torch.Tensor, resolution: int = 24, radius: float = 0.08, max_seeds: int = 3) -> SeedGrid:
    surface = _surface(volume.dtype)
    frames = torch.arange(volume.shape[0]).repeat_interleave(len(surface))
    posed = _skin(surface.repeat(volume.shape[0], 1), volume, frames).reshape(volume.shape[0], -1, 3)
    return build_seeds(posed, surface, resolution, radius, max_seeds)


def _nearest_root(found, expected: torch.Tensor) -> torch.Tensor:
    """Distance [N] from ``expected`` [N, 3] to the nearest valid root of the same row."""
    distance = (found.canonical - expected[:, None]).norm(dim=-1)
    return distance.masked_fill(~found.valid, math.inf).amin(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip(dtype):
    """Fails when Newton's Jacobian, the seeds' reach or the frame of a query is wrong: skin, search, compare."""
    volume = _volume([(0.0, 0.0), (0.7, -0.9), (1.2, 1.0)], dtype)
    points = _shell_points(6000, dtype)
    frame = torch.arange(6000) % 3
    found = find_correspondences(_skin(points, volume, frame), frame, _seeds(volume), volume, _box(dtype))
    reached = _nearest_root(found, points) < 1e-4
    # At the inside of a joint skinning turns 0.2 % of the shell inside out: no surface can be there.
    _, jacobian = reference.skin_with_jacobian(points, volume, _box(dtype), frame)
    upright = torch.linalg.det(jacobian) > 0
    assert upright.double().mean() > 0.995
    assert reached[upright].double().mean() >= 0.999


def test_roots_are_roots():
    """Fails when something is called valid that skinning does not map to the query, or that lies outside the volume."""
    volume = _volume([(2.2, -0.4)], torch.float64)
    points = _shell_points(3000, torch.float64)
    frame = torch.zeros(3000, dtype=torch.int64)
    posed = _skin(points, volume, frame)
    found = find_correspondences(posed, frame, _seeds(volume), volume, _box(torch.float64))
    row, slot = found.valid.nonzero(as_tuple=True)
    roots = found.canonical[row, slot]
    assert ((_skin(roots, volume, frame[row]) - posed[row]).norm(dim=-1) < 1e-5).all()
    assert ((roots > _box(torch.float64)[0]) & (roots < _box(torch.float64)[1])).all()
    assert found.valid.sum(1).max() > 1, "the fold has no second root: the test tests nothing"
    pairs = (found.canonical[:, :, None] - found.canonical[:, None]).norm(dim=-1)
    both = found.valid[:, :, None] & found.valid[:, None] & ~torch.eye(3, dtype=torch.bool)
    assert (pairs[both] >= 1e-3).all(), "a root is listed twice"


@pytest.mark.parametrize(("bend", "least"), [(1.6, 0.99), (2.3, 0.96)])
def test_all_sheets_of_a_fold_are_found(bend, least):
    """Fails when seeds come from one sheet only: compared with Newton from 120 starts all over the limb."""
    dtype = torch.float64
    volume, box, frame = _volume([(bend, 0.0)], dtype), _box(dtype), torch.zeros(80, dtype=torch.int64)
    points = _shell_points(4000, dtype)
    near_fold = points[(points[:, 1] - JOINTS[0]).abs() < 0.2][:80]
    posed = _skin(near_fold, volume, frame)
    starts = _shell_points(120, dtype, seed=5)
    everywhere = torch.tensor([[[-2.0] * 3, [2.0] * 3]], dtype=dtype)
    every_start = [starts.reshape(1, 1, 1, 1, 120, 3), torch.full((1, 1, 1, 1), 120, dtype=torch.uint8), everywhere]
    roots, valid, jacobian = reference.find_correspondences(
        posed, frame, every_start, volume, box, iterations=12, tolerance=1e-7
    )
    # Roots outside the shell belong to no surface; where skinning turns space inside out there is no surface either.
    off_axis = roots[..., [0, 2]].norm(dim=-1)
    wanted = valid & ((off_axis - LIMB_RADIUS).abs() < SHELL) & (torch.linalg.det(jacobian) > 0.1)
    assert (wanted.sum(1) > 1).sum() > 5, "too few folded points: the test tests nothing"
    found = find_correspondences(posed, frame, _seeds(volume), volume, box)
    row, slot = wanted.nonzero(as_tuple=True)
    missed = _nearest_root(type(found)(found.canonical[row], found.valid[row], found.jacobian[row]), roots[row, slot])
    # Beyond a right angle, some roots lie within a centimetre of where space turns inside out: 2 % are missed at 2.3.
    assert (missed < 1e-3).double().mean() > least


def test_jacobian_is_exact():
    """Fails when the derivative of the interpolated transform is left out or scaled wrongly."""
    volume = _volume([(1.2, -0.8)], torch.float64)
    points = _shell_points(200, torch.float64)
    frame = torch.zeros(200, dtype=torch.int64)
    found = find_correspondences(
        _skin(points, volume, frame), frame, _seeds(volume), volume, _box(torch.float64), tolerance=1e-12, iterations=20
    )
    first = found.valid[:, 0]
    roots = found.canonical[first, 0].requires_grad_()
    posed = _skin(roots, volume, frame[first])
    rows = [torch.autograd.grad(posed[:, i].sum(), roots, retain_graph=True)[0] for i in range(3)]
    torch.testing.assert_close(found.jacobian[first, 0], torch.stack(rows, 1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_search_equals_reference(dtype):
    """Fails when the native loop damps, stops or removes duplicates differently."""
    volume, box = _volume([(2.2, -0.4), (0.3, 1.0)], dtype), _box(dtype)
    points, frame = _shell_points(500, dtype), torch.arange(500) % 2
    posed, grid = _skin(points, volume, frame), _seeds(volume)
    found = find_correspondences(posed, frame, grid, volume, box)
    canonical, valid, jacobian = reference.find_correspondences(
        posed, frame, [grid.seeds, grid.counts, grid.boxes], volume, box, iterations=6, tolerance=1e-5
    )
    # In float32 a residual at the tolerance may be rounded to either side.
    assert (found.valid != valid).sum() <= (3 if dtype == torch.float32 else 0)
    both = found.valid & valid
    torch.testing.assert_close(found.canonical[both], canonical[both], rtol=0, atol=1e-4)
    # the Jacobian jumps from voxel to voxel, where two roots 1e-6 apart may lie on either side
    near = (found.jacobian[both] - jacobian[both]).abs().amax((1, 2)) < 1e-3
    assert near.double().mean() > 0.99


def test_seeds_equal_reference():
    """Fails when the native blocks of cells lose a candidate."""
    volume = _volume([(2.2, -0.4), (0.3, 1.0)], torch.float64)
    surface = _surface(torch.float64)
    frames = torch.arange(2).repeat_interleave(len(surface))
    posed = _skin(surface.repeat(2, 1), volume, frames).reshape(2, -1, 3)
    for resolution, radius in ((1, 0.05), (7, 0.3), (18, 0.06)):
        grid = build_seeds(posed, surface, resolution, radius, 3)
        seeds, counts, boxes = reference.build_seeds(posed, surface, resolution, radius, 3)
        torch.testing.assert_close(grid.boxes, boxes)
        assert torch.equal(grid.counts, counts)
        # rings of the limb are symmetric, so that two points can be equally near: compare how near
        assert (grid.seeds - seeds).norm(dim=-1).gt(1e-9).double().mean() < 0.02


def test_seeds_by_definition():
    """Fails when a cell near a point is unmarked, the first seed is not the nearest, or seeds crowd together."""
    generator = torch.Generator().manual_seed(2)
    posed = torch.rand(1, 300, 3, generator=generator, dtype=torch.float64)
    canonical = torch.rand(300, 3, generator=generator, dtype=torch.float64)
    grid = build_seeds(posed, canonical, 10, 0.12, 4)
    low, high = grid.boxes[0]
    torch.testing.assert_close(low, posed[0].amin(0) - 0.12)
    size = (high - low) / 10
    index = torch.stack(torch.meshgrid(*[torch.arange(10)] * 3, indexing="ij"), -1).flip(-1).reshape(-1, 3)
    offset = (low + (index[:, None] + 0.5) * size - posed[0]).abs()
    distance = (offset - size / 2).clamp(min=0).norm(dim=-1)
    counts, seeds = grid.counts.reshape(-1), grid.seeds.reshape(1000, 4, 3)
    assert torch.equal(counts > 0, (distance <= 0.12).any(1))
    nearest = offset.norm(dim=-1).masked_fill(distance > 0.12, math.inf).argmin(1)
    torch.testing.assert_close(seeds[counts > 0, 0], canonical[nearest[counts > 0]])
    apart = (seeds[:, :, None] - seeds[:, None]).norm(dim=-1)
    used = torch.arange(4) < counts[:, None]
    pairs = used[:, :, None] & used[:, None] & ~torch.eye(4, dtype=torch.bool)
    assert (apart[pairs] > 0.03).all()
    assert not seeds[~used].any()


def test_query_within_the_radius_is_in_a_marked_cell():
    """Fails when occupancy has holes: anything nearer than the radius to the body must be searched."""
    volume = _volume([(0.7, -0.9)], torch.float32)
    surface = _surface(torch.float32)
    posed = _skin(surface, volume, torch.zeros(len(surface), dtype=torch.int64))
    grid = build_seeds(posed[None], surface, 32, 0.05)
    query = posed + 0.0499 * torch.nn.functional.normalize(torch.randn_like(posed), dim=-1)
    cell = ((query - grid.boxes[0, 0]) / (grid.boxes[0, 1] - grid.boxes[0, 0]) * 32).long()
    assert (grid.counts[0][cell[:, 2], cell[:, 1], cell[:, 0]] > 0).all()


def test_empty_space_and_broken_points():
    """Fails when a query outside the grid, in an empty cell or with NaN gets a root or reads foreign memory."""
    volume = _volume([(0.2, 0.2)], torch.float32)
    grid = _seeds(volume)
    corner = grid.boxes[0, 0] + 1e-3
    queries = torch.stack([corner, corner - 1, grid.boxes[0, 1] + 1, torch.full((3,), torch.nan), corner * torch.inf])
    found = find_correspondences(queries, torch.zeros(5, dtype=torch.int64), grid, volume, _box(torch.float32))
    assert not found.valid.any()
    assert not found.canonical.any()
    torch.testing.assert_close(found.jacobian, torch.eye(3).expand(5, 3, 3, 3))


def test_roots_outside_the_volume_are_refused():
    """Fails when a root is accepted where the transforms are only a continuation of the border's."""
    volume, points = _volume([(0.0, 0.0)], torch.float64), _surface(torch.float64)
    narrow = _box(torch.float64) * torch.tensor([0.125, 1.0, 1.0], dtype=torch.float64)
    frame = torch.zeros(len(points), dtype=torch.int64)
    found = find_correspondences(points, frame, _seeds(volume), volume, narrow)
    assert torch.equal(found.valid.any(1), points[:, 0].abs() <= 0.05)


def test_failed_seeds_do_not_hide_later_roots():
    """Fails when the zeros that stand for a failed root count as an earlier root: the canonical origin would vanish."""
    volume, query = _volume([(0.0, 0.0)], torch.float64), torch.tensor([[1e-4, 0.0, 0.0]], dtype=torch.float64)
    seeds = torch.tensor([[0.0, 0.7, 0.0], [0.01, 0.02, 0.0]], dtype=torch.float64).reshape(1, 1, 1, 1, 2, 3)
    grid = SeedGrid(seeds, torch.full((1, 1, 1, 1), 2, dtype=torch.uint8), _box(torch.float64)[None])
    frame = torch.zeros(1, dtype=torch.int64)
    found = find_correspondences(query, frame, grid, volume, _box(torch.float64), iterations=2)
    assert found.valid.tolist() == [[False, True]]
    torch.testing.assert_close(found.canonical[0, 1], query[0])


def test_singular_transforms_do_not_converge():
    """Fails when a collapsed transform divides by its zero determinant and yields NaN roots."""
    volume = torch.zeros(1, 4, 4, 4, 12)
    grid = _seeds(_volume([(0.2, 0.2)], torch.float32))
    found = find_correspondences(
        _surface(torch.float32), torch.zeros(2430, dtype=torch.int64), grid, volume, _box(torch.float32)
    )
    assert found.canonical.isfinite().all()
    assert found.jacobian.isfinite().all()
    assert not found.valid.any()


def test_without_points():
    """No queries give empty answers of the right shapes."""
    volume = _volume([(0.2, 0.2)], torch.float32)
    nothing = torch.empty(0, dtype=torch.int64)
    found = find_correspondences(torch.empty(0, 3), nothing, _seeds(volume), volume, _box(torch.float32))
    assert found.canonical.shape == (0, 3, 3)
    assert found.jacobian.shape == (0, 3, 3, 3)


def test_wrong_input_is_refused():
    """Fails when frames, shapes or parameters that do not fit are read anyway."""
    volume, box = _volume([(0.2, 0.2)], torch.float32), _box(torch.float32)
    grid, points, frame = _seeds(volume), torch.rand(4, 3), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(IndexError):
        find_correspondences(points, frame + 1, grid, volume, box)
    with pytest.raises(ValueError, match="as many frames"):
        find_correspondences(points, frame, grid, volume.repeat(2, 1, 1, 1, 1), box)
    with pytest.raises(ValueError, match="iterations"):
        find_correspondences(points, frame, grid, volume, box, iterations=0)
    with pytest.raises(ValueError, match="frame_index"):
        find_correspondences(points, frame[:2], grid, volume, box)
    with pytest.raises(ValueError, match="points_canonical"):
        build_seeds(points[None], points[:2], 8, 0.1)
    with pytest.raises(ValueError, match="max_seeds"):
        build_seeds(points[None], points, 8, 0.1, max_seeds=9)
    with pytest.raises(ValueError, match="radius"):
        build_seeds(points[None], points, 8, 0.0)
