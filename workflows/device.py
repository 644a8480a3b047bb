"""Which device a stage computes on."""

import logging
import os

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

import gs_ir
from core.errors import InputError

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


def is_sweep() -> bool:
    """Whether this is one of several runs that Hydra was asked for (``--multirun``)."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def local_rank() -> int:
    """This process's number among those of its run on this machine."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))


def check_processes() -> None:
    """Give each process of a data-parallel run a GPU of its own.

    Raises:
        InputError: a sweep on this machine, whose command line the other processes would repeat.
    """
    if is_sweep() and "SLURM_NTASKS" not in os.environ:
        raise InputError("implicit_branch.trainer.devices", found="several devices in a local sweep", expected="1",
                         next_step="Train one subject on all GPUs, or several subjects on one each.")  # fmt: skip
    if compute_device() == "cuda":
        torch.cuda.set_device(local_rank())
