"""Images on disk: 8-bit pictures and linear HDRIs. sRGB is not touched here: values are what the file holds."""

import logging
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from core.errors import InputError, list_some
from core.exr import decode_exr, encode_exr
from core.files import missing, replacing

logger = logging.getLogger(__name__)

TO_RGB = {
    (1, 3): cv2.COLOR_GRAY2RGB, (3, 3): cv2.COLOR_BGR2RGB, (4, 3): cv2.COLOR_BGRA2RGB,
    (1, 4): cv2.COLOR_GRAY2RGBA, (3, 4): cv2.COLOR_BGR2RGBA, (4, 4): cv2.COLOR_BGRA2RGBA,
}  # fmt: skip
"""OpenCV's conversion by channels of the file and of the result."""


def read_image(path: str | Path, channels: int = 3) -> Tensor:
    """An 8- or 16-bit picture as float32 in [0, 1]: [H, W, 3], with ``channels`` 4 [H, W, 4] (RGBA), with 1 [H, W].

    Grey files are repeated to three channels; a file without alpha is opaque; ``channels`` 1 averages nothing: it takes
    the first channel (grey maps are stored with equal channels).

    Raises:
        InputError: missing, truncated, or not an 8- or 16-bit picture.
    """
    pixels = _decode(path)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise InputError(
            path, found=f"{pixels.dtype} pixels", expected="an 8- or 16-bit picture", next_step="Convert it to PNG."
        )
    if channels == 1:
        ordered = pixels if pixels.ndim == 2 else pixels[..., 2]
    else:
        ordered = cv2.cvtColor(pixels, TO_RGB[1 if pixels.ndim == 2 else pixels.shape[2], channels])
    image = ordered.astype(np.float32, order="C")
    image /= np.iinfo(pixels.dtype).max
    return torch.from_numpy(image)


def write_image(path: str | Path, image: Tensor) -> None:
    """Write [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] in [0, 1] as 8-bit PNG: clamped, rounded, atomic.

    Raises:
        InputError: the image holds NaN, or the file cannot be written.
    """
    pixels = to_bytes(image, path)
    if pixels.ndim == 3 and pixels.shape[-1] >= 3:
        pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[-1]]]
    _encode(path, ".png", pixels)


def to_bytes(image: Tensor, source: str | Path = "image") -> np.ndarray:
    """uint8 values of an image in [0, 1]: clamped and rounded, any shape.

    Raises:
        InputError: it holds NaN.
    """
    values = image.detach().float().cpu()
    if bool(values.isnan().any()):
        raise InputError(
            source, found="NaN pixels", expected="finite values", next_step="The render is broken; see the log."
        )
    return (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def read_hdr(path: str | Path, *, equirectangular: bool = True, bundled: Iterable[str] = ()) -> Tensor:
    """Linear radiance [H, W, 3] float32 of a .hdr or .exr file, top row = up.

    Args:
        equirectangular: require width = 2 * height.
        bundled: names to offer when the file is missing.

    Raises:
        InputError: missing, not a float image, NaN or infinite values, or not 2:1.
    """
    path = Path(path)
    if not path.is_file():
        names = list(bundled)
        hint = f"Use one of the bundled maps ({list_some(names)}) or give" if names else "Give"
        raise missing(path, f"{hint} the path of an equirectangular .hdr or .exr file.")
    pixels = decode_exr(path) if path.suffix.lower() == ".exr" else _decode(path, "an .hdr or .exr file")
    expected = "a float RGB picture (.hdr, .exr) of linear radiance" + (
        ", width = 2 x height" if equirectangular else ""
    )
    if pixels.dtype != np.float32 or pixels.ndim != 3 or pixels.shape[-1] < 3:
        found = f"a low-dynamic-range picture of {pixels.dtype}, shape {pixels.shape}"
        raise InputError(path, found=found, expected=expected, next_step="Use the HDR version of this map.")
    height, width = pixels.shape[:2]
    if equirectangular and width != 2 * height:
        raise InputError(
            path,
            found=f"{width} x {height} pixels",
            expected=expected,
            next_step="Convert the map to equirectangular 2:1.",
        )
    if not np.isfinite(pixels).all():
        found = f"{(~np.isfinite(pixels)).sum()} values that are NaN or infinite"
        raise InputError(path, found=found, expected=expected, next_step="Repair the map or choose another.")
    if (pixels < 0).any():
        logger.warning("%s: negative radiance set to zero (smallest value %g)", path, pixels.min())
    rgb = pixels[..., :3] if path.suffix.lower() == ".exr" else pixels[..., 2::-1]
    return torch.from_numpy(np.ascontiguousarray(rgb)).clamp_min(0)


def write_hdr(path: str | Path, image: Tensor) -> None:
    """Write linear [H, W, 3] atomically: ``.hdr`` as RGBE (1 % relative), ``.exr`` as float32 without loss."""
    path = Path(path)
    pixels = np.ascontiguousarray(image.detach().float().cpu().numpy())
    if path.suffix.lower() == ".exr":
        with replacing(path) as temporary:
            temporary.write_bytes(encode_exr(pixels))
    else:
        _encode(path, ".hdr", np.ascontiguousarray(pixels[..., ::-1]))


def resize_image(image: Tensor, width: int, height: int) -> Tensor:
    """Resample [H, W] or [H, W, C]: area average when it shrinks, bilinear (pixel centres at +0.5) when it grows."""
    if image.shape[:2] == (height, width):
        return image
    shrinks = width < image.shape[1]
    resized = cv2.resize(image.numpy(), (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return torch.from_numpy(resized)


def _decode(path: str | Path, expected: str = "a picture") -> np.ndarray:
    path = Path(path)
    if not path.is_file():
        raise missing(path, "Check the dataset's folder.")
    content = path.read_bytes()
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) if content else None
    if pixels is None:
        raise InputError(
            path,
            found=f"a truncated or unreadable file of {len(content)} bytes",
            expected=expected,
            next_step="Copy or render the file again.",
        )
    return pixels


def _encode(path: str | Path, suffix: str, pixels: np.ndarray) -> None:
    ok, content = cv2.imencode(suffix, pixels)
    if not ok:
        raise ValueError(f"cannot encode {pixels.shape} {pixels.dtype} as {suffix}")
    with replacing(path) as temporary:
        temporary.write_bytes(content.tobytes())
