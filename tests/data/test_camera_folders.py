"""SyntheticHuman and ZJU-MoCap: what their frames hold, in worlds where each frame has a camera of its own."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch

from body_models import load_body
from body_models.skinning import posed_body
from core.errors import InputError
from data import embedded
from data.camera_folders import LAYOUTS, CameraFolderFrames
from data.check.__main__ import FINE, main
from data.frame_range import FrameRange
from data.rana import RanaFrames
from tests.data.camera_folders_writer import CAMERA, COUNT, SUBJECT, write

BOTH = pytest.mark.parametrize("layout", tuple(LAYOUTS))


def read(root, layout, **options):
    capture = {"root": root / layout, "subject": SUBJECT[layout], "gender": "male"}
    return CameraFolderFrames(layout=LAYOUTS[layout], **capture, **options)


@pytest.fixture(scope="module")
def original():
    root = embedded.load_root() / "rana"
    return RanaFrames(root=root, subject=embedded.SUBJECT, gender=embedded.GENDER, split="test")


@BOTH
def test_bodies_stay_in_their_images_when_the_camera_moves(layout, original, tmp_path):
    """Fails when extrinsics of another frame, or only the first, are used, or masks slip against images."""
    write(tmp_path, layout)
    body = load_body(None, embedded.GENDER)
    frames = read(tmp_path, layout, split="test", frames=FrameRange(1, COUNT, 3))
    assert (len(frames), frames.name, frames.subject) == (3, layout, SUBJECT[layout])
    for number, frame in zip(range(1, COUNT, 3), frames):
        expected = original[number]
        torch.testing.assert_close(frame.mask, expected.mask)
        loss = 0.02 if layout == "zju-mocap" else 1e-6  # JPEG
        assert float((frame.image - expected.image).abs().mean()) < loss
        joints, depths = frame.camera.project(posed_body(body, frames.betas, frame.pose)[1])
        wanted, distance = expected.camera.project(posed_body(body, original.betas, expected.pose)[1])
        torch.testing.assert_close(joints, wanted, atol=2e-3, rtol=0)
        torch.testing.assert_close(depths, distance, atol=1e-4, rtol=0)


def test_relit_split_of_synthetic_human(original, tmp_path):
    """Fails when the test split shows the training images, or frames get no light or another frame's."""
    write(tmp_path, "synthetichuman", moving=False)
    relit, training = (read(tmp_path, "synthetichuman", split=split) for split in ("test", "train"))
    assert [frame.hdri for frame in relit] == [frame.hdri for frame in original]
    assert all(frame.hdri is None for frame in training)
    inside = relit[0].mask > 0.5
    torch.testing.assert_close(relit[0].image, original[0].image)
    assert float(training[0].image[inside].mean()) < 0.6 * float(relit[0].image[inside].mean())
    torch.testing.assert_close(training[0].albedo, original[0].albedo)
    torch.testing.assert_close(training[0].normal, original[0].normal)
    assert training[0].valid is not None


def test_labelled_masks_and_bounds_of_zju(tmp_path):
    """Fails when part labels below 128 count as background, or bound masks are not what metrics look at."""
    folder = write(tmp_path, "zju-mocap")
    assert 0.05 < float(read(tmp_path, "zju-mocap")[0].mask.mean()) < 0.3
    (folder / "bound_masks" / CAMERA["zju-mocap"]).mkdir(parents=True)
    bounds = np.zeros((128, 128), np.uint8)
    bounds[10:90, 20:100] = 1
    for i in range(COUNT):
        cv2.imwrite(str(folder / f"bound_masks/{CAMERA['zju-mocap']}/image_{i:04d}.png"), bounds)
    np.testing.assert_array_equal(read(tmp_path, "zju-mocap")[3].valid.numpy(), bounds == 1)


@BOTH
def test_smaller_images(layout, tmp_path):
    """Fails when the camera keeps the size of the files."""
    write(tmp_path, layout)
    half, full = read(tmp_path, layout, downscale=2)[0], read(tmp_path, layout)[0]
    assert (half.camera.width, half.image.shape) == (64, (64, 64, 3))
    torch.testing.assert_close(half.camera.intrinsics[:2] * 2, full.camera.intrinsics[:2])
    assert read(tmp_path, layout, size=(32, 48))[0].mask.shape == (32, 48)


def no_camera(folder, layout):
    (folder / "cameras.json").write_text("[]")


def cameras_of_other_frames(folder, layout):
    path, name = folder / "cameras.json", CAMERA[layout]
    cameras = json.loads(path.read_text())
    cameras[name]["extrinsic"] = cameras[name]["extrinsic"][:5]
    path.write_text(json.dumps(cameras))


def too_few_poses(folder, layout):
    arrays = dict(np.load(folder / "poses.npz"))
    shorter = {name: arrays[name][:6] for name in ("global_orient", "body_pose", "transl")}
    np.savez(folder / "poses.npz", **(arrays | shorter))


def no_images(folder, layout):
    shutil.rmtree(folder / "images" / CAMERA[layout])


def missing_mask(folder, layout):
    next((folder / "masks" / CAMERA[layout]).glob("*0004*")).unlink()


@BOTH
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_camera, "found no all_cam_names"),
        (cameras_of_other_frames, "5 extrinsic matrices, expected 1 or 8"),
        (too_few_poses, r"6 poses \(0-5\), expected 8"),
        (no_images, "images/.*: found no such folder"),
        (missing_mask, "no file for frames 4"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_broken_folders(layout, damage, message, tmp_path):
    """Fails when damage ends in an error from deep inside, or is passed over."""
    damage(write(tmp_path, layout), layout)
    with pytest.raises(InputError, match=message):
        read(tmp_path, layout)


def test_cameras_by_name(tmp_path):
    """Fails when an unknown camera falls back to another one in silence."""
    write(tmp_path, "zju-mocap")
    assert len(read(tmp_path, "zju-mocap", camera="Camera_B1")) == COUNT
    with pytest.raises(InputError, match="found cameras Camera_B1, expected camera Camera_B9"):
        read(tmp_path, "zju-mocap", camera="Camera_B9")


def test_relit_images_that_were_never_published(tmp_path):
    """Fails when the relit split falls back to the training images."""
    folder = write(tmp_path, "synthetichuman")
    shutil.rmtree(folder / "images_relit")
    with pytest.raises(InputError, match="images_relit/00: found no such folder"):
        read(tmp_path, "synthetichuman", split="test")


@BOTH
def test_check_recognises_the_folder(layout, tmp_path):
    """Fails when `data.check` does not know the layout, or its bodies lie beside the masks."""
    folder = write(tmp_path, layout)
    options = ("--body-model", "embedded", "--strict", "--tiles", "1", "--split", "test")
    assert main([str(folder), "--output", str(tmp_path / "out"), *options]) == FINE
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert ["layout", "", "", layout, ""] in report["rows"]
    assert min(frame["iou"] for frame in report["frames"].values()) > 0.8
