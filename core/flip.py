"""FLIP, the difference that a viewer sees when two images alternate; needs no weights.

Andersson, Nilsson, Akenine-Möller, Oskarsson, Åström, Fairchild: "FLIP: A Difference Evaluator for Alternating Images",
Proc. ACM Comput. Graph. Interact. Tech. 3(2), 2020. Section numbers below are of this paper.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from core.color import srgb_to_linear

PIXELS_PER_DEGREE = 67.0
"""The paper's viewer: 0.7 m before a 0.7 m wide monitor of 3840 pixels."""
_XYZ_OF_RGB = ((10135552 / 24577794, 8788810 / 24577794, 4435075 / 24577794),
               (2613072 / 12288897, 8788810 / 12288897, 887015 / 12288897),
               (1425312 / 73733382, 8788810 / 73733382, 70074185 / 73733382))  # fmt: skip
_SENSITIVITY = (((1.0, 0.0047),), ((1.0, 0.0053),), ((34.1, 0.04), (13.5, 0.025)))
"""Amplitude and width of the contrast sensitivities of luminance, red-green and blue-yellow (4.1.1)."""
_COLOUR_EXPONENT, _SPLIT, _SPLIT_VALUE = 0.7, 0.4, 0.95
"""q_c, p_c and p_t of the redistribution of colour errors (4.1.3)."""
_FEATURE_WIDTH, _FEATURE_EXPONENT = 0.082, 0.5
"""Degrees of an edge, and q_f (4.2)."""


def flip(predicted: Tensor, target: Tensor, pixels_per_degree: float = PIXELS_PER_DEGREE) -> Tensor:
    """Mean FLIP error [] in [0, 1] of sRGB images [H, W, 3] in [0, 1]; 0 for equal images."""
    return flip_map(predicted, target, pixels_per_degree).mean()


def flip_map(predicted: Tensor, target: Tensor, pixels_per_degree: float = PIXELS_PER_DEGREE) -> Tensor:
    """FLIP error [H, W] of each pixel: colour difference, raised where features appear or vanish (4.3)."""
    images = [_opponent(srgb_to_linear(image.clamp(0, 1))) for image in (predicted, target)]
    colour = _colour_error(*(_perceived(image, pixels_per_degree) for image in images))
    first, second = ((image[..., 0] + 16) / 116 for image in images)
    features = _feature_error(first, second, pixels_per_degree)
    return colour ** (1 - features)


def _opponent(linear: Tensor) -> Tensor:
    """Linear RGB [..., 3] in the opponent space Y C_x C_z."""
    x, y, z = _relative_xyz(linear).unbind(-1)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


def _relative_xyz(linear: Tensor) -> Tensor:
    matrix = linear.new_tensor(_XYZ_OF_RGB)
    return linear @ matrix.T / matrix.sum(1)


def _perceived(opponent: Tensor, pixels_per_degree: float) -> Tensor:
    """[H, W, 3] Hunt-adjusted L*a*b* of what the eye resolves of an opponent image (4.1.1, 4.1.2)."""
    seen = torch.stack([
        _low_pass(opponent[..., i], _SENSITIVITY[i], pixels_per_degree) for i in range(3)
    ], -1)  # fmt: skip
    y = (seen[..., 0] + 16) / 116
    xyz = torch.stack([y + seen[..., 1] / 500, y, y - seen[..., 2] / 200], -1)
    matrix = xyz.new_tensor(_XYZ_OF_RGB)
    linear = ((xyz * matrix.sum(1)) @ torch.linalg.inv(matrix).T).clamp(0, 1)
    return _hunt_lab(linear)


def _hunt_lab(linear: Tensor) -> Tensor:
    """L*a*b* of linear RGB [..., 3], chromaticities scaled by lightness (Hunt effect)."""
    x, y, z = _relative_xyz(linear).unbind(-1)
    fx, fy, fz = (
        torch.where(t > (6 / 29) ** 3, t.clamp_min(1e-8) ** (1 / 3), t / (3 * (6 / 29) ** 2) + 4 / 29)
        for t in (x, y, z)
    )
    lightness = 116 * fy - 16
    return torch.stack([lightness, 0.01 * lightness * 500 * (fx - fy), 0.01 * lightness * 200 * (fy - fz)], -1)


def _hyab(first: Tensor, second: Tensor) -> Tensor:
    difference = first - second
    return difference[..., 0].abs() + difference[..., 1:].norm(dim=-1)


def _colour_error(first: Tensor, second: Tensor) -> Tensor:
    """HyAB distance [H, W], compressed and redistributed to [0, 1] (4.1.3)."""
    green, blue = (_hunt_lab(first.new_tensor(colour)) for colour in ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0)))
    largest = _hyab(green, blue) ** _COLOUR_EXPONENT
    error, split = _hyab(first, second) ** _COLOUR_EXPONENT, _SPLIT * largest
    above = _SPLIT_VALUE + (error - split) / (largest - split) * (1 - _SPLIT_VALUE)
    return torch.where(error < split, error * _SPLIT_VALUE / split, above)


def _feature_error(first: Tensor, second: Tensor, pixels_per_degree: float) -> Tensor:
    """[H, W] the larger of the differences in edges and in points of two luminances [H, W] in [0, 1] (4.2)."""
    deviation = 0.5 * _FEATURE_WIDTH * pixels_per_degree
    x = _offsets(math.ceil(3 * deviation), first)
    bell = torch.exp(-(x**2) / (2 * deviation**2))
    differences = []
    for profile in (-x * bell, (x**2 / deviation**2 - 1) * bell):
        # Positive and negative weights sum to one each.
        positive, negative = profile.clamp_min(0), profile.clamp_max(0)
        balanced = positive / positive.sum() - negative / negative.sum()
        strengths = [
            torch.stack([_filtered(image, balanced, bell / bell.sum()), _filtered(image, bell / bell.sum(), balanced)])
            .norm(dim=0)
            for image in (first, second)
        ]  # fmt: skip
        differences.append((strengths[0] - strengths[1]).abs())
    return (torch.maximum(*differences) / math.sqrt(2)) ** _FEATURE_EXPONENT


def _low_pass(channel: Tensor, terms: tuple[tuple[float, float], ...], pixels_per_degree: float) -> Tensor:
    """``channel`` [H, W] filtered by a sum of Gaussians that is normalised as a whole."""
    widest = max(b for sensitivity in _SENSITIVITY for _, b in sensitivity)
    x = _offsets(math.ceil(3 * math.sqrt(widest / (2 * math.pi**2)) * pixels_per_degree), channel) / pixels_per_degree
    total, weight = torch.zeros_like(channel), 0.0
    for amplitude, b in terms:
        bell = torch.exp(-(math.pi**2) * x**2 / b)
        strength = amplitude * math.pi / b * float(bell.sum()) ** 2
        total, weight = total + strength * _filtered(channel, bell / bell.sum(), bell / bell.sum()), weight + strength
    return total / weight


def _offsets(radius: int, like: Tensor) -> Tensor:
    return torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)


def _filtered(channel: Tensor, along_x: Tensor, along_y: Tensor) -> Tensor:
    """Correlation of ``channel`` [H, W] with an outer product, the border repeated."""
    radius = len(along_x) // 2
    padded = functional.pad(channel[None, None], [radius] * 4, mode="replicate")
    return functional.conv2d(functional.conv2d(padded, along_x[None, None, None]), along_y[None, None, :, None])[0, 0]
