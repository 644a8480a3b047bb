"""Published schedule notations against values worked out by hand from their definition."""

import pytest
import torch

from core.errors import InputError
from core.schedules import (
    exponential_decay,
    learning_rate_factor,
    piecewise_constant,
    scale_piecewise,
    scale_teacher_schedule,
    scaled,
    teacher_schedule,
)


@pytest.mark.parametrize(
    ("value", "step", "epoch", "expected"),
    [
        (0.2, 7, 0.0, 0.2),
        ([1.5, 0, 12500], 12499, 0.0, 1.5),
        ([1.5, 0, 12500], 12500, 0.0, 0.0),
        ([1.5, 0, 10.0], 99_999, 9.9, 1.5),
        ([1.5, 0, 10.0], 0, 10.0, 0.0),
        ([100, 2.0, 4.0, 300], 99, 0.0, 0.0),
        ([100, 2.0, 4.0, 300], 100, 0.0, 2.0),
        ([100, 2.0, 4.0, 300], 150, 0.0, 2.5),
        ([100, 2.0, 4.0, 300], 300, 0.0, 4.0),
        ([100, 2.0, 4.0, 300], 9999, 0.0, 4.0),
        ([1.0, 2.0, 4.0, 3.0], 9999, 2.0, 3.0),
        ([12500, 1e-5, 1e-5, 12501], 12500, 0.0, 1e-5),
    ],
)
def test_teacher_schedule(value, step, epoch, expected):
    """Catches a ramp that starts or ends a step off, and steps taken for epochs or the other way round."""
    assert teacher_schedule(value, step, epoch) == pytest.approx(expected)


@pytest.mark.parametrize("value", [[1, 2], [1, 2, 3, 4, 5], []])
def test_teacher_schedule_refuses_other_lists(value):
    """Catches a list of the student's notation read as the teacher's."""
    with pytest.raises(InputError, match="scheduled number"):
        teacher_schedule(value, 0)


@pytest.mark.parametrize("value", [[1.5, 0, 12500], [4000, 0.0, 2.0, 12000], [1.0, 0.5, 20.0], 0.3])
@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.37, 0.5, 0.99])
def test_short_training_sees_the_same_schedule(value, fraction):
    """Catches thresholds left unscaled: at the same fraction of a shorter run the value is the same."""
    long_steps, short_steps, frames = 25_000, 1_000, 100
    short = scale_teacher_schedule(value, short_steps)
    at_long = teacher_schedule(value, round(fraction * long_steps), fraction * long_steps / frames)
    at_short = teacher_schedule(short, round(fraction * short_steps), fraction * short_steps / frames)
    assert at_short == pytest.approx(at_long)


def test_scaled():
    """Catches a swapped ratio."""
    assert scaled(10_000, 1_000, 25_000) == 400
    assert scaled(10_000, 25_000, 25_000) == 10_000


@pytest.mark.parametrize(
    ("iteration", "expected"), [(0, 15.0), (999, 15.0), (1000, 0.3), (4999, 0.3), (5000, 0.1), (10**6, 0.1)]
)
def test_piecewise_constant(iteration, expected):
    """Catches a value that switches one iteration early or late."""
    assert piecewise_constant([15, 1000, 0.3, 5000, 0.1], iteration) == expected


@pytest.mark.parametrize("value", [[1, 2], [1, 500, 2, 400, 3], []])
def test_piecewise_constant_refuses_malformed_lists(value):
    """Catches a truncated list or iterations out of order."""
    with pytest.raises(InputError):
        piecewise_constant(value, 0)


def test_scale_piecewise():
    """Catches values scaled together with their iterations."""
    assert scale_piecewise([15, 1000, 0.3], 300, 30_000) == [15, 10, 0.3]
    assert scale_piecewise(2.5, 300, 30_000) == 2.5


def test_learning_rate_agrees_with_torch_schedulers():
    """Catches milestones counted from step 0: they count from the end of the warm-up, as torch's SequentialLR does."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    warm = torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=0.01, total_iters=10)
    drops = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones=[125, 187, 225, 237], gamma=0.3)
    chain = torch.optim.lr_scheduler.SequentialLR(optimiser, [warm, drops], milestones=[10])
    for step in range(260):
        assert learning_rate_factor(step, 10, [125, 187, 225, 237]) == pytest.approx(optimiser.param_groups[0]["lr"])
        optimiser.step()
        chain.step()


def test_exponential_decay():
    """Catches a linear decay and a rate that keeps falling after its end."""
    assert exponential_decay(0, 1e-2, 1e-4, 100) == pytest.approx(1e-2)
    assert exponential_decay(50, 1e-2, 1e-4, 100) == pytest.approx(1e-3)
    assert exponential_decay(500, 1e-2, 1e-4, 100) == pytest.approx(1e-4)
