"""The sequence behind every dataset: frames are read when they are asked for, or all at once."""

from collections.abc import Callable, Iterator

from core.frames import Frame
from core.threads import map_in_threads


class LazyFrames:
    """``count`` frames from a ``read`` function; ``preload`` reads them all now and keeps them."""

    def __init__(self, count: int, read: Callable[[int], Frame], preload: bool = False) -> None:
        self._count = count
        self._read = read
        self._kept = map_in_threads(read, range(count)) if preload else None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Frame:
        if not -self._count <= index < self._count:
            raise IndexError(f"frame {index} of {self._count}")
        position = index % self._count
        return self._read(position) if self._kept is None else self._kept[position]

    def __iter__(self) -> Iterator[Frame]:
        return (self[position] for position in range(self._count))


class LazyFrameSet:
    """The sequence of a dataset whose frames are ``_frames``."""

    _frames: LazyFrames

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Frame:
        return self._frames[index]

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames)
