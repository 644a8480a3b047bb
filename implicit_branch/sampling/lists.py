"""Lists whose lengths depend on the data: exact ones, for which a GPU's host waits, and ones of expected length."""

import logging
from collections import deque

import torch
from torch import Tensor

_log = logging.getLogger(__name__)

MARGIN = 1.25
"""Room over the longest list seen."""
GRANULARITY = 1024
"""Lengths are multiples of it, so that they seldom change."""


class Lists:
    """Decides how long the lists of a step are; this one makes them exactly as long as needed.

    Lists have names: what is called the same has about the same length in every step.
    """

    @property
    def rooms(self) -> tuple[tuple[str, int], ...]:
        """Names and present lengths of all lists that have one."""
        return ()

    def room(self, name: str) -> int:
        """Length of the list ``name``; 0: as long as needed."""
        return 0

    def found(self, name: str, total: Tensor | None) -> None:
        """Take notice of how many entries ``name`` should have had, [] int64."""

    def select(self, name: str, wanted: Tensor) -> tuple[Tensor, Tensor | None]:
        """Indices [n] where ``wanted`` [N] is true.

        Where the list has a given length, rows behind its entries repeat some index, and [n] bool says which are used;
        None: all.
        """
        return wanted.nonzero()[:, 0], None

    def lengths(self) -> Tensor | None:
        """How many entries the lists of this step should have had, [K] int64; part of the step."""
        return None

    def read(self, lengths: Tensor | None) -> None:
        """A step has been launched: start to copy its :meth:`lengths` to the host."""

    def adapt(self) -> None:
        """A step begins: make room for what former ones found."""


EXACT = Lists()


class ExpectedLists(Lists):
    """Lists of the length that former steps suggest; the first time they are exact.

    A step's lengths are read when the next but one begins: by then they are there, and nothing waits. (Always exactly
    then, so that a run does not depend on timing.) A list that was too short lost entries: there is a warning, and the
    next ones are longer.
    """

    def __init__(self) -> None:
        self._rooms: dict[str, int] = {}
        self._totals: dict[str, Tensor] = {}
        self._names: list[str] = []
        self._reading: deque[tuple[list[str], Tensor, torch.cuda.Event | None]] = deque()

    @property
    def rooms(self) -> tuple[tuple[str, int], ...]:
        """See :class:`Lists`."""
        return tuple(sorted(self._rooms.items()))

    def room(self, name: str) -> int:
        """See :class:`Lists`."""
        return self._rooms.get(name, 0)

    def found(self, name: str, total: Tensor | None) -> None:
        """See :class:`Lists`."""
        if total is not None:
            self._totals[name] = total

    def select(self, name: str, wanted: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :class:`Lists`."""
        room = self.room(name)
        self.found(name, wanted.sum())
        if room == 0:
            return super().select(name, wanted)
        rows = torch.nonzero_static(wanted, size=min(room, len(wanted)), fill_value=-1)[:, 0]
        used = rows >= 0
        # Unused rows name different entries: gradients (of zero) added to one and the same would queue.
        return torch.where(used, rows, torch.arange(len(rows), device=rows.device)), used

    def lengths(self) -> Tensor | None:
        """See :class:`Lists`."""
        self._names, numbers = list(self._totals), list(self._totals.values())
        self._totals = {}
        return torch.stack(numbers) if numbers else None

    def read(self, lengths: Tensor | None) -> None:
        """See :class:`Lists`."""
        if lengths is None:
            return
        host = torch.empty(lengths.shape, dtype=lengths.dtype, pin_memory=lengths.is_cuda)
        host.copy_(lengths, non_blocking=True)
        done = torch.cuda.Event() if lengths.is_cuda else None
        if done is not None:
            done.record()
        self._reading.append((self._names, host, done))

    def adapt(self) -> None:
        """See :class:`Lists`."""
        if len(self._reading) < 2:
            return
        names, host, done = self._reading.popleft()
        if done is not None:
            done.synchronize()
        for name, total in zip(names, host.tolist(), strict=True):
            room = self._rooms.get(name, 0)
            if room and total > room:
                _log.warning("a step had room for %d of %d %s", room, total, name)
            if total >= 0.95 * room:
                self._rooms[name] = GRANULARITY * -(-int(MARGIN * total + 1) // GRANULARITY)
