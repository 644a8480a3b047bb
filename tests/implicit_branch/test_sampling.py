"""Pixels and rays of a step, samples along rays, stratified directions."""

import pytest
import torch

from core.camera import Camera
from core.errors import InputError
from gs_ir.marching import RaySamples, render_weights
from implicit_branch.sampling.directions import strata, stratified_uniforms
from implicit_branch.sampling.pixels import SAMPLERS, PatchSampler, edge_sampler
from implicit_branch.sampling.rays import CameraTable, PrimarySampling, RayBundle, keep, sample_rays


def _masks() -> torch.Tensor:
    masks = torch.zeros(3, 40, 60)
    masks[0, 10:30, 20:40] = 1
    masks[1, 5:10, 5:15] = 1
    masks[2, 20:39, 1:50] = 1
    return masks


def test_edge_band_lies_on_all_four_sides():
    """Fails when the band is horizontal only, as with a morphology on the flattened mask."""
    sampler = edge_sampler(_masks(), num_sample=6000, ratio_mask=0.0, ratio_edge=1.0, kernel_size=6)
    pixels = sampler.draw(torch.tensor([0]), torch.Generator().manual_seed(0))[0]
    rows, columns = pixels // 60, pixels % 60
    inside = (rows >= 14) & (rows < 26) & (columns >= 24) & (columns < 36)
    outside = (rows < 6) | (rows >= 34) | (columns < 16) | (columns >= 44)
    assert not inside.any()
    assert not outside.any()
    middle = (columns > 27) & (columns < 33)
    assert (middle & (rows < 10)).any()
    assert (middle & (rows >= 30)).any()


def test_shares_of_the_edge_sampler():
    """Fails when pixels come from another frame's list or shares are swapped."""
    masks = _masks()
    sampler = edge_sampler(masks, num_sample=3000, ratio_mask=0.6, ratio_edge=0.3, kernel_size=4)
    frames = torch.tensor([2, 0, 1])
    pixels = sampler.draw(frames, torch.Generator().manual_seed(0))
    assert pixels.shape == (3, 1000)
    foreground = masks.flatten(1)[frames[:, None], pixels]
    assert (foreground[:, :600] == 1).all()
    assert 0.2 < foreground[:, 600:900].mean() < 0.8


@pytest.mark.parametrize("name", ["balanced", "uniform", "patch"])
def test_other_samplers_draw_pixels_of_the_image(name: str):
    """Fails when a sampler of the configuration does not run or leaves the image."""
    sampler = SAMPLERS[name](_masks(), **({"patch_size": 8} if name == "patch" else {"num_sample": 100}))
    pixels = sampler.draw(torch.tensor([0, 2]), torch.Generator().manual_seed(0))
    assert pixels.shape[0] == 2
    assert pixels.min() >= 0
    assert pixels.max() < 2400


def test_patches_are_squares():
    """Fails when a patch wraps at the image's edge."""
    sampler = PatchSampler(_masks(), num_patch=2, patch_size=8)
    patch = sampler.draw(torch.tensor([2]), torch.Generator().manual_seed(1)).reshape(-1, 8, 8)
    assert (patch.diff(dim=2) == 1).all()
    assert (patch.diff(dim=1) == 60).all()


def test_empty_mask_names_its_frame():
    """Fails when a frame without a person crashes a step instead of being reported at the start."""
    masks = _masks()
    masks[1] = 0
    with pytest.raises(InputError, match="frame 1"):
        edge_sampler(masks)


def _camera(angle: float) -> Camera:
    pose = torch.eye(4)
    pose[0, 0], pose[0, 2] = torch.cos(torch.tensor(angle)), torch.sin(torch.tensor(angle))
    pose[2, 0], pose[2, 2] = -pose[0, 2], pose[0, 0]
    pose[:3, 3] = torch.tensor([0.1, 0.2, 0.3])
    return Camera(torch.tensor([[50.0, 0, 31], [0, 60.0, 21], [0, 0, 1]]), pose, 60, 40)


def test_training_rays_are_the_camera_s_rays():
    """Fails when training and rendering disagree by half a pixel or a transposed rotation."""
    cameras = [_camera(0.3), _camera(-0.5)]
    pixels = torch.tensor([[0, 59, 1234], [60, 2399, 700]])
    origins, directions = CameraTable(cameras).rays(torch.tensor([1, 0]), pixels)
    for row, camera in enumerate((cameras[1], cameras[0])):
        expected = camera.pixel_rays(pixels[row] % 60, pixels[row] // 60)
        torch.testing.assert_close(origins[row], expected[0].contiguous())
        torch.testing.assert_close(directions[row], expected[1])


def test_samples_gather_at_a_wall():
    """Fails when importance rounds resample the wrong intervals: a wall at 2 m must be found within a step."""
    rays = RayBundle(torch.zeros(4, 3), torch.tensor([[0.0, 0, 1]]).repeat(4, 1), torch.zeros(4, dtype=torch.int64))
    occupancy, boxes = torch.ones(1, 4, 4, 4, dtype=torch.uint8), torch.tensor([[[-1.0, -1, 1], [1, 1, 3]]])

    def alpha(points, frame_index, lengths):
        return 1 - torch.exp(-200 * lengths * (points[:, 2] > 2))

    sampling = PrimarySampling(step=0.1, rounds=2, samples=8)
    samples = sample_rays(rays, occupancy, boxes, alpha, sampling, jitter=torch.full((4,), 0.5))
    points = rays.at(samples.ray_indices, samples.midpoints)
    weights = render_weights(alpha(points, None, samples.t_ends - samples.t_starts), samples.packed_info)
    samples = keep(samples, weights > 1e-3).samples
    assert len(samples.t_starts) < 4 * 20
    assert samples.t_ends.max() < 2.2
    assert (samples.t_ends - samples.t_starts)[samples.midpoints > 2].min() < 0.02


def test_keep_repacks_rays():
    """Fails when a ray that loses all intervals shifts those of the next ones."""
    samples = RaySamples(
        torch.arange(5.0), torch.arange(5.0) + 1, torch.tensor([0, 0, 1, 2, 2]), torch.tensor([[0, 2], [2, 1], [3, 2]])
    )
    kept = keep(samples, torch.tensor([True, False, False, True, True])).samples
    assert kept.packed_info.tolist() == [[0, 1], [1, 0], [1, 2]]
    assert kept.t_starts.tolist() == [0, 3, 4]


@pytest.mark.parametrize("count", [1, 8, 32, 37, 512])
def test_every_stratum_has_one_point(count: int):
    """Fails when the shuffled grid repeats a cell."""
    rows, columns = strata(count)
    assert rows * columns == count
    points = stratified_uniforms(3, count, torch.Generator().manual_seed(0), torch.zeros(1))
    cell = (points[..., 0] * rows).long() * columns + (points[..., 1] * columns).long()
    assert (cell.sort(1).values == torch.arange(count)).all()
