"""The PeopleSnapshot converter: raw folder to layout and back through the reader."""

import cv2
import h5py
import numpy as np
import pytest

from core.errors import InputError
from core.video import VideoWriter
from data import embedded
from data.peoplesnapshot import PeopleSnapshotFrames
from data.preprocess import peoplesnapshot
from tests.data.preprocess.raw_captures import (
    COUNT,
    DISTORTION,
    SUBJECT,
    change_camera,
    original_poses,
    psnr,
    write_peoplesnapshot,
)


@pytest.fixture(scope="module")
def converted(tmp_path_factory, original):
    """A converted subject: folder of subjects."""
    root = tmp_path_factory.mktemp("ps")
    write_peoplesnapshot(root / "raw", original)
    assert run(root) == 0
    return root / "load"


def run(root, *options) -> int:
    return peoplesnapshot.main(
        ["--root", str(root / "raw"), "--subject", SUBJECT, "--output", str(root / "load"), "--workers", "2", *options]
    )


def read(load, split="raw fits"):
    return PeopleSnapshotFrames(root=load, subject=SUBJECT, gender="male", split=split)


def error_of(root, capfd_or_caplog) -> str:
    assert run(root) == 1
    return capfd_or_caplog.text


def test_cameras_and_poses_come_back_exactly(converted, original):
    """Fails when intrinsics, the Rodrigues vector, rows of the fits or the gender are changed on the way."""
    frames, poses = read(converted), original_poses()
    assert len(frames) == COUNT
    np.testing.assert_array_equal(frames.betas, poses["betas"])
    for i, (frame, source) in enumerate(zip(frames, original)):
        np.testing.assert_array_equal(frame.camera.intrinsics, source.camera.intrinsics)
        np.testing.assert_array_equal(frame.camera.camera_from_world, source.camera.camera_from_world)
        np.testing.assert_array_equal(frame.pose.axis_angles.reshape(-1), poses["thetas"][i])
        np.testing.assert_array_equal(frame.pose.transl, poses["transl"][i])


def test_masks_are_exact_and_pictures_survive_the_video(converted, original):
    """Fails when frames are shifted, channels swapped, or other masks used (measured: 36.2 to 38.4 dB)."""
    for frame, source in zip(read(converted), original):
        np.testing.assert_array_equal(frame.mask, source.mask)
        assert psnr(frame.image.numpy(), source.image.numpy()) > 34


def test_lens_distortion_is_removed_as_the_reader_would(tmp_path, original):
    """Fails when pictures, masks or the principal point are undistorted differently from the reader's rule."""
    folder = write_peoplesnapshot(tmp_path / "raw", original)
    change_camera(folder, camera_k=DISTORTION)
    assert run(tmp_path) == 0
    undistorted = list(read(tmp_path / "load"))
    kept = ["--root", str(tmp_path / "raw"), "--subject", SUBJECT, "--output", str(tmp_path / "kept")]
    assert peoplesnapshot.main([*kept, "--keep-distortion"]) == 0
    for a, b in zip(undistorted, read(tmp_path / "kept")):
        assert (a.mask != b.mask).float().mean() < 1e-3
        assert (a.image - b.image).abs()[a.mask == b.mask].max() < 2 / 255
    assert (undistorted[0].mask != original[0].mask).any()


def test_turned_camera_is_a_rodrigues_vector(tmp_path, original):
    """Fails when camera_rt is taken for something else than axis-angle, world to camera."""
    folder = write_peoplesnapshot(tmp_path / "raw", original)
    change_camera(folder, camera_rt=np.array([0.1, -0.2, 0.3]), camera_t=np.array([1.0, 2, 3]))
    assert run(tmp_path) == 0
    extrinsic = read(tmp_path / "load")[0].camera.camera_from_world.numpy()
    np.testing.assert_allclose(extrinsic[:3, :3], cv2.Rodrigues(np.array([0.1, -0.2, 0.3]))[0], atol=1e-6)
    np.testing.assert_array_equal(extrinsic[:3, 3], [1, 2, 3])


def test_interrupted_conversion_goes_on(tmp_path, original, monkeypatch):
    """Fails when finished frames are written again, or an unfinished one or its leftovers are kept."""
    write_peoplesnapshot(tmp_path / "raw", original)
    write, written = peoplesnapshot.write_picture, []

    def stop_at_third(path, pixels):
        if path.stem == "image_0003" and not written.count("stopped"):
            written.append("stopped")
            raise KeyboardInterrupt
        written.append(path.stem)
        write(path, pixels)

    monkeypatch.setattr(peoplesnapshot, "write_picture", stop_at_third)
    assert run(tmp_path) == 130
    images = tmp_path / "load" / SUBJECT / "images"
    (images / ".image_0003-x7.png").write_bytes(b"half")
    assert not (tmp_path / "load" / SUBJECT / "cameras.npz").exists()
    assert run(tmp_path) == 0
    assert sorted(written) == sorted(["stopped", *(f"image_{i:04d}" for i in range(COUNT))])
    assert sorted(path.name for path in images.iterdir()) == [f"image_{i:04d}.png" for i in range(COUNT)]


def test_other_sources_do_not_continue_a_folder(tmp_path, original, caplog):
    """Fails when frames of two conversions are mixed in one folder."""
    folder = write_peoplesnapshot(tmp_path / "raw", original)
    assert run(tmp_path) == 0
    change_camera(folder, camera_c=np.array([60.0, 60.0]))
    assert "conversion.json" in error_of(tmp_path, caplog)


def test_refined_poses_are_copied(tmp_path, original):
    """Fails when the split's refined poses are not found by the reader."""
    write_peoplesnapshot(tmp_path / "raw", original)
    refined = tmp_path / "refined" / SUBJECT / "poses"
    refined.mkdir(parents=True)
    source = embedded.load_root() / "peoplesnapshot" / embedded.SUBJECT / "poses" / "anim_nerf_val.npz"
    arrays = dict(np.load(source))
    for name in ("global_orient", "body_pose", "transl"):
        arrays[name] = np.repeat(arrays[name], COUNT, 0)
    np.savez(refined / "anim_nerf_train.npz", **arrays)
    assert run(tmp_path, "--refined", str(tmp_path / "refined")) == 0
    np.testing.assert_array_equal(read(tmp_path / "load", "train")[0].pose.transl, arrays["transl"][0])


def remove(name):
    return lambda folder: (folder / name).unlink()


def cut(name, keep=0.5):
    def act(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(keep * len(content))])

    return act


def rewrite(name, dataset, change):
    def act(folder):
        with h5py.File(folder / name, "r+") as file:
            values = change(file[dataset][:])
            del file[dataset]
            file[dataset] = values

    return act


def smaller_video(folder):
    frames = list(PeopleSnapshotFrames(root=embedded.load_root() / "peoplesnapshot", subject=embedded.SUBJECT,
                                       gender="male", split="raw", size=(64, 64)))  # fmt: skip
    with VideoWriter(folder / f"{SUBJECT}.mp4") as video:
        for frame in frames[:COUNT]:
            video.append(frame.image)


def with_nan(values):
    values[2] = np.nan
    return values


FAULTS = {
    "no camera": (remove("camera.pkl"), ["camera.pkl", "nothing there"]),
    "no video": (remove(f"{SUBJECT}.mp4"), [f"{SUBJECT}.mp4", "nothing there"]),
    "no masks": (remove("masks.hdf5"), ["masks.hdf5", "nothing there"]),
    "no fits": (remove("reconstructed_poses.hdf5"), ["reconstructed_poses.hdf5", "nothing there"]),
    "truncated video": (cut(f"{SUBJECT}.mp4"), [f"{SUBJECT}.mp4", "a whole video"]),
    "truncated masks": (cut("masks.hdf5"), ["masks.hdf5", "a whole HDF5 file"]),
    "truncated camera": (cut("camera.pkl"), ["camera.pkl", "cannot be read"]),
    "camera without focal length": (lambda f: change_camera(f, camera_f=None), ["camera.pkl", "no camera_f among"]),
    "NaN centre": (lambda f: change_camera(f, camera_c=np.array([np.nan, 1])), ["camera.pkl", "camera_c"]),
    "NaN pose": (rewrite("reconstructed_poses.hdf5", "pose", with_nan), ["reconstructed_poses.hdf5", "rows [2]"]),
    "wrong pose shape": (rewrite("reconstructed_poses.hdf5", "pose", lambda v: v[:, :69]), ["pose (7, 69)", "(7, 72)"]),
    "too few masks": (rewrite("masks.hdf5", "masks", lambda v: v[:3]), ["6 frames in the video, 3 masks, 7 poses"]),
    "masks of another size": (rewrite("masks.hdf5", "masks", lambda v: v[:, ::2]), ["masks (6, 64, 128)"]),
    "video of another size": (smaller_video, ["64 x 64 pixels", "128 x 128", "camera.pkl"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named_before_anything_is_written(tmp_path, original, caplog, fault):
    """Fails when a fault gets through, or its message does not name the file and what is wrong."""
    damage, parts = FAULTS[fault]
    damage(write_peoplesnapshot(tmp_path / "raw", original))
    text = error_of(tmp_path, caplog)
    assert all(part in text for part in parts), text
    assert not (tmp_path / "load").exists()


def test_code_in_a_pickle_is_not_executed(tmp_path, original, caplog):
    """Fails when camera.pkl is unpickled the ordinary way."""
    folder = write_peoplesnapshot(tmp_path / "raw", original)
    (folder / "camera.pkl").write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR.")
    assert "os.system" in error_of(tmp_path, caplog)
    assert not (tmp_path / "owned").exists()


def test_empty_masks_are_named(tmp_path, original, caplog):
    """Fails when a frame that no reader accepts passes silently."""
    folder = write_peoplesnapshot(tmp_path / "raw", original)

    def clear(values):
        values[4] = 0
        return values

    rewrite("masks.hdf5", "masks", clear)(folder)
    assert run(tmp_path) == 0
    assert "mask_0004" in caplog.text


def test_gender_must_be_known():
    """Fails when a subject's gender is guessed."""
    assert peoplesnapshot.gender_of("female-3-casual", None) == "female"
    with pytest.raises(InputError, match="--gender"):
        peoplesnapshot.gender_of("alice", None)
