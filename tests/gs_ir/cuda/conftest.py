"""Tests of CUDA kernels: marked ``gpu``, skipped where there is no GPU or the library was built without nvcc."""

from pathlib import Path

import pytest
import torch

import gs_ir

FOLDER = Path(__file__).parent


def _missing() -> str | None:
    if not torch.cuda.is_available():
        return "no CUDA device"
    if not gs_ir.has_kernel("rasterize_surfels", "CUDA"):
        return "the native library was built without CUDA kernels"
    return None


def pytest_collection_modifyitems(items):
    """Mark this folder's tests."""
    missing = _missing()
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if missing:
                item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(autouse=True, params=["plain", "poisoned"])
def fresh_memory(request):
    """Every test runs a second time with new tensors filled with NaN (integers: the largest), so that what a kernel
    forgets to write shows. That mode also asks for deterministic kernels.
    """
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(request.param == "poisoned", warn_only=True)
    yield request.param
    torch.use_deterministic_algorithms(deterministic)
