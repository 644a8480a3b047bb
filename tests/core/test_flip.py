"""FLIP against closed forms: uniform colours need no filter, and an independent L*a*b*."""

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab

from core.flip import flip, flip_map


def uniform(colour, size=24):
    return torch.tensor(colour).expand(size, size, 3).contiguous()


def expected(first, second):
    """The paper's colour pipeline for uniform sRGB colours, by scikit-image's L*a*b*."""

    def hunt(colour):
        lab = rgb2lab(np.array([[colour]], float))[0, 0]
        return lab * np.array([1, 0.01 * lab[0], 0.01 * lab[0]])

    def compressed(a, b):
        difference = hunt(a) - hunt(b)
        return (abs(difference[0]) + np.hypot(*difference[1:])) ** 0.7

    largest, error = compressed((0, 1, 0), (0, 0, 1)), compressed(first, second)
    split = 0.4 * largest
    return 0.95 * error / split if error < split else 0.95 + 0.05 * (error - split) / (largest - split)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((0.0, 0, 0), (1.0, 1, 1)),
        ((0.0, 1, 0), (0.0, 0, 1)),
        ((0.5, 0.4, 0.3), (0.45, 0.42, 0.3)),
        ((0.9, 0.1, 0.2), (0.1, 0.8, 0.9)),
    ],
)
def test_uniform_colours(first, second):
    """Fails when colour space, Hunt adjustment, exponent or redistribution differ: measured within 2e-4."""
    assert flip(uniform(first), uniform(second)).item() == pytest.approx(expected(first, second), abs=1e-3)


def test_published_extremes():
    """Fails when the scale is lost: green against blue is 1, black against white 0.967, equal images 0."""
    assert flip(uniform((0.0, 1, 0)), uniform((0.0, 0, 1))).item() == pytest.approx(1, abs=1e-4)
    assert flip(uniform((0.0, 0, 0)), uniform((1.0, 1, 1))).item() == pytest.approx(0.967, abs=1e-3)
    noise = torch.rand(30, 40, 3)
    assert flip(noise, noise).item() == 0


def test_edges_raise_the_error_where_they_are():
    """Fails when features are found away from the edge, or do not raise the colour error at it."""
    step = torch.zeros(40, 40, 3)
    step[:, 20:] = 1
    error = flip_map(step, uniform((0.0, 0, 0), 40))
    assert error[20, 0].item() == 0
    assert error[20, 39].item() == pytest.approx(0.967, abs=1e-3)
    assert error[20, 20].item() > 0.967


def test_visible_order_of_differences():
    """Fails when fine noise counts as much as an error of the same energy that the eye resolves, or order matters."""
    torch.manual_seed(0)
    target = uniform((0.5, 0.5, 0.5), 64)
    sign = (torch.rand(64, 64, 1) > 0.5).float() * 2 - 1
    fine, broad = target + 0.05 * sign, target + 0.05
    assert flip(fine, target) < flip(broad, target) * 1.2
    blocks = sign[::16, ::16].repeat_interleave(16, 0).repeat_interleave(16, 1)
    assert flip(target + 0.05 * blocks, target) > flip(broad, target)
    assert flip(fine, target).item() == pytest.approx(flip(target, fine).item(), abs=1e-6)
    assert flip(broad, target).shape == ()
