"""Named metric conventions: which pixels they compare and with which settings."""

import pytest
import torch

from core.metric_conventions import CONVENTIONS, albedo_metrics, image_metrics
from core.metrics import psnr, ssim


@pytest.fixture
def scene():
    generator = torch.Generator().manual_seed(1)
    target = torch.rand(32, 40, 3, generator=generator)
    valid = torch.zeros(32, 40, dtype=torch.bool)
    valid[4:24, 10:34] = True
    predicted = target + 0.05 * torch.randn(32, 40, 3, generator=generator)
    predicted[~valid] = 0
    return predicted.clamp(0, 1), target, valid


@pytest.mark.parametrize(("name", "data_range"), [("published_rana", 2.0), ("standard", 1.0)])
def test_cropping_conventions_ignore_what_lies_outside(scene, name, data_range):
    """Catches metrics over the whole image, and the conventions' data ranges exchanged."""
    predicted, target, valid = scene
    values = image_metrics(predicted, target, CONVENTIONS[name], valid=valid)
    crop = predicted[4:24, 10:34], target[4:24, 10:34]
    assert values["psnr"] == pytest.approx(psnr(*crop).item())
    assert values["ssim"] == pytest.approx(ssim(*crop, data_range).item())


def test_peoplesnapshot_convention_compares_whole_images(scene):
    """Catches a crop in the convention that has none."""
    predicted, target, valid = scene
    values = image_metrics(predicted, target, CONVENTIONS["published_peoplesnapshot"], valid=valid)
    assert values["psnr"] == pytest.approx(psnr(predicted, target).item())


def test_albedo_is_compared_after_alignment(scene):
    """Catches a missing per-channel gain: a scaled copy is perfect."""
    _, target, valid = scene
    values = albedo_metrics(target * torch.tensor([0.5, 0.7, 0.9]), target, valid.float(), CONVENTIONS["standard"])
    assert values["albedo_psnr"] > 100
    assert values["albedo_ssim"] == pytest.approx(1)


def test_perceptual_distance_is_reported_when_given(scene):
    """Catches a perceptual metric that is computed on another crop than the rest."""
    predicted, target, valid = scene
    seen = []

    def spy(a, b):
        seen.append(a.shape)
        return (a - b).abs().mean()

    values = image_metrics(predicted, target, CONVENTIONS["standard"], valid=valid, perceptual=spy)
    assert seen == [(20, 24, 3)]
    assert values["lpips"] > 0
