"""Which frames of a sequence: half-open ranges, and the published inclusive notation."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from core.errors import InputError, list_some


@dataclass(frozen=True)
class FrameRange:
    """Frames ``start, start + step, ...`` below ``stop``; ``stop`` None means to the end of the data."""

    start: int = 0
    stop: int | None = None
    step: int = 1
    exclude: tuple[int, ...] = ()
    """Positions in the sequence that are left out."""

    @staticmethod
    def inclusive(start: int, end: int | None, skip: int = 1) -> "FrameRange":
        """The published teacher notation, whose ``end`` is the last frame that may be used."""
        return FrameRange(start, None if end is None else end + 1, skip)

    @staticmethod
    def of(items: Sequence[int | None] | None) -> "FrameRange":
        """``[start, stop, step]`` (half-open, the published student notation), ``[start, stop]``, or None for all."""
        start, stop, step = ([*(items or []), None, None, None])[:3]
        return FrameRange(start or 0, stop, step or 1)

    def without(self, positions: Iterable[int]) -> "FrameRange":
        """The same range without ``positions`` of the sequence (numbers as in the range, whatever its step)."""
        return replace(self, exclude=tuple(positions))

    @property
    def complete(self) -> "FrameRange":
        """The range with the frames that are left out."""
        return replace(self, exclude=())

    def indices(self, count: int, source: str | Path, what: str = "frames") -> list[int]:
        """The selected positions in a sequence of ``count`` items that ``source`` holds.

        Raises:
            InputError: the range or a frame to leave out is beyond the data, or nothing is selected.
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
        unknown = [position for position in self.exclude if not 0 <= position < count]
        if unknown or set(selected) <= set(self.exclude):
            raise InputError(
                source,
                found=f"{count} {what} (0-{count - 1}), and exclude = {list_some(self.exclude)}",
                expected="positions among them" if unknown else "a frame that is left",
                next_step="Correct the dataset's `exclude`, which counts as its frame range does.",
            )
        return [position for position in selected if position not in self.exclude]


ALL_FRAMES = FrameRange()
