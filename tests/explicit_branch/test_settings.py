"""Scaling of the recipe to another length."""

import pytest

from core.errors import InputError
from explicit_branch.settings import TrainingSettings


def test_moments_move_with_the_length_and_intervals_have_a_floor():
    """Fails when a short run never reaches a phase, or densifies at every step."""
    short = TrainingSettings.from_mapping({"iterations": 600, "pbr_iteration": 6000, "densification_interval": 100,
                                           "lambda_dist": [0.0, 3000, 100.0]})  # fmt: skip
    assert short.pbr_iteration == 120
    assert short.densification_interval == short.min_interval == 25
    assert short.lambda_dist == [0.0, 60, 100.0]
    assert short.weight("dist", 59) == 0
    assert short.weight("dist", 60) == 100
    assert short.rescaled() == short


def test_scaling_can_be_switched_off():
    """Fails when published iteration numbers cannot be used as they are."""
    settings = TrainingSettings.from_mapping(
        {"iterations": 50_000, "schedule_iterations": None, "pbr_iteration": 20_000}
    )
    assert settings.pbr_iteration == 20_000


def test_unknown_key_is_named():
    """Fails when a misspelt key is silently ignored."""
    with pytest.raises(InputError, match="lambda_l2"):
        TrainingSettings.from_mapping({"lambda_l2": 1.0})
