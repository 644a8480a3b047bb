"""What holds for every test."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_numbers():
    """Random inputs do not depend on which tests ran before."""
    torch.manual_seed(0)
