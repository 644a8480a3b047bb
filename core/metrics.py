"""Image metrics, as functions on one frame. Which of them a published table uses is in ``core.protocol_metrics``."""

import math

import torch
from torch import Tensor
from torch.nn import functional

PUBLISHED_DATA_RANGE = 2.0
"""SSIM's data range in the published RANA tables: what scikit-image 0.18 assumes for float images."""
STANDARD_DATA_RANGE = 1.0
"""SSIM's data range for images in [0, 1]."""
SSIM_WINDOWS = {"uniform": 7, "gaussian": 11}
"""Side of SSIM's windows, pixels."""


def psnr(predicted: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB of images [H, W, C] in [0, 1], over the pixels of ``mask`` [H, W] (default all).

    ``-10 log10 MSE``, the mean over pixels and channels; infinite for equal images.
    """
    squared = (predicted - target) ** 2
    if mask is None:
        return -10 * torch.log10(squared.mean())
    weight = (mask > 0.5).to(squared.dtype)[..., None]
    return -10 * torch.log10((squared * weight).sum() / (weight.sum() * squared.shape[-1]))


def ssim(predicted: Tensor, target: Tensor, data_range: float, window: str = "uniform") -> Tensor:
    """Structural similarity of images [H, W, C], averaged over positions and channels.

    Wang et al. 2004, K1 = 0.01, K2 = 0.03. ``window``: ``uniform`` = 7 x 7 box with sample covariance where it fits
    (scikit-image's default); ``gaussian`` = 11 x 11, sigma 1.5, population covariance over the image extended by
    reflection (torchmetrics' default). Computed in float64. Differentiable.
    """
    x, y = (image.double().movedim(-1, 0)[:, None] for image in (predicted, target))
    kernel = _window(window, x)
    if min(x.shape[-2:]) < kernel.shape[-1]:
        raise ValueError(f"SSIM needs images of at least {kernel.shape[-1]} pixels a side, got {tuple(x.shape[-2:])}")
    if window == "gaussian":
        x, y = (functional.pad(image, [kernel.shape[-1] // 2] * 4, mode="reflect") for image in (x, y))
    mean_x, mean_y, square_x, square_y, product = (
        functional.conv2d(image, kernel) for image in (x, y, x * x, y * y, x * y)
    )
    count = kernel.numel()
    sample = count / (count - 1) if window == "uniform" else 1.0
    variance_x = sample * (square_x - mean_x * mean_x)
    variance_y = sample * (square_y - mean_y * mean_y)
    covariance = sample * (product - mean_x * mean_y)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    similarity = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (similarity / ((mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2))).mean()


def normal_error_degrees(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean angle in degrees between normals [H, W, 3] (normalised here, same axes) where ``mask`` [H, W] > 0.5."""
    inside = mask > 0.5
    a = functional.normalize(predicted[inside], dim=-1)
    b = functional.normalize(target[inside], dim=-1)
    # atan2 keeps its precision near 0 and 180 degrees, where arccos loses half of the digits.
    sine, cosine = torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(-1)
    return torch.atan2(sine, cosine).mean() * (180 / math.pi)


def mask_iou(predicted: Tensor, target: Tensor) -> Tensor:
    """Intersection over union of two coverages [H, W], both thresholded at 0.5; 1 if both are empty."""
    a, b = predicted > 0.5, target > 0.5
    union = (a | b).sum()
    return torch.where(union > 0, (a & b).sum() / union.clamp_min(1), torch.ones_like(union, dtype=torch.float32))


def albedo_gain(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Per-channel least-squares gain [3] that takes ``predicted`` to ``target`` (linear [H, W, 3]) where mask > 0.5."""
    inside = mask > 0.5
    a, b = predicted[inside], target[inside]
    return (a * b).sum(0) / (a * a).sum(0).clamp_min(1e-12)


def aligned_albedo(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """``predicted`` [H, W, 3] times its gain, clamped to [0, 1], zero outside the mask: what albedo metrics compare."""
    scaled = (predicted * albedo_gain(predicted, target, mask)).clamp(0, 1)
    return scaled * (mask > 0.5).to(scaled.dtype)[..., None]


def bounding_box(mask: Tensor) -> tuple[slice, slice]:
    """Rows and columns of the smallest rectangle around ``mask`` [H, W] > 0.5; the whole image if it is empty."""
    inside = mask > 0.5
    rows, columns = (torch.nonzero(inside.any(dim)).flatten() for dim in (1, 0))
    if rows.numel() == 0:
        return slice(0, mask.shape[0]), slice(0, mask.shape[1])
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def valid_rectangle(mask: Tensor, dilation: int = 100) -> Tensor:
    """Evaluation region [H, W] bool: the bounding box of ``mask`` dilated with a ``dilation`` x ``dilation`` kernel.

    So the box grows by about half of ``dilation`` pixels, and is cut at the image's edge. RANA uses 100,
    SyntheticHuman 50. An even kernel reaches one pixel further to the right and down, as OpenCV's does.
    """
    rows, columns = bounding_box(mask)
    before, after = (dilation - 1) // 2, dilation // 2
    region = torch.zeros_like(mask, dtype=torch.bool)
    region[max(rows.start - before, 0) : rows.stop + after, max(columns.start - before, 0) : columns.stop + after] = (
        True
    )
    return region


def _window(name: str, like: Tensor) -> Tensor:
    if name == "uniform":
        return like.new_full((1, 1, 7, 7), 1 / 49)
    if name == "gaussian":
        offsets = torch.arange(-5, 6, dtype=like.dtype, device=like.device)
        profile = torch.exp(-0.5 * (offsets / 1.5) ** 2)
        kernel = profile[:, None] * profile[None]
        return (kernel / kernel.sum())[None, None]
    raise ValueError(f"unknown SSIM window {name!r}: 'uniform' or 'gaussian'")
