"""Copies to a device that the host does not wait for."""

from torch import Tensor


def upload(values: Tensor, like: Tensor) -> Tensor:
    """``values`` in host memory, on the device of ``like`` and, if both are floating-point, in its dtype.

    From pageable memory a copy to a GPU waits for all earlier work; this one goes through pinned memory.
    """
    if values.is_floating_point() and like.is_floating_point():
        values = values.to(like.dtype)
    return values.pin_memory().to(like.device, non_blocking=True) if like.is_cuda else values
