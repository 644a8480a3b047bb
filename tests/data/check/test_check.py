"""`python -m data.check`: what it says of whole and of broken folders, and whether its silhouettes are right."""

import json
import logging
import re
import shutil

import numpy as np
import pytest
import torch

from body_models import load_body
from body_models.skinning import posed_body
from core.images import read_image
from data import embedded
from data.check.__main__ import ERRORS, FINE, WARNINGS, main
from data.check.body_view import BodyView
from data.check.layouts import recognise
from data.peoplesnapshot import PeopleSnapshotFrames

FEW = ("--frames", "0", "24", "6", "--tiles", "2", "--tile-height", "64", "--body-model", "embedded", "--strict")


@pytest.fixture
def capture(tmp_path):
    """A copy of the embedded PeopleSnapshot subject."""
    folder = tmp_path / "alice"
    shutil.copytree(embedded.load_root() / "peoplesnapshot" / embedded.SUBJECT, folder)
    return folder


@pytest.fixture
def check(tmp_path, caplog):
    """Runs the command line; returns exit status and what it printed."""

    def run(folder, *options):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            status = main([str(folder), "--output", str(tmp_path / "out"), *options])
        return status, caplog.text

    return run


def change(path, **changes):
    """Rewrite arrays of an .npz file by functions."""
    arrays = dict(np.load(path))
    np.savez(path, **{name: changes[name](values) if name in changes else values for name, values in arrays.items()})


def longer_focal(folder):
    change(
        folder / "cameras.npz",
        intrinsic=lambda k: np.array([[1.5 * k[0, 0], 0, 64], [0, 1.5 * k[1, 1], 64], [0, 0, 1]]),
    )


def shifted_centre(folder):
    change(folder / "cameras.npz", intrinsic=lambda k: k + np.array([[0, 0, 20.0], [0, 0, 0], [0, 0, 0]]))


def upside_down(folder):
    change(folder / "poses.npz", thetas=lambda t: np.concatenate([0 * t[:, :3], t[:, 3:]], 1))


def inverted_extrinsic(folder):
    change(folder / "cameras.npz", extrinsic=lambda w: np.diag([1.0, -1, -1, 1]))


def degrees(folder):
    change(folder / "poses.npz", thetas=np.degrees)


def millimetres(folder):
    change(folder / "poses.npz", transl=lambda t: 1000 * t)


def wild_betas(folder):
    change(folder / "poses.npz", betas=lambda b: 8 * b)


def one_foreign_mask(folder):
    shutil.copy(folder / "masks/mask_0000.npy", folder / "masks/mask_0006.npy")
    mask = np.load(folder / "masks/mask_0006.npy")
    np.save(folder / "masks/mask_0006.npy", np.roll(mask, 20, 1))


@pytest.mark.parametrize("folder", ["peoplesnapshot/subject_00", "rana/test/subject_00"])
def test_embedded_subject_is_fine(folder, check, tmp_path):
    """Fails when a whole dataset is refused, bodies do not lie on their masks, or no sheet is written."""
    count = {"rana": 8}.get(folder.split("/")[0], 24)
    frames = ("--frames", "0", str(count), "4")
    status, said = check(embedded.load_root() / folder, *FEW, *frames)
    assert (status, "0 errors, 0 warnings" in said) == (FINE, True), said
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert len(report["frames"]) == count // 4
    assert all(found["iou"] > 0.8 and found["joints_inside"] == 1 for found in report["frames"].values())
    assert read_image(tmp_path / "out/overlay.png").shape[0] > 64


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (longer_focal, r"in 4 of 4 frames.*1\.\d\d times as tall as the mask: focal length"),
        (shifted_centre, r"The body is \+0\.\d\d \(right\).*principal point"),
        (upside_down, "upside down"),
        (inverted_extrinsic, "behind the camera"),
        (degrees, r"are the poses in degrees\?"),
        (millimetres, r"are translations in millimetres\?"),
        (wild_betas, "Betas reach 8.0"),
        (one_foreign_mask, r"in 1 of 4 frames: 0001\. Poses or masks of these frames\?"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_wrong_cameras_and_poses_are_told(damage, message, capture, check):
    """Fails when a plausible but wrong camera, pose, unit or mask passes, or its cause is misnamed."""
    damage(capture)
    status, said = check(capture, *FEW)
    assert status == WARNINGS, said
    assert re.search(message, said), said


def test_every_broken_frame_is_listed(capture, check):
    """Fails when the check stops at the first broken file, or ends with success."""
    for number in (6, 12):
        (capture / f"images/image_{number:04d}.png").write_bytes(b"")
    status, said = check(capture, *FEW)
    assert status == ERRORS
    assert "image_0006.png" in said
    assert "image_0012.png" in said
    assert "of 4" in said


def test_side_files_are_read_too(capture, check):
    """Fails when broken poses of a split, or an interrupted conversion, pass because all images can be read."""
    change(capture / "poses/anim_nerf_val.npz", transl=lambda t: t * np.nan)
    (capture / "conversion.json").write_text('{"complete": false}')
    status, said = check(capture, *FEW)
    assert status == ERRORS
    assert "anim_nerf_val.npz: found NaN" in said
    assert "conversion was interrupted" in said


def test_body_files_that_are_missing(capture, check, tmp_path):
    """Fails when a folder cannot be checked without licensed bodies, or their absence is not an error."""
    status, said = check(capture, *FEW, "--body-model", str(tmp_path / "nowhere"))
    assert status == ERRORS
    assert "--body-model none" in said
    assert check(capture, *FEW, "--body-model", "none")[0] == FINE


def test_motions_and_renders(check, tmp_path):
    """Fails when folders without images, or renders whose motion is not known, cannot be checked."""
    root = embedded.load_root()
    subject = ("--subject-root", str(root / "rana/train_p1" / embedded.SUBJECT))
    status, said = check(root / "animation/walk", *FEW, *subject)
    assert (status, "layout" in said, "focal length 2000.00" in said) == (FINE, True, True), said
    assert check(root / "animation/walk", *FEW, "--gender", "male")[0] == FINE
    folder = tmp_path / "it0-test"
    folder.mkdir()
    maps = {name: np.zeros((8, 8, 3), np.float16) for name in ("pbr_rgb", "normal", "albedo")}
    maps |= {name: np.ones((8, 8), np.float16) for name in ("alpha", "roughness", "metallic", "depth")}
    for i in range(2):
        np.savez(folder / f"{i:04d}-maps.npz", **maps)
    manifest = {"schema": 1, "subject": "alice", "gender": "male", "betas": [0.0] * 10, "width": 8, "height": 8}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "frames": [0, 1]}))
    status, said = check(folder, "--tiles", "1")
    assert (status, "8 x 8" in said, "body on mask" in said) == (FINE, True, False), said
    (folder / "0001-maps.npz").unlink()
    assert check(folder)[0] == ERRORS


def test_unknown_folders_name_the_way_out(check, tmp_path, layouts):
    """Fails when the root of several subjects, or an empty folder, gives a bare error."""
    layouts.peoplesnapshot()
    layouts.rana()
    assert recognise(layouts.root / "rana/train_p1/subject_01") == "rana"
    status, said = check(layouts.root / "peoplesnapshot")
    assert (status, "Check one of its subjects: male-1-casual" in said) == (ERRORS, True), said
    assert "DATASET.md" in check(tmp_path / "nowhere")[1]
    assert "gender is recorded nowhere" in check(layouts.root / "rana/train_p1/subject_01", "--body-model", "none")[1]


def test_silhouette_against_brute_force():
    """Fails when silhouettes are displaced by half a pixel, mirrored, or fattened by OpenCV's fringe."""
    root = embedded.load_root() / "peoplesnapshot"
    frame = PeopleSnapshotFrames(root=root, subject=embedded.SUBJECT, gender="male", split="raw")[3]
    body, betas = load_body(None, "male"), torch.zeros(10)
    camera = frame.camera.resized(40, 40)
    silhouette = BodyView.of(body, betas, frame.pose, camera).silhouette
    corners = camera.project(posed_body(body, betas, frame.pose)[0])[0][body.faces]
    rows, columns = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(40) + 0.5, indexing="ij")
    sides = []
    for a, b in ((0, 1), (1, 2), (2, 0)):
        edge, start = corners[:, b] - corners[:, a], corners[:, a]
        sides.append(
            edge[:, 0] * (rows.reshape(-1, 1) - start[:, 1]) - edge[:, 1] * (columns.reshape(-1, 1) - start[:, 0])
        )
    inside = torch.stack([side >= 0 for side in sides]).all(0).any(1).reshape(40, 40)
    assert 100 < inside.sum() < 300
    assert (inside != (silhouette > 0.5)).sum() <= 3
