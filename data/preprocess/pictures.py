"""Raw pictures: reading that notices truncated files, undistortion, and atomic writing without loss."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from core.errors import InputError, list_some
from core.files import missing, replacing

logger = logging.getLogger(__name__)

_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_JPEG, _JPEG_END = b"\xff\xd8", b"\xff\xd9"


def read_whole_file(path: str | Path) -> bytes:
    """The bytes of a PNG or JPEG file that is complete (decoders fill what is missing with grey, silently).

    Raises:
        InputError: missing, empty or cut off.
    """
    path = Path(path)
    if not path.is_file():
        raise missing(path, "Complete the source folder.")
    content = path.read_bytes()
    tail = content[-4096:]
    cut_png = content.startswith(_PNG) and _PNG_END not in tail
    cut_jpeg = content.startswith(_JPEG) and _JPEG_END not in tail
    if not content or cut_png or cut_jpeg:
        raise _unreadable(path, content)
    return content


def decode_picture(path: str | Path, content: bytes) -> np.ndarray:
    """Pixels as stored, [H, W] or [H, W, C] in OpenCV's channel order; JPEG upright, as its EXIF tag says.

    Raises:
        InputError: not a picture.
    """
    mode = cv2.IMREAD_COLOR if content.startswith(_JPEG) else cv2.IMREAD_UNCHANGED
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), mode)
    if pixels is None:
        raise _unreadable(path, content)
    return pixels


def read_picture(path: str | Path) -> np.ndarray:
    """Pixels of a complete file, as :func:`decode_picture`."""
    return decode_picture(path, read_whole_file(path))


def write_picture(path: str | Path, pixels: np.ndarray) -> None:
    """Write pixels in OpenCV's channel order as PNG, atomically."""
    ok, content = cv2.imencode(".png", pixels)
    if not ok:
        raise ValueError(f"cannot encode {pixels.shape} {pixels.dtype}")
    write_bytes(path, content.tobytes())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_mask(path: str | Path, mask: np.ndarray) -> None:
    """Write a boolean mask [H, W] as .npy with 0 and 1, atomically."""
    with replacing(path) as temporary:
        np.save(temporary, mask.astype(np.uint8))


def check_size(source: str | Path, pixels: np.ndarray, width: int, height: int, camera: str | Path) -> None:
    """Compare a picture with its camera.

    Raises:
        InputError: they differ.
    """
    if pixels.shape[:2] != (height, width):
        raise InputError(
            source,
            found=f"{pixels.shape[1]} x {pixels.shape[0]} pixels",
            expected=f"{width} x {height}, the size in {camera}",
            next_step="Give the camera of these images, or the images of this camera.",
        )


def warn_of_empty_masks(folder: Path, files: Iterable[Path]) -> None:
    """Name the masks without foreground: the readers refuse such frames, so they must be left out."""
    empty = [path.stem for path in files if not np.load(path).any()]
    if empty:
        logger.warning(
            "%s: %d masks have no foreground (%s). Leave these frames out of the frame ranges.",
            folder, len(empty), list_some(empty),
        )  # fmt: skip


@dataclass(frozen=True)
class Undistortion:
    """Takes lens distortion out of pictures; the camera matrix stays the same."""

    intrinsic: np.ndarray
    """[3, 3] pixels; pixel centres at + 0.5."""
    coefficients: np.ndarray
    """OpenCV's: k1, k2, p1, p2[, k3 ...]; all zero: pictures stay as they are."""

    def picture(self, pixels: np.ndarray) -> np.ndarray:
        """Undistort [H, W] or [H, W, C]; black where the lens saw nothing."""
        if not self.coefficients.any():
            return pixels
        matrix = self.intrinsic.astype(np.float64).copy()
        matrix[:2, 2] -= 0.5  # OpenCV counts pixel centres from 0
        return cv2.undistort(pixels, matrix, self.coefficients)

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Undistort a boolean mask."""
        return self.picture(mask.astype(np.float32)) > 0.5 if self.coefficients.any() else mask


def foreground(values: np.ndarray) -> np.ndarray:
    """A boolean mask from 0/1 (any type), 0..255 integers, or coverage in [0, 1]; the first channel counts."""
    values = values[..., 0] if values.ndim == 3 else values
    return values > (127 if values.dtype.kind in "iu" and values.max(initial=0) > 1 else 0.5)


def _unreadable(path: str | Path, content: bytes) -> InputError:
    return InputError(
        path,
        found=f"a truncated or unreadable file of {len(content)} bytes",
        expected="a whole picture",
        next_step="Copy the file again.",
    )
