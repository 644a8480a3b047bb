"""CUDA kernels of the seeds and of the posed to canonical search: a limb of two bones is bent and found again."""

import math

import pytest
import torch
from torch import Tensor

from gs_ir.correspondence import SeedGrid, build_seeds, find_correspondences
from gs_ir.reference import correspondence as reference
from gs_ir.skinning import blend_transforms, sample_transforms
from tests.gs_ir.cuda.agreement import assert_agree

BOX = [[-0.4, -0.8, -0.3], [0.4, 0.8, 0.3]]


def _volume(bends: list[float], dtype: torch.dtype) -> Tensor:
    """[B, 16, 41, 21, 12]: 4 cm voxels; the half beyond y = 0 turns about z, within about 20 cm."""
    beyond = torch.sigmoid(torch.linspace(-0.8, 0.8, 41, dtype=dtype) / 0.05)
    weights = torch.stack([1 - beyond, beyond], -1)[None, :, None].expand(16, 41, 21, 2).contiguous()
    transforms = torch.eye(4, dtype=dtype).repeat(len(bends), 2, 1, 1)
    for frame, angle in enumerate(bends):
        c, s = math.cos(angle), math.sin(angle)
        transforms[frame, 1, :2, :2] = torch.tensor([[c, -s], [s, c]], dtype=dtype)
    return blend_transforms(weights, transforms)


def _limb(count: int, thickness: float, dtype: torch.dtype) -> Tensor:
    """[count, 3] points within ``thickness`` of a cylinder along y."""
    random = torch.rand(count, 3, generator=torch.Generator().manual_seed(count), dtype=dtype)
    radius, angle = 0.07 + thickness * (2 * random[:, 0] - 1), 2 * math.pi * random[:, 1]
    return torch.stack([radius * angle.cos(), 1.2 * random[:, 2] - 0.6, radius * angle.sin()], -1)


def _skin(points: Tensor, volume: Tensor, frame: Tensor) -> Tensor:
    transforms = sample_transforms(points, volume, torch.tensor(BOX, dtype=points.dtype), frame)
    return (transforms[:, :, :3] @ points[:, :, None])[..., 0] + transforms[:, :, 3]


def _posed_surface(points: int, bends: list[float], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    surface, volume = _limb(points, 0.0, dtype), _volume(bends, dtype)
    frames = torch.arange(len(bends)).repeat_interleave(points)
    return _skin(surface.repeat(len(bends), 1), volume, frames).reshape(len(bends), points, 3), surface


def _fields(grid: SeedGrid) -> tuple[Tensor, ...]:
    return grid.seeds, grid.counts, grid.boxes


@pytest.mark.parametrize("max_seeds", [1, 3, 8])
@pytest.mark.parametrize(("resolution", "points"), [(1, 1), (1, 700), (7, 1), (7, 127), (7, 128), (7, 129), (24, 3000)])
def test_seeds(resolution, points, max_seeds):
    """Fails when a cell misses a point beyond one list of candidates, or takes seeds in another order; the arithmetic
    of a choice is the CPU's, in double precision all seeds are equal.
    """
    posed, surface = _posed_surface(points, [2.4, 0.3], torch.float64)

    def on_ops(posed, canonical):
        return _fields(build_seeds(posed, canonical, resolution, 0.08, max_seeds))

    def on_reference(posed, canonical):
        return reference.build_seeds(posed, canonical, resolution, 0.08, max_seeds)

    assert_agree(on_ops, (posed, surface), reference=on_reference, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("axis", [0, 2])
def test_seeds_along_every_axis(axis):
    """Fails when the slabs along the longest side of a box belong to another axis: the limb lies along y elsewhere."""
    posed, surface = (x.roll(axis - 1, -1) for x in _posed_surface(2000, [0.4, 0.0], torch.float64))

    def on_ops(posed, canonical):
        return _fields(build_seeds(posed, canonical, 13, 0.08))

    assert_agree(on_ops, (posed, surface), rtol=1e-12, atol=1e-12)


def test_seeds_in_single_precision():
    """Fails when more cells than rounding explains differ: at the radius, at a tie, where two sheets part."""
    posed, surface = _posed_surface(3000, [2.4, 0.3], torch.float32)
    on_cpu = build_seeds(posed, surface, 24, 0.08)
    on_gpu = build_seeds(posed.cuda(), surface.cuda(), 24, 0.08)
    torch.testing.assert_close(on_gpu.boxes.cpu(), on_cpu.boxes)
    same = (on_gpu.counts.cpu() == on_cpu.counts) & (on_gpu.seeds.cpu() == on_cpu.seeds).all(-1).all(-1)
    assert same.float().mean() > 0.999


def test_no_frames():
    """Fails when an empty batch is launched."""
    posed, surface = _posed_surface(10, [0.0], torch.float32)
    grid = build_seeds(posed[:0].cuda(), surface.cuda(), 4, 0.08)
    assert grid.seeds.shape == (0, 4, 4, 4, 3, 3)


def _search_scene(count: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Queries, some of them far from the limb; their frames; the grid's three tensors; the volume; the box."""
    bends = [0.0, 0.9, 2.3]
    volume = _volume(bends, dtype)
    frame = torch.arange(count) % 3
    queries = _skin(_limb(count, 0.05, dtype), volume, frame)
    queries[::17] += 1.0
    grid = build_seeds(*_posed_surface(2000, bends, dtype), 24, 0.08)
    return queries, frame, *_fields(grid), volume, torch.tensor(BOX, dtype=dtype)


def _search(*scene: Tensor) -> tuple[Tensor, ...]:
    found = find_correspondences(*scene[:2], SeedGrid(*scene[2:5]), *scene[5:])
    return found.canonical, found.valid, found.jacobian


def _search_on_reference(*scene: Tensor) -> tuple[Tensor, ...]:
    grid = list(scene[2:5])
    return reference.find_correspondences(*scene[:2], grid, *scene[5:], iterations=6, tolerance=1e-5)


@pytest.mark.parametrize("count", [0, 1, 127, 128, 2000])
def test_search(count):
    """Fails when a query's frame, cell, seeds or an iteration differ; in double precision no decision is a close one.

    Worst difference expected 1e-9: six Newton steps amplify rounding beside folds.
    """
    scene = _search_scene(count, torch.float64)
    assert_agree(_search, scene, reference=_search_on_reference, rtol=1e-7, atol=1e-7)


def test_search_in_single_precision():
    """Fails when single precision loses roots or moves them: at most 0.5 % of the decisions may fall otherwise, since a
    residual is close to the tolerance there, and roots agree within the tolerance over the smallest stretch.
    """
    scene = _search_scene(4000, torch.float32)
    canonical, valid, jacobian = _search(*scene)
    found = [x.cpu() for x in _search(*(x.cuda() for x in scene))]
    both = valid & found[1]
    assert valid.sum() > 3000
    assert (valid != found[1]).sum() <= 0.005 * valid.sum()
    close = (found[0] - canonical)[both].norm(dim=-1) < 1e-3
    assert close.float().mean() > 0.995
    torch.testing.assert_close(found[2][both][close], jacobian[both][close], rtol=0.05, atol=0.05)
    assert (found[0][~found[1]] == 0).all()
    assert (found[2][~found[1]] == torch.eye(3)).all()


def test_volume_at_any_address():
    """Fails when a vector load assumes that a volume begins where an allocation does."""
    *scene, volume, box = _search_scene(300, torch.float64)

    def shifted(*tensors):
        *others, volume, box = tensors
        return _search(*others, torch.cat([volume.new_zeros(1), volume.flatten()])[1:].view_as(volume), box)

    assert_agree(shifted, (*scene, volume, box), rtol=1e-7, atol=1e-7)
