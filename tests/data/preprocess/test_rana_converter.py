"""The RANA converter: raw sequence to layout and back through the reader."""

import numpy as np
import pytest
import torch

from body_models import load_body
from body_models.skinning import posed_body
from data import embedded
from data.preprocess import rana
from data.rana import RanaFrames
from tests.data.preprocess.raw_captures import COUNT, edit_json, write_rana

SUBJECT = "subject_09"


def run(root, split, *options) -> int:
    return rana.main(
        ["--data-dir", str(root / "raw"), "--split", split, "--seqname", SUBJECT, "--out-dir", str(root / "load"),
         "--workers", "2", "--body-model", "embedded", *options]
    )  # fmt: skip


def read(root, split, subject=SUBJECT):
    return list(RanaFrames(root=root, subject=subject, gender="male", split=split))


@pytest.fixture(scope="module", params=["train_p1", "test"])
def pair(request, tmp_path_factory):
    """Split, converted frames, original frames."""
    root = tmp_path_factory.mktemp("rana")
    write_rana(root / "raw", request.param)
    assert run(root, request.param) == 0
    converted = read(root / "load", request.param)
    assert len(converted) == COUNT
    return request.param, converted, read(embedded.load_root() / "rana", request.param, embedded.SUBJECT)[:COUNT]


def test_pictures_and_masks_are_exact(pair):
    """Fails when maps are exchanged, frames shifted, or the mask is not the semantic map's alpha."""
    for frame, source in zip(*pair[1:]):
        for name in ("image", "mask", "albedo", "normal"):
            np.testing.assert_array_equal(getattr(frame, name), getattr(source, name))


def test_posed_body_projects_onto_the_same_pixels(pair):
    """Fails when scale, pelvis, the test camera's turn or its field of view are wrong (measured: below 1e-4 pixels)."""
    body = load_body(None, "male")
    betas = torch.from_numpy(
        np.load(embedded.load_root() / "rana/train_p1" / embedded.SUBJECT / "poses.npz")["betas"][0]
    )
    for frame, source in zip(*pair[1:]):
        pixels, depths = [], []
        for one in (frame, source):
            hands = one.pose.axis_angles.reshape(-1).clone()
            hands[60:] = 0  # the published data have no wrists and hands
            pose = type(one.pose)(hands[:3], hands[3:], one.pose.transl)
            points, depth = one.camera.project(posed_body(body, betas, pose)[0])
            pixels.append(points)
            depths.append(depth)
        assert (pixels[0] - pixels[1]).abs().max() < 1e-3
        assert (depths[0] - depths[1]).abs().max() < 1e-5


def test_body_poses_are_exact_and_hands_are_zero(pair):
    """Fails when joints are shifted, or wrists and hands are kept."""
    for frame, source in zip(*pair[1:]):
        np.testing.assert_array_equal(frame.pose.body_pose[:57], source.pose.body_pose[:57])
        assert not frame.pose.body_pose[57:].any()
        if pair[0] == "train_p1":
            np.testing.assert_array_equal(frame.pose.global_orient, source.pose.global_orient)
            np.testing.assert_allclose(frame.pose.transl, source.pose.transl, atol=1e-6)


def test_test_split_is_in_the_world_of_its_lights(pair):
    """Fails when the camera of relit frames does not look along the world's +x, or the lights' names are lost."""
    split, frames, originals = pair
    for frame, source in zip(frames, originals):
        forward = torch.linalg.inv(frame.camera.camera_from_world)[:3, 2]
        expected = [1.0, 0, 0] if split == "test" else [0, 0, 1.0]
        np.testing.assert_allclose(forward, expected, atol=1e-6)
        assert (frame.hdri and frame.hdri.name) == (source.hdri and source.hdri.name)


def test_conversion_goes_on(tmp_path):
    """Fails when finished frames are written again or a missing one is not."""
    write_rana(tmp_path / "raw", "train_p1")
    assert run(tmp_path, "train_p1") == 0
    folder = tmp_path / "load" / "train_p1" / SUBJECT
    (folder / "albedos" / "albedo_0002.png").unlink()
    before = (folder / "images" / "image_0001.png").stat().st_mtime_ns
    assert run(tmp_path, "train_p1") == 0
    assert (folder / "albedos" / "albedo_0002.png").is_file()
    assert (folder / "images" / "image_0001.png").stat().st_mtime_ns == before


def test_missing_lights_are_listed(tmp_path, caplog):
    """Fails when a user is not told which maps to get, or the conversion stops for want of them."""
    folder = write_rana(tmp_path / "raw", "test")
    edit_json(folder / "frame_000012.json", lambda c: c.update(bg_file="unknown_4k.hdr"))
    assert run(tmp_path, "test") == 0
    assert "https://dl.polyhaven.org/file/ph-assets/HDRIs/hdr/4k/unknown_4k.hdr" in caplog.text


def body(**entries):
    return lambda folder: edit_json(
        folder / "frame_000012.json", lambda c: c["skeleton_0"]["smpl_data"].update(entries)
    )


def drop(*names):
    def change(content):
        for name in names[:-1]:
            content = content[name]
        del content[names[-1]]

    return lambda folder: edit_json(folder / "frame_000012.json", change)


def cut(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-40])


FAULTS = {
    "missing map": (lambda f: (f / "frame_000011_albedo.png").unlink(), ["frame_000011_albedo.png (1 of 24)"]),
    "missing json": (lambda f: (f / "frame_000011.json").unlink(), ["frame_000011.json (1 of 24)"]),
    "broken json": (lambda f: (f / "frame_000011.json").write_text("{"), ["frame_000011.json", "a JSON file"]),
    "no body": (drop("skeleton_0", "smpl_data"), ["frame_000012.json", "no skeleton_0.smpl_data"]),
    "no scale": (drop("skeleton_0", "smpl_data", "scale"), ["frame_000012.json", "no scale"]),
    "NaN": (body(global_trans=[0, float("nan"), 1]), ["frame_000012.json", "NaN", "global_trans"]),
    "short pose": (body(pose=[0.0] * 60), ["frame_000012.json", "60 values in pose", "69"]),
    "other betas": (body(betas=[1.0] * 10), ["frame_000012.json", "one betas for the sequence"]),
    "other gender": (body(gender="female"), ["frame_000012.json", "gender female"]),
    "other camera": (body(K=[[1, 0, 0], [0, 1, 0], [0, 0, 1]]), ["frame_000012.json", "one camera"]),
    "scale zero": (body(scale=0), ["frame_000012.json", "scale 0.0"]),
    "truncated image": (cut("frame_000013.png"), ["frame_000013.png", "truncated"]),
    "truncated mask": (cut("frame_000013_semantic.png"), ["frame_000013_semantic.png", "truncated"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(tmp_path, caplog, fault):
    """Fails when a fault gets through, or its message does not name the file and what is wrong."""
    damage, parts = FAULTS[fault]
    damage(write_rana(tmp_path / "raw", "train_p1"))
    assert run(tmp_path, "train_p1") == 1
    assert all(part in caplog.text for part in parts), caplog.text
    assert not (tmp_path / "load" / "train_p1" / SUBJECT / "poses.npz").exists()


def test_turned_camera_is_refused(tmp_path, caplog):
    """Fails when a yaw whose unit nobody knows is ignored."""
    folder = write_rana(tmp_path / "raw", "test")
    edit_json(folder / "frame_000012.json", lambda c: c["camera"].update(yaw=0.5))
    assert run(tmp_path, "test") == 1
    assert "yaw 0.5" in caplog.text
