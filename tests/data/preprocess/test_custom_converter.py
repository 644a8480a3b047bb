"""The converter of one's own captures: frames, masks and each estimator's file, and back through the reader."""

import pickle
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from body_models import load_body
from body_models.skinning import posed_body, rest_joints
from core.video import VideoWriter
from data.peoplesnapshot import PeopleSnapshotFrames
from data.preprocess import custom
from data.preprocess.estimates import PHALP_FOCAL, ROMP_FOCAL
from tests.data.preprocess.joblib_writer import joblib_bytes
from tests.data.preprocess.raw_captures import COUNT, DISTORTION, original_poses, psnr

SIZE, FOCAL = 128, 198.4
PELVIS = rest_joints(load_body(None, "neutral"), torch.zeros(10))[0].numpy()


def seen_through(focal: float) -> np.ndarray:
    """Translations that an estimator with another focal length would give: as large and as far aside in the image."""
    transl = original_poses()["transl"].astype(np.float64)
    return np.concatenate([transl[:, :2], transl[:, 2:] * focal / FOCAL], 1)


def write_phalp(path: Path, frames=range(COUNT), damage=None) -> None:
    """4D-Humans: compressed joblib; frames in any order, a second person, and one that the tracker carries along."""
    poses, transl = original_poses(), seen_through(PHALP_FOCAL * SIZE)
    content = {}
    for i in reversed(list(frames)):
        turns = Rotation.from_rotvec(poses["thetas"][i].reshape(24, 3)).as_matrix()
        body = {"global_orient": turns[:1], "body_pose": turns[1:], "betas": poses["betas"]}
        other = {"global_orient": np.eye(3)[None], "body_pose": np.tile(np.eye(3), (23, 1, 1)), "betas": np.ones(10)}
        content[f"out/img/{i + 1:06d}.jpg"] = {
            "time": i, "smpl": [other, body, body], "tid": [3, 1, 1], "tracked_time": [0, 0, 2] if i else [1, 0, 2],
            "camera": [np.array([0, 0, 9.0]), transl[i], transl[i] + 1], "size": [[SIZE, SIZE]] * 3,
        }  # fmt: skip
    if damage is not None:
        damage(content)
    path.write_bytes(joblib_bytes(content, compress=True))


def write_wham(path: Path) -> None:
    """WHAM: joblib of a default dictionary of people."""
    poses = original_poses()
    content = defaultdict(dict)
    content[0] = {
        "pose": poses["thetas"], "trans": seen_through(np.hypot(SIZE, SIZE)),
        "betas": np.tile(poses["betas"], (COUNT, 1)), "verts": np.zeros((COUNT, 7, 3), np.float32),
        "frame_ids": np.arange(COUNT),
    }  # fmt: skip
    path.write_bytes(joblib_bytes(content))


def write_gvhmr(path: Path) -> None:
    """GVHMR: tensors of SMPL-X fits with the intrinsics in use."""
    poses = original_poses()
    transl = poses["transl"] + PELVIS - np.array(custom.SMPLX_PELVIS)
    rows = {"global_orient": poses["thetas"][:, :3], "body_pose": poses["thetas"][:, 3:66], "transl": transl,
            "betas": np.tile(poses["betas"], (COUNT, 1))}  # fmt: skip
    k = np.array([[FOCAL, 0, 64], [0, FOCAL, 64], [0, 0, 1]])
    content = {
        "smpl_params_incam": {name: torch.from_numpy(value) for name, value in rows.items()},
        "K_fullimg": torch.from_numpy(np.tile(k, (COUNT, 1, 1))),
    }
    torch.save(content, path)


def romp_frame(i: int) -> dict:
    """One person of one frame."""
    poses = original_poses()
    return {
        "smpl_thetas": poses["thetas"][i : i + 1], "smpl_betas": poses["betas"][None],
        "cam_trans": seen_through(ROMP_FOCAL * SIZE)[i : i + 1], "verts": np.zeros((1, 7, 3), np.float32),
    }  # fmt: skip


def write_romp_video(path: Path) -> None:
    """ROMP on a video: frames by file name, counted from 1."""
    np.savez(path, results={f"frames/{i + 1:08d}.jpg": romp_frame(i) for i in range(COUNT)}, sequence_results={})


def write_romp_folder(path: Path) -> None:
    """ROMP on images: one file each."""
    path.mkdir()
    for i in range(COUNT):
        np.savez(path / f"{i:06d}.npz", results=romp_frame(i))


def write_arrays(path: Path) -> None:
    """Plain arrays in camera axes."""
    poses = original_poses()
    np.savez(path, global_orient=poses["thetas"][:, :3], body_pose=poses["thetas"][:, 3:], transl=poses["transl"],
             betas=poses["betas"])  # fmt: skip


WRITERS = {
    "phalp.pkl": write_phalp,
    "wham.pkl": write_wham,
    "gvhmr.pt": write_gvhmr,
    "romp.npz": write_romp_video,
    "romp": write_romp_folder,
    "arrays.npz": write_arrays,
}


@pytest.fixture
def capture(tmp_path, original):
    """Frames and masks as pictures: ``images/``, ``masks/``."""
    for i, frame in enumerate(original):
        for folder, pixels in (("images", frame.image.numpy()[..., ::-1]), ("masks", frame.mask.numpy())):
            (tmp_path / folder).mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / folder / f"{i:06d}.png"), np.round(pixels * 255).astype(np.uint8))
    return tmp_path


def run(root: Path, smpl: str, *options, images="images", masks=("--masks", "masks")) -> int:
    inputs = ["--images", str(root / images), *(str(root / m) if i else m for i, m in enumerate(masks))]
    return custom.main(
        [*inputs, "--smpl", str(root / smpl), "--output", str(root / "load" / "alice"), "--workers", "2",
         "--body-model", "embedded", *map(str, options)]
    )  # fmt: skip


def read(root: Path) -> list:
    return list(PeopleSnapshotFrames(root=root / "load", subject="alice", gender="neutral", split="raw fits"))


def check_poses(frame, i, joints=24, atol=2e-6):
    poses = original_poses()
    turned = Rotation.from_rotvec(frame.pose.axis_angles.reshape(-1, 3)[:joints]).inv() * Rotation.from_rotvec(
        poses["thetas"][i].reshape(-1, 3)[:joints]
    )
    assert turned.magnitude().max() < atol
    np.testing.assert_allclose(frame.pose.transl, poses["transl"][i], atol=2e-6)


@pytest.mark.parametrize("name", WRITERS)
def test_every_estimator_gives_the_same_dataset(capture, original, name):
    """Fails when a format's axes, rows, track, focal length or origin are misread."""
    WRITERS[name](capture / name)
    assert run(capture, name, "--focal", FOCAL) == 0
    frames = read(capture)
    assert len(frames) == COUNT
    for i, (frame, source) in enumerate(zip(frames, original)):
        np.testing.assert_array_equal(frame.image, source.image)
        np.testing.assert_array_equal(frame.mask, source.mask)
        np.testing.assert_allclose(frame.camera.intrinsics, source.camera.intrinsics, atol=1e-5)
        check_poses(frame, i, 22 if name == "gvhmr.pt" else 24)
        assert name != "gvhmr.pt" or not frame.pose.axis_angles.reshape(-1, 3)[22:].any()
    np.testing.assert_allclose(np.load(capture / "load/alice/poses.npz")["betas"], original_poses()["betas"], atol=1e-6)


@pytest.mark.parametrize("name", ["arrays.npz", "wham.pkl"])
def test_axis_angles_are_kept_exactly(capture, name):
    """Fails when poses that need no conversion are converted."""
    WRITERS[name](capture / name)
    assert run(capture, name, "--focal", FOCAL) == 0
    np.testing.assert_array_equal(np.load(capture / "load/alice/poses.npz")["thetas"], original_poses()["thetas"])


@pytest.mark.parametrize(
    ("name", "focal"), [("phalp.pkl", PHALP_FOCAL * SIZE), ("wham.pkl", np.hypot(SIZE, SIZE)), ("romp.npz", 110.85)]
)
def test_estimators_focal_length_is_the_default(capture, original, name, focal):
    """Fails when the estimator's own camera is not written, or the body covers other pixels than in the original."""
    WRITERS[name](capture / name)
    assert run(capture, name) == 0
    body = load_body(None, "neutral")
    for frame, source in zip(read(capture), original):
        assert float(frame.camera.intrinsics[0, 0]) == pytest.approx(focal, rel=1e-4)
        centres = [one.camera.project(posed_body(body, torch.zeros(10), one.pose)[0])[0] for one in (frame, source)]
        assert (centres[0] - centres[1]).norm(dim=-1).mean() < 4  # the perspective differs, the place does not


def test_refocusing_keeps_size_and_place():
    """Fails when a moved principal point or unequal focal lengths are ignored."""
    assumed = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])
    actual = np.array([[900.0, 0, 300], [0, 910, 250], [0, 0, 1]])
    transl = np.array([[0.3, -0.2, 4.0], [0, 0, 2]])
    moved = custom.refocus(transl, assumed, actual)
    a, b = ((k @ t.T).T for k, t in ((assumed, transl), (actual, moved)))
    np.testing.assert_allclose(a[:, :2] / a[:, 2:], b[:, :2] / b[:, 2:], atol=1e-9)
    np.testing.assert_allclose(actual[0, 0] / moved[:, 2], assumed[0, 0] / transl[:, 2])


def test_videos_of_frames_and_masks(capture, original):
    """Fails when frames and masks of videos are shifted against each other or against the poses."""
    write_romp_video(capture / "romp.npz")
    for name, pick in (("images.mp4", lambda f: f.image), ("masks.mp4", lambda f: f.mask[..., None].expand(-1, -1, 3))):
        with VideoWriter(capture / name) as video:
            for frame in original:
                video.append(pick(frame))
    assert run(capture, "romp.npz", "--focal", FOCAL, images="images.mp4", masks=("--masks", "masks.mp4")) == 0
    for i, (frame, source) in enumerate(zip(read(capture), original)):
        assert psnr(frame.image.numpy(), source.image.numpy()) > 25  # edges of the mask count
        assert (frame.mask != source.mask).float().mean() < 0.004
        check_poses(frame, i)


def test_chosen_frames_of_a_video(capture, original):
    """Fails when a step or a start shifts pictures, masks or poses."""
    write_phalp(capture / "phalp.pkl")
    with VideoWriter(capture / "images.mp4") as video:
        for frame in original:
            video.append(frame.image)
    assert run(capture, "phalp.pkl", "--focal", FOCAL, "--frames", 1, 5, 3, images="images.mp4") == 0
    frames = read(capture)
    assert len(frames) == 2
    assert np.load(capture / "load/alice/poses.npz")["source_frames"].tolist() == [1, 4]
    for frame, i in zip(frames, (1, 4)):
        np.testing.assert_array_equal(frame.mask, original[i].mask)
        check_poses(frame, i)


def test_alpha_is_the_mask(capture, original):
    """Fails when pictures with alpha need masks, or colours and alpha are exchanged."""
    write_arrays(capture / "arrays.npz")
    (capture / "rgba").mkdir()
    for i, frame in enumerate(original):
        pixels = torch.cat([frame.image.flip(-1), frame.mask[..., None]], -1).numpy()
        cv2.imwrite(str(capture / "rgba" / f"{i}.png"), np.round(pixels * 255).astype(np.uint8))
    assert run(capture, "arrays.npz", "--focal", FOCAL, images="rgba", masks=()) == 0
    for frame, source in zip(read(capture), original):
        np.testing.assert_array_equal(frame.image, source.image)
        np.testing.assert_array_equal(frame.mask, source.mask)


def test_field_of_view_and_camera_file(capture):
    """Fails when the field of view is taken as vertical or in radians, or the file's lens or extrinsics are ignored."""
    write_arrays(capture / "arrays.npz")
    fov = np.degrees(2 * np.arctan(SIZE / 2 / FOCAL))
    assert run(capture, "arrays.npz", "--fov", fov) == 0
    assert float(read(capture)[0].camera.intrinsics[0, 0]) == pytest.approx(FOCAL, rel=1e-5)
    (capture / "load").rename(capture / "first")
    extrinsic = np.eye(4)
    extrinsic[:3, 3] = (0.1, 0.2, 0.3)
    k = np.array([[FOCAL, 0, 60], [0, FOCAL, 70], [0, 0, 1]])
    np.savez(capture / "cameras.npz", intrinsic=k, extrinsic=extrinsic, height=SIZE, width=SIZE, distortion=DISTORTION)
    assert run(capture, "arrays.npz", "--camera", capture / "cameras.npz") == 0
    frame = read(capture)[0]
    np.testing.assert_allclose(frame.camera.camera_from_world, extrinsic, atol=1e-6)
    matrix = k.copy()
    matrix[:2, 2] -= 0.5
    expected = cv2.undistort(cv2.imread(str(capture / "images/000000.png")), matrix, DISTORTION)
    np.testing.assert_array_equal(cv2.imread(str(capture / "load/alice/images/image_0000.png")), expected)


def test_frames_without_poses(capture):
    """Fails when gaps are not noticed, dropped rows shift the rest, or interpolated rows are not between."""
    write_phalp(capture / "phalp.pkl", frames=(0, 1, 3, 5))
    assert run(capture, "phalp.pkl", "--focal", FOCAL, "--missing", "drop") == 0
    for frame, i in zip(read(capture), (0, 1, 3, 5), strict=True):
        check_poses(frame, i)
    (capture / "load").rename(capture / "dropped")
    assert run(capture, "phalp.pkl", "--focal", FOCAL, "--missing", "interpolate") == 0
    frames = read(capture)
    assert len(frames) == COUNT
    check_poses(frames[3], 3)
    ends = [Rotation.from_rotvec(frames[i].pose.global_orient) for i in (1, 2, 3)]
    assert (ends[0].inv() * ends[1]).magnitude() == pytest.approx((ends[1].inv() * ends[2]).magnitude(), abs=1e-5)


def test_another_track_can_be_chosen(capture, caplog):
    """Fails when people are mixed, or the choice between them is silent."""
    write_phalp(capture / "phalp.pkl")
    assert run(capture, "phalp.pkl", "--track", 3, "--frames", 1, 6) == 0
    assert not read(capture)[0].pose.axis_angles.any()
    (capture / "load").rename(capture / "other")
    assert run(capture, "phalp.pkl") == 0
    assert "--track" in caplog.text


def test_conversion_goes_on(capture):
    """Fails when finished frames are written again or a missing one is not."""
    write_arrays(capture / "arrays.npz")
    assert run(capture, "arrays.npz", "--focal", FOCAL) == 0
    images = capture / "load" / "alice" / "images"
    (images / "image_0002.png").unlink()
    before = (images / "image_0001.png").stat().st_mtime_ns
    assert run(capture, "arrays.npz", "--focal", FOCAL) == 0
    assert (images / "image_0002.png").is_file()
    assert (images / "image_0001.png").stat().st_mtime_ns == before


class Touch:
    """A pickle that opens a file for writing."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def with_nan(root):
    write_phalp(root / "phalp.pkl", damage=lambda c: c["out/img/000003.jpg"]["camera"][1].__setitem__(0, np.nan))
    return "phalp.pkl"


def behind(root):
    write_phalp(root / "phalp.pkl", damage=lambda c: c["out/img/000003.jpg"]["camera"][1].__setitem__(2, -3))
    return "phalp.pkl"


def gaps(root):
    write_phalp(root / "phalp.pkl", frames=(0, 1, 5))
    return "phalp.pkl"


def code(root):
    (root / "bomb.pkl").write_bytes(pickle.dumps({"a": Touch(root / "owned")}))
    return "bomb.pkl"


def torch_code(root):
    torch.save({"smpl_params_incam": Touch(root / "owned")}, root / "bomb.pt")
    return "bomb.pt"


def few_poses(root):
    poses = original_poses()
    np.savez(root / "few.npz", poses=poses["thetas"][:4], transl=poses["transl"][:4], betas=poses["betas"])
    return "few.npz"


def few_masks(root):
    write_arrays(root / "arrays.npz")
    (root / "masks" / "000002.png").unlink()
    return "arrays.npz"


def cut_image(root):
    write_arrays(root / "arrays.npz")
    path = root / "images" / "000004.png"
    path.write_bytes(path.read_bytes()[:-30])
    return "arrays.npz"


def small_mask(root):
    write_arrays(root / "arrays.npz")
    cv2.imwrite(str(root / "masks" / "000004.png"), np.zeros((9, 9), np.uint8))
    return "arrays.npz"


def unknown(root):
    np.savez(root / "what.npz", verts=np.zeros(3))
    return "what.npz"


def incomplete(root):
    write_phalp(root / "phalp.pkl", damage=lambda c: c["out/img/000003.jpg"].pop("camera"))
    return "phalp.pkl"


FAULTS = {
    "NaN": (with_nan, ["phalp.pkl", "000003.jpg", "NaN or infinite camera"]),
    "behind the camera": (behind, ["phalp.pkl", "behind the camera in rows 2"]),
    "gaps": (gaps, ["phalp.pkl", "no pose for frames 2, 3, 4 (3 of 6)", "--missing interpolate"]),
    "code in a pickle": (code, ["bomb.pkl", "open"]),
    "code in a .pt": (torch_code, ["bomb.pt", "torch cannot load safely"]),
    "too few poses": (few_poses, ["few.npz", "4 poses", "6 images"]),
    "too few masks": (few_masks, ["masks", "no frames 2 (1 of 6; it has 5)"]),
    "truncated image": (cut_image, ["000004.png", "truncated"]),
    "mask of another size": (small_mask, ["mask of", "9 x 9", "128 x 128"]),
    "no such file": (lambda _root: "none.pkl", ["none.pkl", "nothing there"]),
    "unknown content": (unknown, ["what.npz", "verts", "4D-Humans, GVHMR, WHAM or ROMP"]),
    "incomplete content": (incomplete, ["phalp.pkl", "camera"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(capture, caplog, fault):
    """Fails when a fault gets through, or its message does not name the file and what is wrong."""
    prepare, parts = FAULTS[fault]
    assert run(capture, prepare(capture), "--focal", FOCAL) == 1
    assert all(part in caplog.text for part in parts), caplog.text
    assert not (capture / "owned").exists()
    assert not (capture / "load/alice/poses.npz").exists()


def test_plain_arrays_need_a_camera(capture, caplog):
    """Fails when a focal length is made up."""
    write_arrays(capture / "arrays.npz")
    assert run(capture, "arrays.npz") == 1
    assert "--camera, --focal or --fov" in caplog.text
