"""CUDA kernels of marching, resampling and compositing."""

import pytest
import torch
from torch import Tensor

from gs_ir.marching import RaySamples, insert_samples, march, render_weights, resample
from gs_ir.reference import marching as reference
from gs_ir.reference.packed import ray_of_sample
from tests.gs_ir.cuda.agreement import assert_agree

TOLERANCES = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.float64: {"rtol": 1e-12, "atol": 1e-12}}
COUNTS = [0, 1, 63, 64, 700]


def _scene(rays: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Two sparse grids of unequal sides; a quarter of the rays begin inside, some miss, some run along axes."""
    generator = torch.Generator().manual_seed(rays)
    boxes = torch.tensor([[[-1.0, -0.8, -0.6], [1.0, 0.9, 0.7]], [[-0.5, -2.0, 0.1], [1.5, 0.4, 1.0]]], dtype=dtype)
    frame_index = torch.randint(0, 2, (rays,), generator=generator)
    low, high = boxes[frame_index].unbind(1)
    origins = (low + high) / 2 + 3 * torch.randn(rays, 3, generator=generator, dtype=dtype)
    targets = low + (high - low) * (1.3 * torch.rand(rays, 3, generator=generator, dtype=dtype) - 0.15)
    origins[: rays // 4] = low[: rays // 4] + 0.4 * (high - low)[: rays // 4]
    directions = torch.nn.functional.normalize(targets - origins, dim=-1)
    directions[:6] = torch.cat([torch.eye(3, dtype=dtype), -torch.eye(3, dtype=dtype)])[:rays]
    occupancy = (torch.rand(2, 4, 5, 9, generator=generator) < 0.3).to(torch.uint8) * 3
    return origins, directions, occupancy, boxes, frame_index, torch.rand(rays, generator=generator, dtype=dtype)


def _fields(samples: RaySamples) -> tuple[Tensor, ...]:
    return samples.t_starts, samples.t_ends, samples.ray_indices, samples.packed_info, samples.total


def _samples(rays: int, dtype: torch.dtype, most: int = 40) -> tuple[Tensor, ...]:
    """Fields of intervals with gaps, up to ``most`` on a ray; some rays have none."""
    generator = torch.Generator().manual_seed(rays)
    packed_info = reference.pack(torch.randint(0, most, (rays,), generator=generator))
    total = int(packed_info[:, 1].sum())
    edges = torch.rand(2 * total, generator=generator, dtype=dtype).cumsum(0) / 100
    return edges[::2].contiguous(), edges[1::2].contiguous(), ray_of_sample(packed_info, total), packed_info


def _weights(samples: tuple[Tensor, ...], scale: float) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return scale * torch.rand(samples[0].shape, generator=generator, dtype=samples[0].dtype)


@pytest.mark.parametrize("step", [0.11, 0.013])
@pytest.mark.parametrize("rays", COUNTS)
def test_march(rays, step):
    """Fails when a ray or a step is missed, or the passes that count and fill disagree; double precision."""

    def on_ops(*tensors):
        return _fields(march(*tensors[:5], step=step, jitter=tensors[5]))

    def on_reference(*tensors):
        return reference.march(*tensors[:5], step=step, jitter=tensors[5])

    assert_agree(on_ops, _scene(rays, torch.float64), reference=on_reference, **TOLERANCES[torch.float64])


def test_march_in_single_precision():
    """Fails when more than the rounding of a midpoint at a cell's side tells the GPU from the CPU."""
    scene, step = _scene(3000, torch.float32), 0.013
    found = []
    for device in ("cpu", "cuda"):
        tensors = [x.to(device) for x in scene]
        samples = march(*tensors[:5], step=step, jitter=tensors[5])
        interval = (samples.t_starts / step - tensors[5][samples.ray_indices]).round().long()
        torch.testing.assert_close(samples.packed_info[:, 1].sum().item(), len(samples.t_starts))
        found.append(set(zip(samples.ray_indices.tolist(), interval.tolist(), strict=True)))
    assert len(found[0]) > 10_000
    assert len(found[0] ^ found[1]) <= 1e-3 * len(found[0])


def test_march_through_nothing():
    """Fails when no sample at all leaves the bookkeeping of the rays unwritten."""
    scene = list(_scene(100, torch.float32))
    scene[2] = torch.zeros_like(scene[2])

    def on_ops(*tensors):
        return _fields(march(*tensors[:5], step=0.1, jitter=tensors[5]))

    assert_agree(on_ops, tuple(scene), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.02, 0.3])
@pytest.mark.parametrize("rays", COUNTS)
def test_resample(rays, scale, dtype):
    """Fails when the CDF of a ray is inverted otherwise: weights below and above one, own and shared positions.

    Worst difference expected 1e-6. In single precision the reference sums in another order and may fall into the next
    interval, so that only double precision is compared with it.
    """
    samples = _samples(rays, dtype)
    weights = _weights(samples, scale)
    generator = torch.Generator().manual_seed(4)
    for rows in (1, rays):
        positions = torch.rand(rows, 16, generator=generator, dtype=dtype)
        if rows == rays:
            positions = positions.sort(1).values

        def on_ops(*tensors):
            return resample(RaySamples(*tensors[:4]), tensors[4], 16, tensors[5])

        def on_reference(*tensors):
            return reference.resample(tensors[0], tensors[1], *tensors[3:])

        compared = on_reference if dtype == torch.float64 else None
        assert_agree(on_ops, (*samples, weights, positions), reference=compared, **TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rays", COUNTS)
def test_insert_samples(rays, dtype):
    """Fails when an interval is not cut, lost or written over a neighbouring ray's; all values are copies."""
    samples = _samples(rays, dtype)
    t, interval = resample(RaySamples(*samples), _weights(samples, 0.05), 9)

    def on_ops(*tensors):
        return _fields(insert_samples(RaySamples(*tensors[:4]), *tensors[4:]))

    def on_reference(*tensors):
        return reference.insert_samples(tensors[0], tensors[1], *tensors[3:])

    assert_agree(on_ops, (*samples, t, interval), reference=on_reference, rtol=0, atol=0)


@pytest.mark.parametrize("capacity", [1, 500, 100_000])
@pytest.mark.parametrize("rays", COUNTS)
def test_capacity(rays, capacity):
    """Fails when rays that do not fit keep samples, unused rows are not written, or the host waits for the number."""
    scene = _scene(rays, torch.float64)

    def marched(*tensors):
        samples = march(*tensors[:5], step=0.11, jitter=tensors[5], capacity=capacity)
        weights = render_weights(torch.full_like(samples.t_starts, 0.05), samples.packed_info)
        draws = resample(samples, weights, 9)
        return (*_fields(samples), weights, *_fields(insert_samples(samples, *draws, capacity=2 * capacity)))

    assert_agree(marched, scene, **TOLERANCES[torch.float64])
    on_device = [x.cuda() for x in scene]
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        marched(*on_device)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("most", [2, 40, 300])
@pytest.mark.parametrize("rays", COUNTS)
def test_render_weights(rays, most, dtype):
    """Fails when a ray's transmittance or adjoint is wrong, also behind an opaque sample; worst expected 2e-6."""
    alphas = _weights(_samples(rays, dtype, most), 0.5)
    alphas[::7] = 0.0
    alphas[::11] = 1.0
    packed_info = _samples(rays, dtype, most)[3]
    arguments = (alphas.requires_grad_(), packed_info)
    assert_agree(render_weights, arguments, reference=reference.render_weights, **TOLERANCES[dtype])
