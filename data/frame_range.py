"""Which frames of a sequence: half-open ranges, and the published inclusive notation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import InputError


@dataclass(frozen=True)
class FrameRange:
    """Frames ``start, start + step, ...`` below ``stop``; ``stop`` None means to the end of the data."""

    start: int = 0
    stop: int | None = None
    step: int = 1

    @staticmethod
    def inclusive(start: int, end: int | None, skip: int = 1) -> "FrameRange":
        """The published teacher notation, whose ``end`` is the last frame that may be used."""
        return FrameRange(start, None if end is None else end + 1, skip)

    @staticmethod
    def of(items: Sequence[int | None] | None) -> "FrameRange":
        """``[start, stop, step]`` (half-open, the published student notation), ``[start, stop]``, or None for all."""
        start, stop, step = ([*(items or []), None, None, None])[:3]
        return FrameRange(start or 0, stop, step or 1)

    def indices(self, count: int, source: str | Path, what: str = "frames") -> list[int]:
        """The selected positions in a sequence of ``count`` items that ``source`` holds.

        Raises:
            InputError: the range reaches beyond the data, or selects nothing.
        """
        stop = count if self.stop is None else self.stop
        selected = list(range(self.start, stop, self.step)) if self.step > 0 and self.start >= 0 else []
        if not selected or selected[-1] >= count:
            last = "the end" if self.stop is None else self.stop - 1
            raise InputError(
                source,
                found=f"{count} {what} (0-{count - 1})" if count else f"no {what}",
                expected=f"frames {self.start}-{last} in steps of {self.step}",
                next_step="Correct the frame range in the dataset's options, or complete the data.",
            )
        return selected


ALL_FRAMES = FrameRange()
