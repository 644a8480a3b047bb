"""The RANA reader against files written by numpy and OpenCV."""

import json
import logging

import cv2
import numpy as np
import pytest
import torch

from core.frames import world_to_opengl_normals
from data.frame_range import FrameRange
from data.rana import RanaFrames


def read(layouts, **options):
    return RanaFrames(root=layouts.root / "rana", subject="subject_01", gender="male", **options)


def test_frames_hold_what_the_files_say(layouts):
    """Catches frames, poses and masks that slip against each other, and exchanged channels."""
    layouts.rana()
    frames = read(layouts, frames=FrameRange(1, 6, 2))
    assert (len(frames), frames.subject, frames.gender, frames.name) == (3, "subject_01", "male", "rana")
    assert frames.betas.tolist() == layouts.betas.tolist()
    for position, (number, frame) in enumerate(zip((1, 3, 5), frames)):
        assert (frame.index, frame.name) == (position, f"{position:04d}")
        mask = layouts.masks[number]
        np.testing.assert_array_equal(frame.mask.numpy(), mask)
        expected = np.where(mask[..., None] == 1, layouts.images[number] / 255, 1.0)
        np.testing.assert_allclose(frame.image.numpy(), expected, atol=1e-6)
        np.testing.assert_array_equal(frame.pose.axis_angles.reshape(-1).numpy(), layouts.poses[number])
        np.testing.assert_array_equal(frame.pose.transl.numpy(), layouts.transl[number])


def test_maps(layouts):
    """Catches sRGB decoding of albedo (it is linear), normals that are not unit, and maps outside the mask."""
    layouts.rana()
    frame = read(layouts)[0]
    np.testing.assert_allclose(frame.albedo[0, 0].numpy(), [51 / 255, 128 / 255, 1.0], atol=1e-6)
    decoded = np.array([51, 128, 255]) / 127.5 - 1
    np.testing.assert_allclose(frame.normal[8, 10].numpy(), decoded / np.linalg.norm(decoded), atol=1e-5)
    assert frame.normal[0, 0].abs().max() == 0
    assert frame.roughness[3, 3].item() == pytest.approx(51 / 255)
    assert frame.metallic is None


def test_normals_are_in_opengl_axes(layouts):
    """Catches OpenCV axes: a normal towards the camera has positive z and decodes from blue above 128."""
    folder = layouts.rana()
    towards_camera = world_to_opengl_normals(torch.tensor([0.0, 0.6, -0.8]), read(layouts)[0].camera)
    picture = np.broadcast_to(((towards_camera.numpy() + 1) * 127.5).round()[::-1], (20, 24, 3)).astype(np.uint8)
    cv2.imwrite(str(folder / "normals/normal_0000.png"), picture)
    np.testing.assert_allclose(read(layouts)[0].normal[8, 10].numpy(), [0, -0.6, 0.8], atol=0.01)


def test_valid_region_is_the_box_of_the_dilated_mask(layouts, monkeypatch):
    """Catches a valid region of the wrong frame, and the box not grown: the published kernel covers small images."""
    layouts.rana()
    assert bool(read(layouts)[0].valid.all())
    monkeypatch.setattr("data.rana.VALID_DILATION", 3)
    valid = read(layouts)[1].valid
    expected = torch.zeros_like(valid)
    expected[3:17, 6:18] = True
    assert torch.equal(valid, expected)


def test_relit_frames_name_their_maps(layouts):
    """Catches maps paired with positions instead of frames of the sequence."""
    layouts.rana("test")
    frames = read(layouts, split="test", frames=FrameRange(1, 6, 2))
    assert [frame.hdri for frame in frames] == [layouts.root / "rana/hdri/b.hdr"] * 3
    assert read(layouts, split="test")[0].hdri.name == "a.hdr"


def test_bundled_maps_serve_relit_frames(layouts):
    """Catches a relit split that cannot name the project's own maps."""
    folder = layouts.rana("test")
    for name in ("a.hdr", "b.hdr"):
        (layouts.root / "rana/hdri" / name).unlink()
    (folder / "hdri_files.json").write_text(
        '["city.hdr", "forest.hdr", "city.hdr", "city.hdr", "city.hdr", "city.hdr"]'
    )
    frame = read(layouts, split="test")[1]
    assert frame.hdri.name == "forest.hdr"
    assert frame.hdri.is_file()


@pytest.mark.parametrize("options", [{"downscale": 2}, {"size": (10, 12)}])
def test_smaller_images_keep_their_camera(layouts, options):
    """Catches K left at full size, subsampling instead of averaging, and a projection that moves in the image."""
    folder = layouts.rana()
    smooth = cv2.resize(np.arange(12, dtype=np.uint8).reshape(3, 4) * 10, (24, 20), interpolation=cv2.INTER_LINEAR)
    cv2.imwrite(str(folder / "images/image_0001.png"), np.repeat(smooth[..., None], 3, -1))
    full, half = read(layouts)[1], read(layouts, **options)[1]  # its mask ends in the middle of a coarse pixel
    assert (half.camera.width, half.camera.height, half.image.shape) == (12, 10, (10, 12, 3))
    point = torch.tensor([0.03, -0.02, 1.0])
    torch.testing.assert_close(half.camera.project(point)[0] * 2, full.camera.project(point)[0])
    mean = torch.from_numpy(smooth / 255.0).float().reshape(10, 2, 12, 2).mean((1, 3))
    inside = half.mask > 0.5
    torch.testing.assert_close(half.image[..., 0][inside], mean[inside])
    assert set(half.mask.unique().tolist()) == {0.0, 1.0}


def test_masks_up_to_255_are_normalised_with_a_warning(layouts, caplog):
    """Catches colours multiplied by 255."""
    folder = layouts.rana()
    np.save(folder / "masks/mask_0002.npy", layouts.masks[2] * 255)
    with caplog.at_level(logging.WARNING):
        frame = read(layouts)[2]
    np.testing.assert_array_equal(frame.mask.numpy(), layouts.masks[2])
    assert "divided by 255" in caplog.text


def test_cameras_of_every_frame_are_followed(layouts):
    """Catches the camera of the dataset's position instead of the sequence's frame."""
    folder = layouts.rana()
    extrinsic = np.stack([np.eye(4)] * 6)
    extrinsic[:, 0, 3] = np.arange(6)
    camera = json.loads((folder / "cameras.json").read_text()) | {"extrinsic": extrinsic.tolist()}
    (folder / "cameras.json").write_text(json.dumps(camera))
    frames = read(layouts, frames=FrameRange(1, 6, 2))
    assert [frame.camera.camera_from_world[0, 3].item() for frame in frames] == [1, 3, 5]


def test_lens_distortion_is_removed(layouts):
    """Catches distortion ignored or applied backwards: a dot at its distorted place returns to its pinhole place."""
    folder = layouts.rana()
    camera = json.loads((folder / "cameras.json").read_text()) | {"distortion": [2.0, 0.0, 0.0, 0.0]}
    (folder / "cameras.json").write_text(json.dumps(camera))
    np.save(folder / "masks/mask_0000.npy", np.ones((20, 24), np.uint8))
    x, y = 0.25, 0.1  # normalised coordinates; radial model x (1 + k r^2)
    stretched = 1 + 2.0 * (x * x + y * y)
    rows, columns = np.mgrid[0:20, 0:24] + 0.5
    distance = (columns - (30 * x * stretched + 12)) ** 2 + (rows - (30 * y * stretched + 10)) ** 2
    cv2.imwrite(str(folder / "images/image_0000.png"), np.repeat((255 * np.exp(-distance / 2))[..., None], 3, -1))
    dot = read(layouts)[0].image[..., 0].numpy()
    dot = dot * (dot < 0.999)  # undistortion leaves white outside the source
    centre = (dot * columns).sum() / dot.sum(), (dot * rows).sum() / dot.sum()
    np.testing.assert_allclose(centre, (30 * x + 12, 30 * y + 10), atol=0.1)


def test_frames_are_read_on_demand_or_kept(layouts, monkeypatch):
    """Catches a reader that decodes everything at start, or again and again when asked to preload."""
    layouts.rana()
    calls = []
    original = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *arguments: calls.append(1) or original(*arguments))
    lazy = read(layouts)
    assert len(calls) <= 1
    lazy[3]
    assert 2 <= len(calls) <= 6
    kept = read(layouts, preload=True)
    calls.clear()
    assert kept[2] is kept[2]
    assert calls == []


def test_sequence_protocol(layouts):
    """Catches endless iteration and wrong negative indices."""
    layouts.rana()
    frames = read(layouts)
    assert [frame.index for frame in frames] == list(range(6))
    assert frames[-1].index == 5
    with pytest.raises(IndexError):
        frames[6]
