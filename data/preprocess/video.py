"""The frames of a video file, every one of them, in order."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from core.errors import InputError
from core.files import missing

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


@dataclass(frozen=True)
class Video:
    """A video whose frames have been counted by decoding: what containers claim can be wrong."""

    path: Path
    count: int
    width: int
    height: int

    def frames(self, wanted: Callable[[int], bool]) -> Iterator[np.ndarray | None]:
        """BGR pictures [H, W, 3] in order; None where a frame is not ``wanted`` (it is skipped cheaply)."""
        capture = _open(self.path)
        try:
            for number in range(self.count):
                if not capture.grab():
                    raise _unreadable(self.path, f"{number} frames, {self.count} a moment ago")
                yield _retrieve(capture, self.path) if wanted(number) else None
        finally:
            capture.release()


def open_video(path: str | Path) -> Video:
    """Count the frames of a video.

    Raises:
        InputError: missing, not a video, or cut off before its first frame.
    """
    path = Path(path)
    capture = _open(path)
    try:
        count, size = 0, (0, 0)
        while capture.grab():
            if count == 0:
                height, width = _retrieve(capture, path).shape[:2]
                size = width, height
            count += 1
    finally:
        capture.release()
    if count == 0:
        raise _unreadable(path, "no frame that can be decoded")
    return Video(path, count, *size)


def _open(path: Path) -> cv2.VideoCapture:
    if not path.is_file():
        raise missing(path, "Give the video file.")
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise _unreadable(path, f"a file of {path.stat().st_size} bytes that cannot be opened")
    return capture


def _retrieve(capture: cv2.VideoCapture, path: Path) -> np.ndarray:
    ok, frame = capture.retrieve()
    if not ok:
        raise _unreadable(path, "a frame that cannot be decoded")
    return frame


def _unreadable(path: Path, found: str) -> InputError:
    return InputError(path, found=found, expected="a whole video", next_step="Copy or encode the video again.")
