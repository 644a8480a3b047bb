"""Writing mp4 files frame by frame."""

from collections.abc import Generator
from pathlib import Path
from types import TracebackType

import numpy as np
from torch import Tensor

from core.errors import InputError
from core.files import replacing
from core.images import to_bytes

Encoder = Generator[None, np.ndarray | None, None]


class VideoWriter:
    """A context manager that encodes sRGB frames [H, W, 3] in [0, 1] to H.264; the file appears when it closes."""

    def __init__(self, path: str | Path, fps: float = 30.0) -> None:
        self.path = Path(path)
        self.fps = fps
        self._replacement = replacing(self.path)
        self._encoder: Encoder | None = None
        self._size = (0, 0)

    def __enter__(self) -> "VideoWriter":
        self._temporary = self._replacement.__enter__()
        return self

    def append(self, image: Tensor) -> None:
        """Add a frame; all frames have the first one's size.

        Raises:
            InputError: no encoder is installed, or it failed.
        """
        frame = to_bytes(image, self.path)
        # H.264 in yuv420p needs even sides.
        frame = np.pad(frame, [(0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)], mode="edge")
        if self._encoder is None:
            self._size = frame.shape[:2]
            self._encoder = _start(self._temporary, (frame.shape[1], frame.shape[0]), self.fps, self.path)
        if frame.shape[:2] != self._size:
            raise ValueError(f"frame of {frame.shape[:2]} in a video of {self._size}")
        try:
            self._encoder.send(np.ascontiguousarray(frame))
        except OSError as error:
            raise _cannot_encode(self.path, f"an encoder that stopped ({error})") from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._encoder is not None:
            self._encoder.close()
        if error is None and self._encoder is None:
            error = ValueError(f"{self.path}: a video without frames")
            self._replacement.__exit__(type(error), error, None)
            raise error
        self._replacement.__exit__(kind, error, traceback)


def _start(path: Path, size: tuple[int, int], fps: float, target: Path) -> Encoder:
    try:
        import imageio_ffmpeg

        encoder = imageio_ffmpeg.write_frames(str(path), size, fps=fps, quality=8, macro_block_size=2)
        encoder.send(None)
    except (ImportError, RuntimeError, OSError) as error:
        raise _cannot_encode(target, f"no working ffmpeg ({error})") from error
    return encoder


def _cannot_encode(path: Path, found: str) -> InputError:
    return InputError(
        path,
        found=found,
        expected="the ffmpeg that comes with imageio-ffmpeg",
        next_step="pip install imageio-ffmpeg, or use the written images.",
    )
