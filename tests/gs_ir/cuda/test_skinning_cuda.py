"""CUDA kernels of the lookup of blended transforms."""

import pytest
import torch

from gs_ir.reference import skinning as reference
from gs_ir.skinning import sample_transforms
from tests.gs_ir.cuda.agreement import assert_agree

BOX = [[-1.0, -0.5, -2.0], [1.0, 1.5, 0.5]]
TOLERANCES = {torch.float32: {"rtol": 1e-4, "atol": 2e-4}, torch.float64: {"rtol": 1e-12, "atol": 1e-11}}


def _scene(count: int, dtype: torch.dtype, shape: tuple[int, int, int] = (4, 5, 6)):
    """Points, a good part of them outside of the box; volumes of three frames; the box; the points' frames."""
    generator = torch.Generator().manual_seed(count)
    volume = torch.randn(3, *shape, 12, generator=generator, dtype=dtype)
    points = torch.randn(count, 3, generator=generator, dtype=dtype)
    return points, volume, torch.tensor(BOX, dtype=dtype), torch.randint(0, 3, (count,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 255, 256, 2000])
def test_sample_transforms(count, dtype):
    """Fails when axes, corners or frames are mixed up, a clamped axis passes a slope, or an addition to the volume is
    lost; worst difference expected 1e-4 (sums over many points).
    """
    points, volume, box, frame = _scene(count, dtype)
    arguments = (points.requires_grad_(), volume.requires_grad_(), box, frame)
    assert_agree(sample_transforms, arguments, reference=reference.sample_transforms, **TOLERANCES[dtype])


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 33, 3), (17, 2, 40)])
def test_shapes(shape):
    """Fails when a stride belongs to another axis or the last voxel of an axis is read over its end."""
    points, volume, box, frame = _scene(1000, torch.float64, shape)
    arguments = (points.requires_grad_(), volume.requires_grad_(), box, frame)
    assert_agree(sample_transforms, arguments, reference=reference.sample_transforms, **TOLERANCES[torch.float64])


def test_one_gradient_at_a_time():
    """Fails when a gradient is only right together with the other."""
    points, volume, box, frame = _scene(500, torch.float64)
    for arguments in ((points.clone().requires_grad_(), volume), (points, volume.clone().requires_grad_())):
        assert_agree(sample_transforms, (*arguments, box, frame), **TOLERANCES[torch.float64])


def test_views_at_any_address():
    """Fails when a vector load assumes that a volume or a cotangent begins where an allocation does."""
    points, volume, box, frame = _scene(100, torch.float32)

    def shifted(points, volume):
        storage = torch.cat([volume.new_zeros(1), volume.flatten()])
        transforms = sample_transforms(points, storage[1:].view_as(volume), box.to(points), frame.to(points.device))
        return torch.cat([transforms.new_zeros(1), transforms.flatten()])[1:]  # its cotangent is a view, one number off

    assert_agree(shifted, (points.requires_grad_(), volume.requires_grad_()), **TOLERANCES[torch.float32])
