"""What is measured on a rendered frame that has ground truth: shape, albedo, and the relit image."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from core.flip import flip
from core.frames import Frame
from core.metric_conventions import CONVENTIONS, Perceptual, albedo_metrics, image_metrics
from core.metrics import albedo_gain, bounding_box, mask_iou, normal_error_degrees, psnr

INNER_MARGIN = 2
"""Pixels by which the "inner" mask is smaller: leaves out pixels that mix with the background."""

RELIT = ("relit_psnr", "relit_psnr_mask", "relit_psnr_inner")
"""PSNR of a relit image in the valid rectangle, in the mask and in the inner mask."""


@dataclass(frozen=True)
class Surface:
    """The visible surface that a method predicts for a frame."""

    alpha: Tensor
    """[H, W] coverage."""
    normal: Tensor
    """[H, W, 3] OpenGL camera axes."""
    albedo: Tensor
    """[H, W, 3] linear."""
    roughness: Tensor | None = None
    """[H, W] perceptual."""


def surface_metrics(
    surface: Surface, frame: Frame, perceptual: Mapping[str, Perceptual] | None = None
) -> dict[str, float]:
    """``mask_iou``, ``normal_error_deg``, ``albedo_{psnr, ssim}`` (per-image channel gain) and ``roughness_mae``.

    Those that ``frame`` has truth for. Errors are taken over the true mask, the published rule.

    Args:
        perceptual: as of :func:`relit_metrics`; gives ``albedo_lpips``.
    """
    values: dict[str, float] = {}
    if frame.mask is None:
        return values
    values["mask_iou"] = float(mask_iou(surface.alpha, frame.mask))
    if frame.normal is not None:
        values["normal_error_deg"] = float(normal_error_degrees(surface.normal, frame.normal, frame.mask))
    if frame.albedo is not None:
        published = CONVENTIONS["published_rana"]
        distance = (perceptual or {}).get(published.perceptual_network)
        values |= albedo_metrics(surface.albedo, frame.albedo, frame.mask, published, distance)
    if frame.roughness is not None and surface.roughness is not None:
        values["roughness_mae"] = float((surface.roughness - frame.roughness).abs()[frame.mask > 0.5].mean())
    return values


def alignment(surface: Surface, frame: Frame) -> Tensor | None:
    """The published per-frame gain [3] on albedo, where ``frame`` has ground truth; None elsewhere."""
    if frame.albedo is None or frame.mask is None:
        return None
    return albedo_gain(surface.albedo, frame.albedo, frame.mask)


def relit_metrics(image: Tensor, frame: Frame, perceptual: Mapping[str, Perceptual] | None = None) -> dict[str, float]:
    """Image metrics of a relit frame [H, W, 3] (sRGB over white) against ``frame``.

    ``psnr``, ``ssim`` (and ``lpips``) by each convention, as ``<convention>/<metric>``; ``relit_psnr`` is that of the
    published RANA protocol (valid rectangle), ``relit_psnr_mask`` and ``relit_psnr_inner`` look at the body alone.
    ``flip`` is FLIP's mean in the valid rectangle, which needs no weights. Where ``frame`` names its light, the three
    PSNR are there once more as ``by_light/<hdri>/<metric>``.

    Args:
        perceptual: perceptual distances by network name (``vgg``, ``alex``), where weights were given.
    """
    if frame.image is None or frame.mask is None:
        return {}
    values: dict[str, float] = {}
    for name, convention in CONVENTIONS.items():
        distance = (perceptual or {}).get(convention.perceptual_network)
        found = image_metrics(image, frame.image, convention, valid=frame.valid, perceptual=distance)
        values |= {f"{name}/{metric}": value for metric, value in found.items()}
    values["flip"] = valid_flip(image, frame)
    values["relit_psnr"] = values["published_rana/psnr"]
    values["relit_psnr_mask"] = float(psnr(image, frame.image, frame.mask))
    values["relit_psnr_inner"] = float(psnr(image, frame.image, eroded(frame.mask, INNER_MARGIN)))
    if frame.hdri is not None:
        values |= {f"by_light/{frame.hdri.stem}/{name}": values[name] for name in RELIT}
    return values


def valid_flip(image: Tensor, frame: Frame) -> float:
    """Mean FLIP error of ``image`` [H, W, 3] (sRGB) against ``frame``'s, in its valid rectangle."""
    assert frame.image is not None
    box = (slice(None), slice(None)) if frame.valid is None else bounding_box(frame.valid)
    return float(flip(image[box], frame.image[box]))


def eroded(mask: Tensor, margin: int) -> Tensor:
    """``mask`` [H, W] > 0.5 without the pixels within ``margin`` of its edge, as 0 and 1."""
    outside = (mask <= 0.5).to(torch.float32)[None, None]
    size = 2 * margin + 1
    return 1 - torch.nn.functional.max_pool2d(outside, size, stride=1, padding=margin)[0, 0]


def mean_of(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The mean of every metric over the frames that have it."""
    collected: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            collected.setdefault(name, []).append(value)
    return {name: sum(values) / len(values) for name, values in collected.items()}
