"""A small OpenEXR codec: single-part scanline files, half or float channels, uncompressed or ZIP.

Written from the OpenEXR file layout documentation; it exists because OpenCV wheels come without OpenEXR.
"""

import struct
import zlib
from pathlib import Path

import numpy as np

from core.errors import InputError

_MAGIC = b"\x76\x2f\x31\x01"
_PIXEL_TYPES: dict[int, np.dtype] = {1: np.dtype("<f2"), 2: np.dtype("<f4")}
_ROWS_PER_BLOCK = {0: 1, 2: 1, 3: 16}
"""Rows per block of the compressions read here: none, ZIPS, ZIP."""


def encode_exr(image: np.ndarray) -> bytes:
    """The bytes of an uncompressed float32 EXR of ``image`` [H, W, 3] (RGB)."""
    height, width, _ = image.shape
    window = struct.pack("<4i", 0, 0, width - 1, height - 1)
    channels = b"".join(name + b"\0" + struct.pack("<iB3xii", 2, 0, 1, 1) for name in (b"B", b"G", b"R")) + b"\0"
    attributes = [
        (b"channels", b"chlist", channels), (b"compression", b"compression", b"\0"),
        (b"dataWindow", b"box2i", window), (b"displayWindow", b"box2i", window),
        (b"lineOrder", b"lineOrder", b"\0"), (b"pixelAspectRatio", b"float", struct.pack("<f", 1)),
        (b"screenWindowCenter", b"v2f", struct.pack("<2f", 0, 0)),
        (b"screenWindowWidth", b"float", struct.pack("<f", 1)),
    ]  # fmt: skip
    header = _MAGIC + struct.pack("<i", 2)
    for name, kind, value in attributes:
        header += name + b"\0" + kind + b"\0" + struct.pack("<i", len(value)) + value
    header += b"\0"
    row_bytes = 3 * 4 * width
    first = len(header) + 8 * height
    offsets = first + np.arange(height, dtype="<u8") * (row_bytes + 8)
    planes = image[:, :, ::-1].astype("<f4").transpose(0, 2, 1)  # rows of B, G, R
    rows = b"".join(struct.pack("<2i", y, row_bytes) + planes[y].tobytes() for y in range(height))
    return header + offsets.tobytes() + rows


def decode_exr(path: str | Path) -> np.ndarray:
    """The R, G, B channels [H, W, 3] float32 of an EXR file.

    Raises:
        InputError: truncated, or a kind of EXR file that is not read here.
    """
    content = Path(path).read_bytes()
    if not content.startswith(_MAGIC):
        raise _unreadable(path, "a file that is not EXR")
    try:
        return _decode(content, path)
    except (struct.error, ValueError, IndexError, KeyError, zlib.error) as error:
        raise _unreadable(path, f"a truncated or unusual EXR file ({error})") from error


def _decode(content: bytes, path: str | Path) -> np.ndarray:
    flags = struct.unpack_from("<i", content, 4)[0] >> 8
    attributes, position = _header(content)
    compression = attributes[b"compression"][0]
    if flags & 0x1A or compression not in _ROWS_PER_BLOCK:  # tiled, deep, multi-part
        raise _unreadable(path, f"a tiled, deep, multi-part or otherwise compressed EXR (compression {compression})")
    channels = _channels(attributes[b"channels"])
    left, top, right, bottom = struct.unpack("<4i", attributes[b"dataWindow"])
    width, height = right - left + 1, bottom - top + 1
    planes = {name: np.zeros((height, width), np.float32) for name, _ in channels}
    rows = _ROWS_PER_BLOCK[compression]
    for offset in np.frombuffer(content, "<u8", -(-height // rows), position):
        first, size = struct.unpack_from("<2i", content, offset)
        block = content[int(offset) + 8 : int(offset) + 8 + size]
        count = min(rows, height - (first - top))
        raw_size = count * width * sum(kind.itemsize for _, kind in channels)
        data = _unzip(block, raw_size) if compression else block
        if len(data) != raw_size:
            raise ValueError(f"rows {first} and on hold {len(data)} bytes instead of {raw_size}")
        start = 0
        for row in range(first - top, first - top + count):
            for name, kind in channels:
                planes[name][row] = np.frombuffer(data, kind, width, start)
                start += width * kind.itemsize
    return np.stack([planes[name] for name in (b"R", b"G", b"B")], -1)


def _header(content: bytes) -> tuple[dict[bytes, bytes], int]:
    attributes, position = {}, 8
    while content[position] != 0:
        name_end = content.index(b"\0", position)
        kind_end = content.index(b"\0", name_end + 1)
        size = struct.unpack_from("<i", content, kind_end + 1)[0]
        attributes[content[position:name_end]] = content[kind_end + 5 : kind_end + 5 + size]
        position = kind_end + 5 + size
    return attributes, position + 1


def _channels(block: bytes) -> list[tuple[bytes, np.dtype]]:
    channels, position = [], 0
    while block[position] != 0:
        end = block.index(b"\0", position)
        kind, _, x_step, y_step = struct.unpack_from("<iB3xii", block, end + 1)
        if (x_step, y_step) != (1, 1):
            raise ValueError("subsampled channels")
        channels.append((block[position:end], _PIXEL_TYPES[kind]))
        position = end + 17
    return channels


def _unzip(block: bytes, raw_size: int) -> bytes:
    if len(block) == raw_size:  # blocks that do not shrink are stored as they are
        return block
    values = np.frombuffer(zlib.decompress(block), np.uint8).astype(np.int64)
    values[1:] -= 128
    halves = np.cumsum(values).astype(np.uint8)  # undo the byte predictor, modulo 256
    middle = (len(halves) + 1) // 2
    data = np.empty_like(halves)
    data[0::2], data[1::2] = halves[:middle], halves[middle:]
    return data.tobytes()


def _unreadable(path: str | Path, found: str) -> InputError:
    return InputError(
        path,
        found=found,
        expected="a scanline EXR with float or half R, G, B, uncompressed or ZIP",
        next_step="Convert the map to Radiance .hdr.",
    )
