"""How long the rasteriser's tile lists should be, learned from earlier steps without waiting for the device."""

import logging
from collections import deque

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

SPARE = 1.5
"""Lists are this many times as long as the longest of the recent steps."""
REMEMBERED = 64
"""Steps; a training alternates between views, and the largest counts."""
GRANULE = 65_536
"""Capacities are multiples of it, so that memory is reused from step to step."""


class TileCapacity:
    """Number of pairs of surfel and tile that a step may list; 0, as many as there are, before anything is known."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque(maxlen=REMEMBERED)
        self._arriving: deque[tuple[int, int, Tensor, torch.cuda.Event]] = deque()

    def get(self) -> int:
        """The capacity for the next step."""
        while self._arriving and self._arriving[0][3].query():
            iteration, capacity, listed, _ = self._arriving.popleft()
            self.note(iteration, capacity, int(listed))
        if not self._recent:
            return 0
        return -(-int(SPARE * max(self._recent)) // GRANULE) * GRANULE

    def report(self, iteration: int, capacity: int, instances: Tensor) -> None:
        """Tell how many pairs step ``iteration`` listed: ``instances`` [] on a GPU, read once it has arrived.

        The CPU's lists are as long as they need to be.
        """
        if not instances.is_cuda:
            return
        listed = torch.empty(1, dtype=instances.dtype, pin_memory=True)
        listed.copy_(instances.detach().reshape(1), non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._arriving.append((iteration, capacity, listed, event))

    def note(self, iteration: int, capacity: int, listed: int) -> None:
        """Learn that step ``iteration`` listed so many pairs; a full list is reported, and the next ones are longer."""
        if capacity and listed >= capacity:
            logger.warning("iteration %d had more than %d pairs of surfel and tile and lacks some", iteration, capacity)
            listed = 2 * capacity
        self._recent.append(listed)
