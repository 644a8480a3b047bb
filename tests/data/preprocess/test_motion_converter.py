"""The motion converter: the embedded walk in each foreign format, and back."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from body_models import load_body
from body_models.skinning import posed_body, rest_joints
from core.files import read_arrays
from core.frames import BodyPose
from data import embedded
from data.animation import PUBLISHED_POSITION, MotionFrames
from data.preprocess import motion

TURNS = {"y": Rotation.from_euler("x", 180, degrees=True), "z": Rotation.from_euler("x", 90, degrees=True)}
COUNT = 40
ROOT = Path(__file__).resolve().parents[3]


def walk() -> tuple[np.ndarray, np.ndarray]:
    """Poses [N, 72] and a path [N, 3] in the project's axes."""
    poses = np.load(embedded.load_root() / "animation" / "walk" / "poses.npz")["poses"][:COUNT].astype(np.float64)
    steps = np.linspace(0, 1, COUNT)
    return poses, np.stack([0.3 * steps, 0.05 * np.sin(9 * steps), -steps], 1)


def as_seen_from(up: str) -> tuple[np.ndarray, np.ndarray]:
    """The walk in a world whose ``up`` axis is up: the body's surface is turned as a whole."""
    poses, trans = walk()
    turn, pelvis = TURNS[up].inv(), rest_joints(load_body(None, "male"), torch.zeros(10))[0].numpy()
    poses[:, :3] = (turn * Rotation.from_rotvec(poses[:, :3])).as_rotvec()
    return poses, turn.apply(trans + pelvis) - pelvis


def convert(tmp_path, *options) -> dict[str, np.ndarray]:
    assert motion.main([*map(str, options), "--output", str(tmp_path / "out" / "walk")]) == 0
    return read_arrays(tmp_path / "out" / "walk" / "poses.npz")


def write_amass(path: Path) -> None:
    poses, trans = as_seen_from("z")
    wide = np.random.default_rng(0).normal(size=(COUNT, 156))
    wide[:, :66] = poses[:, :66]
    np.savez(path, poses=wide, trans=trans, betas=np.zeros(16), gender="male", mocap_framerate=120.0, dmpls=np.ones(8))


def write_amass_x(path: Path) -> None:
    poses, trans = as_seen_from("z")
    wide = np.random.default_rng(0).normal(size=(COUNT, 165))
    wide[:, :66] = poses[:, :66]
    np.savez(path, poses=wide, trans=trans, mocap_frame_rate=120.0, surface_model_type="smplx")


def write_aist(path: Path) -> None:
    poses, trans = as_seen_from("y")
    content = {"smpl_poses": poses, "smpl_trans": 93.0 * trans, "smpl_scaling": np.array([93.0]), "smpl_loss": 0.1}
    path.write_bytes(pickle.dumps(content))


def write_cape(path: Path) -> None:
    poses, trans = as_seen_from("y")
    path.mkdir(parents=True)
    for i in range(COUNT):
        np.savez(path / f"soccer.{i + 1:06d}.npz", pose=poses[i], transl=trans[i], v_cano=np.zeros((4, 3)))


def write_plain(path: Path) -> None:
    poses, trans = as_seen_from("z")
    np.savez(path, root_orient=poses[:, :3], pose_body=poses[:, 3:66], trans=trans)


WRITERS = {
    "amass.npz": (write_amass, []),
    "amass_x.npz": (write_amass_x, []),
    "aist.pkl": (write_aist, []),
    "cape": (write_cape, []),
    "plain.npz": (write_plain, ["--up", "z"]),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_walk(tmp_path, name):
    """Fails when an axis, a unit, the joints kept, or the start differ between formats."""
    write, options = WRITERS[name]
    write(tmp_path / name)
    arrays = convert(tmp_path, tmp_path / name, "--align", "position", *options)
    poses, trans = walk()
    np.testing.assert_array_equal(arrays["poses"][:, 3:66], poses[:, 3:66].astype(np.float32))
    turned = Rotation.from_rotvec(arrays["poses"][:, :3]).inv() * Rotation.from_rotvec(poses[:, :3])
    assert turned.magnitude().max() < 1e-6
    np.testing.assert_allclose(arrays["trans"], trans - trans[0] + PUBLISHED_POSITION, atol=2e-6)
    if name not in ("aist.pkl", "cape"):
        assert not arrays["poses"][:, 66:].any()


def test_reader_gives_the_written_path(tmp_path):
    """Fails when the published camera rule moves the motion away from what the file says."""
    write_aist(tmp_path / "aist.pkl")
    arrays = convert(tmp_path, tmp_path / "aist.pkl")
    subject = embedded.load_root() / "peoplesnapshot" / embedded.SUBJECT
    for camera in ("published", "file"):
        frames = MotionFrames(root=tmp_path / "out", motion="walk", subject_root=subject, gender="male", camera=camera)
        assert len(frames) == COUNT
        np.testing.assert_allclose(frames[7].pose.transl, arrays["trans"][7], atol=1e-6)
        np.testing.assert_allclose(frames[7].camera.intrinsics, [[2000, 0, 540], [0, 2000, 540], [0, 0, 1]])


@pytest.mark.parametrize("azimuth", [0, 70, 180, -110])
def test_first_frame_faces_the_camera_and_stands_upright(tmp_path, azimuth):
    """Fails when the turn about the vertical has the wrong sign, or the body ends upside down."""
    turn = Rotation.from_euler("z", azimuth, degrees=True)
    poses, trans = as_seen_from("z")
    poses[:, :3] = (turn * Rotation.from_rotvec(poses[:, :3])).as_rotvec()
    np.savez(tmp_path / "a.npz", poses=poses, trans=turn.apply(trans), mocap_framerate=60)
    arrays = convert(tmp_path, tmp_path / "a.npz")
    first = Rotation.from_rotvec(arrays["poses"][0, :3])
    forward = first.apply([0, 0, 1])
    assert abs(forward[0]) < 1e-6
    assert forward[2] < -0.9
    pose = torch.from_numpy(arrays["poses"][:1])
    body = load_body(None, "male")
    surface = posed_body(body, torch.zeros(10), BodyPose(pose[:, :3], pose[:, 3:], torch.zeros(1, 3)))[0][0]
    joints = body.weights.argmax(1)
    assert surface[joints == 15, 1].mean() < surface[joints == 10, 1].mean() - 1.2


def test_frame_rates(tmp_path):
    """Fails when resampling drops the end, interpolates angles as vectors, or touches frames that need none."""
    write_amass(tmp_path / "amass.npz")
    full = convert(tmp_path, tmp_path / "amass.npz")
    third = convert(tmp_path, tmp_path / "amass.npz", "--fps", "40")
    np.testing.assert_allclose(third["poses"], full["poses"][::3], atol=1e-6)
    assert float(third["fps"]) == 40
    double = convert(tmp_path, tmp_path / "amass.npz", "--fps", "240")
    assert len(double["poses"]) == 2 * COUNT - 1
    np.testing.assert_array_equal(double["poses"][::2], full["poses"])
    for joint in range(22):
        a, m, b = (Rotation.from_rotvec(rows[:, 3 * joint : 3 * joint + 3]) for rows in
                   (full["poses"][:-1], double["poses"][1::2], full["poses"][1:]))  # fmt: skip
        half = (a.inv() * b).magnitude() / 2
        np.testing.assert_allclose((a.inv() * m).magnitude(), half, atol=2e-6)
        np.testing.assert_allclose((m.inv() * b).magnitude(), half, atol=2e-6)


def test_frames_relaxed_joints_and_units(tmp_path):
    """Fails when the range is not half-open, relaxed joints keep a rotation, or units are not scaled."""
    write_aist(tmp_path / "aist.pkl")
    full = convert(tmp_path, tmp_path / "aist.pkl")
    part = convert(tmp_path, tmp_path / "aist.pkl", "--frames", 4, 10, 2, "--relax", "feet", "--metres-per-unit", 2)
    assert len(part["poses"]) == 3
    assert float(part["fps"]) == 30
    feet = part["poses"].reshape(-1, 24, 3)[:, [7, 8, 10, 11]]
    assert not feet.any()
    a, b = (np.linalg.norm(p["trans"][i] - p["trans"][j]) for p, i, j in ((full, 4, 8), (part, 0, 2)))
    assert b == pytest.approx(2 * a, rel=1e-5)


def test_orbit_turns_about_the_last_frame(tmp_path):
    """Fails when the last views leave the body, or repeat the first."""
    write_cape(tmp_path / "cape")
    arrays = convert(tmp_path, tmp_path / "cape", "--orbit", 8)
    cameras = read_arrays(tmp_path / "out" / "walk" / "cameras.npz")
    assert len(arrays["poses"]) == len(cameras["extrinsic"]) == len(cameras["intrinsic"]) == COUNT + 8
    place = np.append(arrays["trans"][-1], 1)
    seen = cameras["extrinsic"][COUNT:] @ place
    np.testing.assert_allclose(seen, np.tile(place, (8, 1)), atol=1e-6)
    centres = np.linalg.inv(cameras["extrinsic"][COUNT:])[:, :3, 3]
    assert len(np.unique(centres.round(4), axis=0)) == 8


def test_published_script_converts_cape(tmp_path):
    """Fails when the published command line no longer works, or its end is taken as exclusive."""
    write_cape(tmp_path / "CAPE" / "00032" / "soccer")
    command = ["--data-dir", tmp_path / "CAPE", "--out-dir", tmp_path / "out", "--seq-name", "soccer", "--end", "9"]
    script = ROOT / "scripts" / "preprocess_CAPE.py"
    subprocess.run([sys.executable, script, *command, "--rotate"], check=True, cwd=tmp_path, capture_output=True)
    arrays = read_arrays(tmp_path / "out" / "male-3-casual" / "cape_00032_soccer" / "poses.npz")
    assert len(arrays["poses"]) == 10 + 50
    assert not arrays["poses"].reshape(-1, 24, 3)[:, [7, 8, 10, 11, 20, 21, 22, 23]].any()


def with_nan(values):
    values = values.copy()
    values[5, 0] = np.nan
    return values


POSES, TRANS = np.zeros((9, 72)), np.zeros((9, 3))
FAULTS = {
    "no up-axis": ({"poses": POSES, "trans": TRANS}, [], ["a.npz", "--up y"]),
    "no frame rate": ({"poses": POSES, "trans": TRANS}, ["--up", "y", "--fps", "30"], ["a.npz", "--source-fps"]),
    "no trans": ({"poses": POSES}, ["--up", "y"], ["a.npz", "arrays ['poses']", "trans or transl"]),
    "no poses": ({"trans": TRANS}, ["--up", "y"], ["a.npz", "poses or pose or thetas"]),
    "width": ({"poses": POSES[:, :70], "trans": TRANS}, ["--up", "y"], ["(9, 70)", "(N, 72) SMPL"]),
    "counts": ({"poses": POSES, "trans": TRANS[:4]}, ["--up", "y"], ["(4, 3)", "(9, 3)"]),
    "NaN": ({"poses": with_nan(POSES), "trans": TRANS}, ["--up", "y"], ["NaN or infinite poses in rows [5]"]),
    "range": ({"poses": POSES, "trans": TRANS}, ["--up", "y", "--frames", "0", "20"], ["9 poses (0-8)", "0-19"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(tmp_path, caplog, fault):
    """Fails when a fault gets through, or its message does not say what is wrong."""
    arrays, options, parts = FAULTS[fault]
    np.savez(tmp_path / "a.npz", **arrays)
    assert motion.main([str(tmp_path / "a.npz"), "--output", str(tmp_path / "out"), *options]) == 1
    assert all(part in caplog.text for part in parts), caplog.text
    assert not (tmp_path / "out").exists()


def test_missing_and_empty_sources_are_named(tmp_path, caplog):
    """Fails when the nearest folder's content is not shown."""
    (tmp_path / "empty").mkdir()
    assert motion.main([str(tmp_path / "b.npz"), "--output", str(tmp_path / "out")]) == 1
    assert "b.npz: found nothing there" in caplog.text
    assert motion.main([str(tmp_path / "empty"), "--output", str(tmp_path / "out")]) == 1
    assert "one .npz a frame" in caplog.text
