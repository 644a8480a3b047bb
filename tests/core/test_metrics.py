"""Image metrics against hand-computed values, scikit-image and torchmetrics."""

import math

import cv2
import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.image import structural_similarity_index_measure

from core.metrics import (
    albedo_gain,
    aligned_albedo,
    bounding_box,
    mask_iou,
    normal_error_degrees,
    psnr,
    ssim,
    valid_rectangle,
)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(3)
    target = torch.rand(34, 29, 3, generator=generator)
    return (target + 0.1 * torch.randn(34, 29, 3, generator=generator)).clamp(0, 1), target


def test_psnr_of_a_constant_difference():
    """Catches a wrong logarithm or mean: a difference of 0.1 everywhere is 20 dB."""
    assert psnr(torch.full((4, 5, 3), 0.6), torch.full((4, 5, 3), 0.5)).item() == pytest.approx(20, abs=1e-4)


def test_psnr_agrees_with_skimage(pair):
    """Catches a mean over the wrong axes."""
    expected = peak_signal_noise_ratio(pair[1].numpy(), pair[0].numpy(), data_range=1)
    assert psnr(*pair).item() == pytest.approx(expected, abs=1e-4)


def test_psnr_looks_at_the_mask_only():
    """Catches pixels outside the mask that enter the sum or the count."""
    predicted, target, mask = torch.zeros(4, 4, 3), torch.zeros(4, 4, 3), torch.zeros(4, 4)
    predicted[0, 0], predicted[3, 3], mask[0, :2] = 0.2, 1.0, 1.0
    assert psnr(predicted, target, mask).item() == pytest.approx(-10 * math.log10(0.04 / 2), abs=1e-4)


@pytest.mark.parametrize("data_range", [1.0, 2.0])
def test_ssim_agrees_with_skimage(pair, data_range):
    """Catches a wrong window, covariance norm or border in the published convention (range 2) and the standard one."""
    a, b = (image.double().numpy() for image in pair)
    expected = structural_similarity(a, b, data_range=data_range, channel_axis=-1)
    assert ssim(*pair, data_range).item() == pytest.approx(expected, abs=1e-9)


def test_published_data_range_scores_higher(pair):
    """Catches the two conventions exchanged."""
    assert ssim(*pair, 2.0) > ssim(*pair, 1.0)


def test_gaussian_ssim_agrees_with_torchmetrics(pair):
    """Catches a difference from the evaluator of the published PeopleSnapshot table."""
    batches = [image.double().movedim(-1, 0)[None] for image in pair]
    expected = structural_similarity_index_measure(*batches, data_range=1.0).item()
    assert ssim(*pair, 1.0, "gaussian").item() == pytest.approx(expected, abs=1e-6)


def test_ssim_refuses_images_smaller_than_the_window():
    """Catches NaN from an empty mean."""
    with pytest.raises(ValueError, match="at least 7"):
        ssim(torch.zeros(6, 20, 3), torch.zeros(6, 20, 3), 1.0)


def test_normal_error_averages_degrees_inside_the_mask():
    """Catches an angle of mean vectors, unnormalised input, and pixels outside the mask."""
    target = torch.tensor([0.0, 0.0, 1.0]).expand(1, 4, 3)
    angles = torch.tensor([0.0, 30.0, 90.0, 180.0]).deg2rad()
    predicted = torch.stack([angles.sin(), torch.zeros(4), angles.cos()], -1)[None] * 3
    mask = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    assert normal_error_degrees(predicted, target, mask).item() == pytest.approx(40.0, abs=1e-4)


def test_small_normal_errors_are_resolved():
    """Catches arccos in float32, which returns 0 or 0.03 degrees for an angle of 0.01."""
    angle = math.radians(0.01)
    predicted = torch.tensor([[[math.sin(angle), 0.0, math.cos(angle)]]])
    error = normal_error_degrees(predicted, torch.tensor([[[0.0, 0.0, 1.0]]]), torch.ones(1, 1))
    assert error.item() == pytest.approx(0.01, rel=1e-3)


def test_mask_iou():
    """Catches union and intersection exchanged: 2 of 6 pixels are common."""
    a, b = torch.zeros(3, 4), torch.zeros(3, 4)
    a[0], b[0, 2:], b[1, :2] = 1, 0.9, 0.7
    assert mask_iou(a, b).item() == pytest.approx(2 / 6)
    assert mask_iou(torch.zeros(2, 2), torch.zeros(2, 2)).item() == 1


def test_albedo_gain_is_the_least_squares_solution(pair):
    """Catches the inverted ratio: compared with numpy's least squares per channel, inside the mask."""
    predicted, target = pair
    mask = torch.zeros(34, 29)
    mask[5:20, 3:25] = 1
    gain = albedo_gain(predicted, target, mask)
    for channel in range(3):
        a, b = (image[5:20, 3:25, channel].reshape(-1, 1).double().numpy() for image in (predicted, target))
        assert gain[channel].item() == pytest.approx(np.linalg.lstsq(a, b, rcond=None)[0].item(), rel=1e-5)


def test_aligned_albedo_undoes_a_channel_scale():
    """Catches a single gain for all channels, missing clamp, or values left outside the mask."""
    target = torch.rand(6, 6, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(6, 6)
    mask[1:5, 1:5] = 1
    aligned = aligned_albedo(target * torch.tensor([0.5, 2.0, 1.3]), target, mask)
    torch.testing.assert_close(aligned, target * mask[..., None])
    assert aligned_albedo(torch.ones(6, 6, 3) * 0.5, target * 9, mask).max() <= 1


@pytest.mark.parametrize("kernel", [100, 50, 7])
@pytest.mark.parametrize("corner", [(120, 130), (0, 3), (290, 299)])
def test_valid_rectangle_is_the_box_of_the_dilated_mask(kernel, corner):
    """Catches a box that grows by the whole kernel, or runs over the edge: compared with cv2.dilate."""
    mask = np.zeros((300, 310), np.uint8)
    mask[corner[0] : corner[0] + 10, corner[1] : corner[1] + 4] = 1
    mask[corner[0], corner[1]] = 0
    rows, columns = np.nonzero(cv2.dilate(mask, np.ones((kernel, kernel), np.uint8)))
    expected = np.zeros_like(mask, dtype=bool)
    expected[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
    np.testing.assert_array_equal(valid_rectangle(torch.from_numpy(mask), kernel).numpy(), expected)


def test_bounding_box():
    """Catches rows and columns exchanged, and an empty mask."""
    mask = torch.zeros(5, 8)
    mask[1, 2] = mask[3, 6] = 1
    assert bounding_box(mask) == (slice(1, 4), slice(2, 7))
    assert bounding_box(torch.zeros(5, 8)) == (slice(0, 5), slice(0, 8))
