"""Frames to convert: a video, or a folder of numbered files; pictures and masks alike."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from core.errors import InputError, list_some
from core.files import read_array
from data.image_folder import PICTURES, numbered_files
from data.preprocess.pictures import read_picture
from data.preprocess.video import VIDEO_SUFFIXES, Video, open_video

Read = Callable[[], np.ndarray]


class FrameSource(Protocol):
    """A sequence of pictures."""

    @property
    def path(self) -> Path:
        """Where they come from."""

    @property
    def numbers(self) -> list[int]:
        """The number of each frame, ascending."""

    def read(self, positions: Sequence[int], wanted: Callable[[int], bool]) -> Iterator[Read | None]:
        """A function for each of the ascending ``positions`` that gives its pixels; None where it is not ``wanted``."""


@dataclass(frozen=True)
class VideoFrames:
    """Frames of a video, numbered from 0. Decoding happens in the caller's thread."""

    video: Video

    @property
    def path(self) -> Path:
        """The video file."""
        return self.video.path

    @property
    def numbers(self) -> list[int]:
        """0, 1, 2 ..."""
        return list(range(self.video.count))

    def read(self, positions: Sequence[int], wanted: Callable[[int], bool]) -> Iterator[Read | None]:
        """See :class:`FrameSource`."""
        chosen = set(positions)
        frames = self.video.frames(lambda number: number in chosen and wanted(number))
        for number, frame in zip(range(positions[-1] + 1), frames):
            if number in chosen:
                yield None if frame is None else partial(_kept, frame)


@dataclass(frozen=True)
class FolderFrames:
    """Numbered files of a folder. Reading happens in the worker's thread."""

    path: Path
    files: dict[int, Path]

    @property
    def numbers(self) -> list[int]:
        """The last numbers in the files' names."""
        return list(self.files)

    def read(self, positions: Sequence[int], wanted: Callable[[int], bool]) -> Iterator[Read | None]:
        """See :class:`FrameSource`."""
        files = list(self.files.values())
        for position in positions:
            yield partial(_pixels, files[position]) if wanted(position) else None


def open_frames(path: Path, suffixes: Sequence[str] = PICTURES) -> FrameSource:
    """The frames of a video file, or of the files with ``suffixes`` in a folder.

    Raises:
        InputError: neither, or nothing in it.
    """
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return VideoFrames(open_video(path))
    return FolderFrames(path, numbered_files(path, suffixes))


def positions_of(source: FrameSource, numbers: Sequence[int], count: int) -> list[int]:
    """Positions in ``source`` of the frames ``numbers``, which are taken from a sequence of ``count`` frames in all.

    Found by number. Sequences of equal length may be numbered differently (from 0 and from 1): then by order, for which
    ``numbers`` must be positions.

    Raises:
        InputError: lists the frames that are missing.
    """
    places = {number: position for position, number in enumerate(source.numbers)}
    absent = [number for number in numbers if number not in places]
    if absent and len(places) == count and max(numbers) < count:
        return list(numbers)
    if absent:
        raise InputError(
            source.path,
            found=f"no frames {list_some(absent)} ({len(absent)} of {len(numbers)}; it has {len(places)})",
            expected="one for every image",
            next_step="Complete it, or shorten --frames.",
        )
    return [places[number] for number in numbers]


def _kept(frame: np.ndarray) -> np.ndarray:
    return frame


def _pixels(path: Path) -> np.ndarray:
    return read_array(path, "Write the mask again.") if path.suffix == ".npy" else read_picture(path)
