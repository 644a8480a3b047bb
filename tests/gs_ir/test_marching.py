"""Marching, resampling and compositing against loops over single rays, closed forms and finite differences."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from gs_ir.marching import RaySamples, insert_samples, march, render_weights, resample
from gs_ir.packed import accumulate
from gs_ir.reference import marching as reference
from gs_ir.reference.packed import ray_of_sample

STEP = 0.11


def _scene(rays: int = 60, dtype=torch.float64, seed: int = 0) -> dict:
    """Sparse grids of unequal sides, and rays from outside, from inside, along axes and past the boxes."""
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.tensor([[[-1.0, -0.8, -0.6], [1.0, 0.9, 0.7]], [[-0.5, -2.0, 0.1], [1.5, 0.4, 1.0]]], dtype=dtype)
    frame_index = torch.randint(0, 2, (rays,), generator=generator)
    low, high = boxes[frame_index].unbind(1)
    origins = (low + high) / 2 + 3 * torch.randn(rays, 3, generator=generator, dtype=dtype)
    targets = low + (high - low) * (1.3 * torch.rand(rays, 3, generator=generator, dtype=dtype) - 0.15)
    origins[: rays // 4] = low[: rays // 4] + 0.4 * (high - low)[: rays // 4]
    directions = torch.nn.functional.normalize(targets - origins, dim=-1)
    directions[:6] = torch.cat([torch.eye(3, dtype=dtype), -torch.eye(3, dtype=dtype)])
    return {
        "origins": origins,
        "directions": directions,
        "occupancy": (torch.rand(2, 4, 5, 9, generator=generator) < 0.3).to(torch.uint8) * 3,
        "boxes": boxes,
        "frame_index": frame_index,
        "jitter": torch.rand(rays, generator=generator, dtype=dtype),
    }


def _occupied_steps(scene: dict, ray: int, step: float) -> list[int]:
    """All lattice indices of a ray up to depth 20 whose midpoint is in an occupied cell, by testing every one."""
    low, high = scene["boxes"][scene["frame_index"][ray]].numpy()
    cells = scene["occupancy"][scene["frame_index"][ray]].numpy()
    found = []
    for k in range(int(20 / step)):
        middle = (k + scene["jitter"][ray].item() + 0.5) * step
        point = scene["origins"][ray].numpy() + middle * scene["directions"][ray].numpy()
        x, y, z = np.floor((point - low) / (high - low) * cells.shape[::-1]).astype(int)
        if 0 <= x < cells.shape[2] and 0 <= y < cells.shape[1] and 0 <= z < cells.shape[0] and cells[z, y, x]:
            found.append(k)
    return found


def _samples(counts: list[int], seed: int = 0, dtype=torch.float64) -> RaySamples:
    """Intervals with gaps, ``counts[r]`` of them on ray r."""
    generator = torch.Generator().manual_seed(seed)
    packed_info = reference.pack(torch.tensor(counts))
    total = sum(counts)
    edges = torch.rand(2 * total, generator=generator, dtype=dtype).cumsum(0)
    return RaySamples(edges[::2].contiguous(), edges[1::2].contiguous(), ray_of_sample(packed_info, total), packed_info)


def _fields(samples: RaySamples) -> tuple:
    return samples.t_starts, samples.t_ends, samples.ray_indices, samples.packed_info, samples.total


def _weights(samples: RaySamples, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    alphas = torch.rand(samples.t_starts.shape, generator=generator, dtype=samples.t_starts.dtype)
    return render_weights(0.6 * alphas, samples.packed_info)


@pytest.mark.parametrize("step", [STEP, 0.013])
def test_march_finds_what_testing_every_step_finds(step):
    """Fails when skipping an empty cell jumps over an occupied one, or a ray uses another frame's grid."""
    scene = _scene()
    samples = march(**scene, step=step)
    for ray, (first, count) in enumerate(samples.packed_info.tolist()):
        expected = torch.tensor(_occupied_steps(scene, ray, step), dtype=torch.float64) + scene["jitter"][ray]
        torch.testing.assert_close(samples.t_starts[first : first + count], expected * step)
        torch.testing.assert_close(samples.t_ends[first : first + count], (expected + 1) * step)
        assert (samples.ray_indices[first : first + count] == ray).all()
    assert samples.t_starts.shape[0] > 100


def test_march_in_single_precision():
    """Fails when rounding loses intervals other than those whose midpoint lies on a cell's face."""
    scene = _scene(rays=400, seed=2)
    exact = march(**scene, step=0.02)
    single = march(**{k: v.float() if v.is_floating_point() else v for k, v in scene.items()}, step=0.02)

    def lattice(samples: RaySamples) -> set:
        k = (samples.midpoints.double() / 0.02 - 0.5 - scene["jitter"][samples.ray_indices]).round()
        return set(zip(samples.ray_indices.tolist(), k.tolist(), strict=True))

    for ray, k in lattice(exact) ^ lattice(single):
        low, high = scene["boxes"][scene["frame_index"][ray]]
        t = (k + scene["jitter"][ray] + 0.5) * 0.02
        cell = (scene["origins"][ray] + t * scene["directions"][ray] - low) / (high - low) * torch.tensor([9, 5, 4])
        assert (cell - cell.round()).abs().min() < 1e-4


def test_march_equals_reference():
    """Fails when native kernel and reference order or number the samples differently."""
    scene = _scene(rays=300, seed=3)
    ours = march(**scene, step=STEP)
    expected = reference.march(**scene, step=STEP)
    torch.testing.assert_close(_fields(ours), expected)


def test_march_through_a_full_grid_covers_the_chord():
    """In a full grid the intervals cover the chord of the box to within one step."""
    scene = _scene(seed=4) | {"occupancy": torch.ones(2, 3, 3, 3, dtype=torch.uint8)}
    samples = march(**scene, step=0.01)
    low, high = scene["boxes"][scene["frame_index"]].unbind(1)
    slabs = torch.stack([low - scene["origins"], high - scene["origins"]]) / scene["directions"]
    chord = (slabs.amax(0).amin(-1) - slabs.amin(0).amax(-1).clamp(min=0)).clamp(min=0)
    assert (samples.packed_info[:, 1].double() * 0.01 - chord).abs().max() <= 0.01 + 1e-9


def test_march_ignores_rays_without_direction():
    """A zero direction inside of an occupied box ends, with no samples."""
    scene = _scene(rays=8) | {"directions": torch.zeros(8, 3, dtype=torch.float64)}
    assert march(**scene, step=STEP).t_starts.numel() == 0


def test_march_without_rays_or_occupied_cells():
    """Nothing to march gives empty samples with a row of packed_info per ray."""
    scene = _scene()
    nothing = march(**scene | {"occupancy": torch.zeros(2, 4, 5, 9, dtype=torch.uint8)}, step=STEP)
    assert nothing.t_starts.numel() == 0
    assert nothing.packed_info.tolist() == [[0, 0]] * 60
    per_ray = ("origins", "directions", "frame_index", "jitter")
    empty = march(**{k: v[:0] if k in per_ray else v for k, v in scene.items()}, step=STEP)
    assert empty.packed_info.shape == (0, 2)


def test_march_refuses_bad_input():
    """A frame that does not exist, a step of zero and wrong shapes raise instead of reading foreign memory."""
    scene = _scene()
    with pytest.raises(IndexError):
        march(**scene | {"frame_index": torch.full((60,), 2)}, step=STEP)
    for wrong in ({"step": 0.0}, {"boxes": scene["boxes"][:1]}, {"jitter": scene["jitter"][:5]}):
        with pytest.raises(ValueError, match="march: .*expected"):
            march(**{**scene, "step": STEP, **wrong})


def _invert(samples: RaySamples, weights: torch.Tensor, ray: int, positions: np.ndarray) -> list[tuple[float, int]]:
    """Background-bin inversion of one ray by scanning its intervals for every position."""
    first, count = samples.packed_info[ray].tolist()
    edges = np.concatenate([[0.0], np.cumsum(weights[first : first + count].numpy())])
    edges /= max(edges[-1], 1.0)
    draws = []
    for u in positions:
        found = [i for i in range(count) if edges[i] <= u < edges[i + 1]]
        if not found:
            draws.append((0.0, -1))
            continue
        start, end = samples.t_starts[first + found[0]].item(), samples.t_ends[first + found[0]].item()
        share = (u - edges[found[0]]) / (edges[found[0] + 1] - edges[found[0]])
        draws.append((start + share * (end - start), first + found[0]))
    return draws


@pytest.mark.parametrize("count", [16, 512])
def test_resample_inverts_the_distribution(count):
    """Fails when a draw lands in a wrong interval, or at a wrong place of the right one."""
    samples = _samples([5, 0, 1, 12, 3])
    weights = _weights(samples)
    t, interval = resample(samples, weights, count)
    for ray in range(5):
        expected = _invert(samples, weights, ray, (np.arange(count) + 0.5) / count)
        np.testing.assert_allclose(t[ray], [depth for depth, _ in expected], atol=1e-12)
        assert interval[ray].tolist() == [index for _, index in expected]


@pytest.mark.parametrize("count", [16, 512])
def test_resample_counts_are_proportional(count):
    """Weights 1/8, 0, 1/2, 1/4 and a background of 1/8 get exactly their share of stratified draws."""
    samples = _samples([4])
    weights = torch.tensor([0.125, 0.0, 0.5, 0.25], dtype=torch.float64)
    interval = resample(samples, weights, count)[1][0]
    assert torch.bincount(interval + 1, minlength=5).tolist() == [count // 8, count // 8, 0, count // 2, count // 4]


def test_resample_normalises_heavy_rays():
    """Weights that sum to more than one leave no background and keep their ratio."""
    samples = _samples([2])
    interval = resample(samples, torch.tensor([1.0, 3.0], dtype=torch.float64), 16)[1][0]
    assert torch.bincount(interval).tolist() == [4, 12]


def test_resample_at_given_positions_in_any_order():
    """Fails when the running inversion does not start over for a smaller position."""
    samples = _samples([6, 2, 9])
    weights = _weights(samples)
    generator = torch.Generator().manual_seed(5)
    positions = torch.rand(3, 40, generator=generator, dtype=torch.float64)
    t, interval = resample(samples, weights, 40, positions)
    for ray in range(3):
        expected = _invert(samples, weights, ray, positions[ray].numpy())
        np.testing.assert_allclose(t[ray], [depth for depth, _ in expected], atol=1e-12)
        assert interval[ray].tolist() == [index for _, index in expected]


def test_random_draws_follow_the_weights():
    """Chi-square of 20,000 random draws against the weights and the background bin (99.9 % quantile, 6 degrees)."""
    samples = _samples([6])
    weights = _weights(samples)
    positions = torch.rand(1, 20000, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    interval = resample(samples, weights, 20000, positions)[1]
    found = torch.bincount(interval[0] + 1, minlength=7)
    expected = 20000 * torch.cat([1 - weights.sum()[None], weights])
    assert ((found - expected) ** 2 / expected).sum() < 22.46


def test_resample_equals_reference():
    """Fails when native kernel and reference differ, single precision included."""
    for dtype in (torch.float32, torch.float64):
        samples = _samples([5, 0, 1, 12, 3] * 20, dtype=dtype)
        weights = _weights(samples)
        positions = ((torch.arange(16, dtype=dtype) + 0.5) / 16)[None]
        packed = (samples.t_starts, samples.t_ends, samples.packed_info)
        expected = reference.resample(*packed, weights, positions)
        torch.testing.assert_close(resample(samples, weights, 16), expected, rtol=1e-4, atol=1e-4)


def test_some_rays_of_a_list_are_drawn_as_among_all():
    """Fails when the samples of the rays that are asked for are taken to begin at the list's first."""
    samples, some = _samples([5, 0, 1, 12, 3], dtype=torch.float64), torch.tensor([1, 3, 4])
    packed = (samples.t_starts, samples.t_ends, samples.packed_info)
    part = replace(samples, packed_info=samples.packed_info[some])
    weights, positions = _weights(samples), ((torch.arange(16, dtype=torch.float64) + 0.5) / 16)[None]
    expected = reference.resample(*packed, weights, positions)
    for t, interval in (
        resample(part, weights, 16),
        reference.resample(*packed[:2], part.packed_info, weights, positions),
    ):
        torch.testing.assert_close(t, expected[0][some])
        assert torch.equal(interval, expected[1][some])


def test_inserted_samples_split_the_intervals():
    """The edges of a ray afterwards are the old ones and the draws, sorted; the union of the intervals is kept."""
    samples = _samples([5, 0, 1, 12, 3])
    t, interval = resample(samples, _weights(samples), 16)
    refined = insert_samples(samples, t, interval)
    assert refined.packed_info[:, 1].tolist() == (samples.packed_info[:, 1] + (interval >= 0).sum(1)).tolist()
    for ray in range(5):
        old, new = (slice(i[ray, 0], i[ray].sum()) for i in (samples.packed_info, refined.packed_info))
        cuts = t[ray][interval[ray] >= 0]
        for edges, inserted in ((samples.t_starts, refined.t_starts), (samples.t_ends, refined.t_ends)):
            torch.testing.assert_close(inserted[new], torch.cat([edges[old], cuts]).sort().values)
        assert (refined.ray_indices[new] == ray).all()
    assert (refined.t_ends >= refined.t_starts).all()
    lengths = [(s.t_ends - s.t_starts).sum() for s in (samples, refined)]
    torch.testing.assert_close(*lengths)


def test_insert_equals_reference_and_skips_ignored_draws():
    """Fails when a draw marked -1 between others stops the insertion or adds an interval."""
    samples = _samples([5, 0, 1, 12, 3] * 10)
    t, interval = resample(samples, _weights(samples), 16)
    interval[:, ::3] = -1
    ours = insert_samples(samples, t, interval)
    packed = (samples.t_starts, samples.t_ends, samples.packed_info)
    expected = reference.insert_samples(*packed, t, interval)
    torch.testing.assert_close(_fields(ours), expected)


def test_insert_into_opaque_and_empty_rays():
    """An opaque ray gains all draws, a transparent one none, a ray of one interval is cut inside of it."""
    samples = _samples([1, 3, 0])
    weights = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    t, interval = resample(samples, weights, 16)
    refined = insert_samples(samples, t, interval)
    assert refined.packed_info[:, 1].tolist() == [17, 3, 0]
    length = samples.t_ends[0] - samples.t_starts[0]
    widths = (refined.t_ends - refined.t_starts)[:17]
    torch.testing.assert_close(widths[1:16], (length / 16).expand(15))
    torch.testing.assert_close(widths[[0, 16]], (length / 32).expand(2))


@pytest.mark.parametrize("room", [-40, 0, 40])
def test_a_capacity_changes_only_the_length(room):
    """Fails when rays that fit differ from those of an unlimited list, one that does not fit keeps samples, or rows
    behind the last sample are not empty intervals that weights and gradients pass over.
    """
    scene = _scene(rays=100, seed=6)
    whole = march(**scene, step=STEP)
    capacity = int(whole.total) + room
    ours = march(**scene, step=STEP, capacity=capacity)
    torch.testing.assert_close(_fields(ours), reference.march(**scene, step=STEP, capacity=capacity))
    assert int(ours.total) == len(whole.t_starts)
    assert len(ours.t_starts) == capacity
    used = int(ours.packed_info[:, 1].sum())
    assert capacity - 20 <= used if room < 0 else used == int(whole.total)
    torch.testing.assert_close(ours.t_starts[:used], whole.t_starts[:used])
    assert not ours.t_ends[used:].any()
    assert (ours.packed_info.sum(1) <= capacity).all()
    weights = _weights(ours)
    assert not weights[used:].any()
    t, interval = resample(ours, weights, 9)
    refined = insert_samples(ours, t, interval, capacity=capacity + 300)
    packed = (ours.t_starts, ours.t_ends, ours.packed_info)
    torch.testing.assert_close(_fields(refined), reference.insert_samples(*packed, t, interval, capacity + 300))
    unlimited = insert_samples(ours, t, interval)
    torch.testing.assert_close(unlimited.total, refined.total)
    many = int(refined.packed_info[:, 1].sum())
    torch.testing.assert_close(refined.t_ends[:many], unlimited.t_ends[:many])


def test_weights_by_hand():
    """w_i = alpha_i prod (1 - alpha_j), started afresh on every ray."""
    alphas = torch.tensor([0.5, 0.5, 0.25, 1.0, 0.5], dtype=torch.float64)
    packed_info = torch.tensor([[0, 2], [2, 0], [2, 1], [3, 2]])
    expected = torch.tensor([0.5, 0.25, 0.25, 1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(render_weights(alphas, packed_info), expected)


def test_weights_and_transmittance_sum_to_one():
    """What is not composited is transmitted: sum w + prod (1 - alpha) = 1 on every ray."""
    samples = _samples([5, 0, 1, 60, 3])
    alphas = torch.rand(69, generator=torch.Generator().manual_seed(7), dtype=torch.float64) * 0.3
    weights = render_weights(alphas, samples.packed_info)
    opacity = accumulate(weights, torch.ones(69, 1, dtype=torch.float64), samples.packed_info)[:, 0]
    for ray, (first, count) in enumerate(samples.packed_info.tolist()):
        transmitted = (1 - alphas[first : first + count]).prod()
        torch.testing.assert_close(opacity[ray] + transmitted, torch.ones((), dtype=torch.float64))


def test_weights_gradcheck_up_to_opaque_samples():
    """Fails when the adjoint divides by 1 - alpha: alphas of exactly one and zero are among the inputs."""
    alphas = torch.tensor([0.3, 1.0, 0.4, 0.0, 0.2, 0.9, 1.0, 1.0], dtype=torch.float64, requires_grad=True)
    packed_info = torch.tensor([[0, 4], [4, 0], [4, 1], [5, 3]])
    assert torch.autograd.gradcheck(lambda a: render_weights(a, packed_info), alphas)


def test_weights_equal_reference():
    """Fails when values or gradients differ from cumulative products of padded rays."""
    samples = _samples([5, 0, 1, 12, 3] * 40, dtype=torch.float32)
    alphas = torch.rand(samples.t_starts.shape, generator=torch.Generator().manual_seed(8)).requires_grad_()
    results = []
    for function in (render_weights, reference.render_weights):
        weights = function(alphas, samples.packed_info)
        results.append((weights, *torch.autograd.grad(weights.square().sum(), alphas)))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_without_samples():
    """Rays that meet nothing pass through every operator."""
    empty = _samples([0, 0, 0])
    weights = render_weights(torch.zeros(0, dtype=torch.float64, requires_grad=True), empty.packed_info)
    weights.sum().backward()
    t, interval = resample(empty, weights.detach(), 4)
    assert (interval == -1).all()
    assert not t.any()
    assert insert_samples(empty, t, interval).packed_info.tolist() == [[0, 0]] * 3


def test_results_do_not_depend_on_threads():
    """Fails when tasks write to each other's samples or samples are not in the order of their rays."""
    scene = _scene(rays=3000, seed=9)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            samples = march(**scene, step=STEP)
            refined = insert_samples(samples, *resample(samples, _weights(samples), 8))
            found.append((samples.t_starts, refined.t_starts, refined.ray_indices))
    finally:
        torch.set_num_threads(threads)
    for a, b in itertools.pairwise(found):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert (found[0][2].diff() >= 0).all()


def test_operators_are_registered_completely():
    """Fails when the schema, autograd or shape inference of an operator disagrees with what it does."""
    samples = _samples([5, 0, 1])
    alphas = torch.rand(6, dtype=torch.float64, requires_grad=True)
    utilities = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(torch.ops.gs_ir.render_weights.default, (alphas, samples.packed_info), test_utils=utilities)


def test_bad_shapes_are_named():
    """Weights, positions or draws that do not belong to the samples raise."""
    samples = _samples([5, 0, 1])
    with pytest.raises(ValueError, match="one weight per interval"):
        resample(samples, torch.zeros(4), 8)
    with pytest.raises(ValueError, match=r"positions \[R, 8\]"):
        resample(samples, torch.zeros(6), 8, torch.zeros(2, 8))
    with pytest.raises(ValueError, match="insert_samples"):
        insert_samples(samples, torch.zeros(2, 4), torch.zeros(2, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="render_weights"):
        render_weights(torch.zeros(2, 3), samples.packed_info)
