"""Which device a stage computes on."""

import logging

import torch

import gs_ir

_log = logging.getLogger(__name__)

DECISIVE_OPERATORS = ("any_hit", "find_correspondences", "hash_encode_jacobian", "march", "rasterize_surfels")
"""Operators whose reference on a GPU is slower than the native kernel on a CPU."""


def compute_device() -> str:
    """``cuda`` where PyTorch has a GPU and the operators have kernels for it, else ``cpu``.

    Without those kernels a GPU would run the operators' references, which takes longer than the CPU's kernels.
    """
    if not torch.cuda.is_available():
        return "cpu"
    missing = [name for name in DECISIVE_OPERATORS if not gs_ir.has_kernel(name, "CUDA")]
    if missing:
        _log.warning("computing on the CPU: no CUDA kernel yet for %s", ", ".join(missing))
        return "cpu"
    return "cuda"
