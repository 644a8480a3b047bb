"""How published tables compute their metrics, by name, beside the standard way. Report the name with every number."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from core.metrics import (
    PUBLISHED_DATA_RANGE,
    SSIM_WINDOWS,
    STANDARD_DATA_RANGE,
    aligned_albedo,
    bounding_box,
    psnr,
    ssim,
)

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Perceptual distance of two images [H, W, 3] in [0, 1], for example ``core.perceptual.PerceptualDistance``."""


@dataclass(frozen=True)
class MetricConvention:
    """The choices that make image metrics of two tables comparable or not."""

    name: str
    crop_to_valid: bool
    """Compare inside the frame's valid rectangle only."""
    ssim_window: str
    ssim_data_range: float
    perceptual_network: str
    """``vgg`` or ``alex``."""
    perceptual_rescaled: bool
    """Inputs go to [-1, 1], as LPIPS was trained; the InstantAvatar convention leaves them in [0, 1]."""


CONVENTIONS = {
    convention.name: convention
    for convention in (
        MetricConvention("published_rana", True, "uniform", PUBLISHED_DATA_RANGE, "vgg", True),
        MetricConvention("published_peoplesnapshot", False, "gaussian", STANDARD_DATA_RANGE, "alex", False),
        MetricConvention("standard", True, "uniform", STANDARD_DATA_RANGE, "vgg", True),
    )
}
"""``published_rana`` is also what the published teacher uses everywhere; ``published_peoplesnapshot`` is the published
student's evaluator on PeopleSnapshot."""


def image_metrics(
    predicted: Tensor,
    target: Tensor,
    convention: MetricConvention,
    *,
    valid: Tensor | None = None,
    perceptual: Perceptual | None = None,
) -> dict[str, float]:
    """``psnr``, ``ssim`` and, with ``perceptual``, ``lpips`` of sRGB images [H, W, 3] in [0, 1].

    Pictures smaller than SSIM's window have no ``ssim``.

    Args:
        valid: [H, W] bool rectangle (``core.metrics.valid_rectangle``); used if the convention crops.
    """
    if valid is not None and convention.crop_to_valid:
        rows, columns = bounding_box(valid)
        predicted, target = predicted[rows, columns], target[rows, columns]
    return {"psnr": float(psnr(predicted, target)), **_structure(predicted, target, convention, perceptual)}


def albedo_metrics(
    predicted: Tensor,
    target: Tensor,
    mask: Tensor,
    convention: MetricConvention,
    perceptual: Perceptual | None = None,
) -> dict[str, float]:
    """``albedo_psnr``, ``albedo_ssim``, ``albedo_lpips`` of linear albedo [H, W, 3] after the per-image channel gain.

    PSNR over the mask [H, W]; the others in the mask's bounding box, zero outside the mask.
    """
    aligned = aligned_albedo(predicted, target, mask)
    target = target * (mask > 0.5).to(target.dtype)[..., None]
    rows, columns = bounding_box(mask)
    values = {
        "psnr": float(psnr(aligned, target, mask)),
        **_structure(aligned[rows, columns], target[rows, columns], convention, perceptual),
    }
    return {f"albedo_{name}": value for name, value in values.items()}


def _structure(
    predicted: Tensor, target: Tensor, convention: MetricConvention, perceptual: Perceptual | None
) -> dict[str, float]:
    values = {}
    if min(predicted.shape[:2]) >= SSIM_WINDOWS[convention.ssim_window]:
        values["ssim"] = float(ssim(predicted, target, convention.ssim_data_range, convention.ssim_window))
    if perceptual is not None:
        values["lpips"] = float(perceptual(predicted, target))
    return values
