"""Pictures, HDR maps and videos on disk."""

import logging
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch

from core.errors import InputError
from core.exr import decode_exr, encode_exr
from core.images import read_hdr, read_image, resize_image, to_bytes, write_hdr, write_image
from core.video import VideoWriter


@pytest.fixture
def picture():
    return torch.rand(9, 13, 3, generator=torch.Generator().manual_seed(2))


def test_pictures_round_to_the_nearest_level(picture, tmp_path):
    """Catches truncation (error up to a whole level) and red exchanged with blue."""
    write_image(tmp_path / "a.png", picture)
    assert (read_image(tmp_path / "a.png") - picture).abs().max() <= 0.5001 / 255
    assert cv2.imread(str(tmp_path / "a.png"))[0, 0, 2] == round(picture[0, 0, 0].item() * 255)


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_levels_are_exact(value):
    """Catches a scale of 256: every level k / 255 is stored as k."""
    assert to_bytes(torch.tensor([value / 255])).item() == value


def test_values_are_clamped_and_nan_refused(tmp_path):
    """Catches wrap-around of bright pixels, and NaN stored as black."""
    assert to_bytes(torch.tensor([-0.5, 1.7])).tolist() == [0, 255]
    with pytest.raises(InputError, match="NaN"):
        write_image(tmp_path / "a.png", torch.tensor([[float("nan")]]))


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (6, 5, 3), (6, 5, 4)])
def test_channels(shape, tmp_path):
    """Catches grey and RGBA pictures that lose or shuffle channels."""
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    write_image(tmp_path / "a.png", image)
    full = read_image(tmp_path / "a.png", channels=4)
    assert full.shape == (6, 5, 4)
    if shape[-1] == 4:
        assert (full - image).abs().max() < 0.6 / 255
    else:
        assert bool((full[..., 3] == 1).all())
    assert (read_image(tmp_path / "a.png", channels=1) - image.reshape(6, 5, -1)[..., 0]).abs().max() < 0.6 / 255


def test_sixteen_bit_pictures_keep_their_scale(tmp_path):
    """Catches division by 255 of 16-bit files."""
    cv2.imwrite(str(tmp_path / "a.png"), np.full((3, 3, 3), 32768, np.uint16))
    assert read_image(tmp_path / "a.png").mean().item() == pytest.approx(32768 / 65535)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.99])
def test_truncated_pictures_are_refused(picture, tmp_path, part):
    """Catches a half-copied picture whose missing rows come out black."""
    write_image(tmp_path / "a.png", picture)
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: int(len(content) * part)])
    with pytest.raises(InputError, match="truncated"):
        read_image(tmp_path / "a.png")


def test_missing_picture_names_its_folder(tmp_path):
    """Catches OpenCV's silent None."""
    (tmp_path / "other.png").touch()
    with pytest.raises(InputError, match=r"other\.png"):
        read_image(tmp_path / "a.png")


@pytest.fixture
def sky():
    return torch.rand(8, 16, 3, generator=torch.Generator().manual_seed(4)) * torch.logspace(-2, 3, 16)[None, :, None]


@pytest.mark.parametrize(("suffix", "tolerance"), [(".hdr", 0.01), (".exr", 0.0)])
def test_hdr_round_trip(sky, tmp_path, suffix, tolerance):
    """Catches lost range, flipped rows, and exchanged channels."""
    path = tmp_path / f"sky{suffix}"
    write_hdr(path, sky)
    error = (read_hdr(path) - sky).abs() / sky.amax(-1, keepdim=True)
    assert error.max() <= tolerance


def test_low_dynamic_range_map_is_refused(tmp_path):
    """Catches an 8-bit picture used as radiance."""
    write_image(tmp_path / "sky.png", torch.rand(8, 16, 3))
    with pytest.raises(InputError, match="low-dynamic-range"):
        read_hdr(tmp_path / "sky.png")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_map_with_broken_values_is_refused(sky, tmp_path, bad):
    """Catches NaN and infinity that would spread over the whole light."""
    sky[2, 3, 1] = bad
    write_hdr(tmp_path / "sky.exr", sky)
    with pytest.raises(InputError, match="1 values that are NaN"):
        read_hdr(tmp_path / "sky.exr")


def test_map_of_other_proportions_is_refused(tmp_path):
    """Catches a square or angular map taken for equirectangular."""
    write_hdr(tmp_path / "sky.hdr", torch.rand(8, 8, 3))
    with pytest.raises(InputError, match="8 x 8 pixels"):
        read_hdr(tmp_path / "sky.hdr")
    assert read_hdr(tmp_path / "sky.hdr", equirectangular=False).shape == (8, 8, 3)


def test_missing_map_lists_bundled_ones(tmp_path):
    """Catches a message without a way out."""
    with pytest.raises(InputError, match=r"city\.hdr, forest\.hdr"):
        read_hdr(tmp_path / "sky.hdr", bundled=["city.hdr", "forest.hdr"])


def test_negative_radiance_is_clamped_with_a_warning(sky, tmp_path, caplog):
    """Catches negative light, which resampled maps contain."""
    sky[0, 0] = -0.5
    write_hdr(tmp_path / "sky.exr", sky)
    with caplog.at_level(logging.WARNING):
        assert read_hdr(tmp_path / "sky.exr").min() == 0
    assert "negative" in caplog.text


def zip_exr(image: np.ndarray, kind: int) -> bytes:
    """A ZIP-compressed EXR (16 rows a block), built independently of the decoder from the format's description."""
    plain = encode_exr(image).replace(b"compression\0compression\0\1\0\0\0\0", b"compression\0compression\0\1\0\0\0\3")
    height, width, _ = image.shape
    header = (
        plain[: plain.index(b"screenWindowWidth")]
        + b"screenWindowWidth\0float\0\4\0\0\0"
        + struct.pack("<f", 1)
        + b"\0"
    )
    for name in (b"B", b"G", b"R"):
        header = header.replace(name + b"\0" + struct.pack("<i", 2), name + b"\0" + struct.pack("<i", kind))
    dtype = {1: "<f2", 2: "<f4"}[kind]
    chunks = []
    for top in range(0, height, 16):
        rows = image[top : top + 16, :, ::-1].transpose(0, 2, 1).astype(dtype).tobytes()
        split = bytearray(rows[0::2] + rows[1::2])
        coded = bytes([split[0]] + [(split[i] - split[i - 1] + 128) % 256 for i in range(1, len(split))])
        packed = zlib.compress(coded)
        packed = packed if len(packed) < len(rows) else rows
        chunks.append(struct.pack("<2i", top, len(packed)) + packed)
    offsets, position = b"", len(header) + 8 * len(chunks)
    for chunk in chunks:
        offsets += struct.pack("<Q", position)
        position += len(chunk)
    return header + offsets + b"".join(chunks)


@pytest.mark.parametrize("kind", [1, 2])
def test_zip_compressed_exr(tmp_path, kind):
    """Catches a wrong byte predictor, interleaving, block size or channel order in compressed files."""
    rows, columns = np.mgrid[0:21, 0:30].astype(np.float32)
    image = np.stack([rows, columns / 4, rows * 0 + 0.5], -1)
    (tmp_path / "a.exr").write_bytes(zip_exr(image, kind))
    np.testing.assert_array_equal(decode_exr(tmp_path / "a.exr"), image)


@pytest.mark.parametrize("damage", ["cut", "tiled", "piz", "text"])
def test_unreadable_exr_says_what_to_do(sky, tmp_path, damage):
    """Catches struct errors in the face of the user."""
    content = bytearray(encode_exr(sky.numpy()))
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "tiled":
        content[5] |= 2
    elif damage == "piz":
        content[content.index(b"compression\0compression\0") + 28] = 4
    else:
        content = bytearray(b"hello")
    (tmp_path / "a.exr").write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"Convert the map to Radiance \.hdr"):
        read_hdr(tmp_path / "a.exr")


def test_shrinking_averages_and_growing_interpolates():
    """Catches aliasing when shrinking and a half-pixel shift when growing."""
    image = torch.arange(32.0).reshape(4, 8)
    torch.testing.assert_close(resize_image(image, 4, 2), image.reshape(2, 2, 4, 2).mean((1, 3)))
    ramp = (torch.arange(8.0) + 0.5).expand(4, 8)[..., None].expand(4, 8, 3).contiguous()
    grown = resize_image(ramp, 16, 8)[0, 2:-2, 0]
    torch.testing.assert_close(grown, (torch.arange(16.0)[2:-2] + 0.5) / 2)


def test_video_of_odd_size(tmp_path):
    """Catches frames dropped, and H.264's refusal of odd sides: the frames come back in order and brightness."""
    with VideoWriter(tmp_path / "a.mp4", fps=10) as video:
        for level in (0.2, 0.5, 0.8):
            video.append(torch.full((33, 41, 3), level))
    reader = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    frames = []
    while (result := reader.read())[0]:
        frames.append(result[1])
    assert [frame.shape for frame in frames] == [(34, 42, 3)] * 3
    np.testing.assert_allclose([frame.mean() / 255 for frame in frames], [0.2, 0.5, 0.8], atol=0.02)


def test_broken_video_leaves_nothing(tmp_path):
    """Catches half a file after an error, and one from no frames."""

    def failing():
        with VideoWriter(tmp_path / "a.mp4") as video:
            video.append(torch.zeros(16, 16, 3))
            raise RuntimeError("render failed")

    with pytest.raises(RuntimeError, match="render failed"):
        failing()
    with pytest.raises(ValueError, match="without frames"), VideoWriter(tmp_path / "b.mp4"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_absent_encoder_is_named(tmp_path, monkeypatch):
    """Catches ffmpeg's absence reported as a broken pipe."""
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="imageio-ffmpeg"), VideoWriter(tmp_path / "a.mp4") as video:
        video.append(torch.zeros(16, 16, 3))
