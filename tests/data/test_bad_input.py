"""Every way in which a dataset can be wrong gives one clear message: what was found, where, and what to do."""

import json
import shutil

import numpy as np
import pytest

from core.errors import InputError
from core.images import read_hdr
from data.animation import MotionFrames
from data.frame_range import ALL_FRAMES, FrameRange
from data.hdr import bundled_hdris, find_hdri
from data.peoplesnapshot import PeopleSnapshotFrames
from data.rana import RanaFrames


def rana(layouts, **options):
    frames = RanaFrames(root=layouts.root / "rana", subject="subject_01", gender="male", **options)
    return list(frames)


def snapshot(layouts, frames=ALL_FRAMES, **options):
    root = layouts.root / "peoplesnapshot"
    return list(PeopleSnapshotFrames(root=root, subject="male-1-casual", gender="male", frames=frames, **options))


def resave(path, **changes):
    """Rewrite an .npz file with some arrays replaced, or left out (None)."""
    arrays = dict(np.load(path)) | changes
    np.savez(path, **{name: values for name, values in arrays.items() if values is not None})


def no_subject(folder):
    shutil.rmtree(folder)


def no_images(folder):
    for path in (folder / "images").iterdir():
        path.unlink()


def no_masks(folder):
    shutil.rmtree(folder / "masks")


def too_few_masks(folder):
    (folder / "masks/mask_0002.npy").unlink()
    (folder / "masks/mask_0005.npy").unlink()


def empty_mask(folder):
    np.save(folder / "masks/mask_0003.npy", np.zeros((20, 24), np.uint8))


def truncated_mask(folder):
    path = folder / "masks/mask_0001.npy"
    path.write_bytes(path.read_bytes()[:150])


def mask_with_negative_values(folder):
    np.save(folder / "masks/mask_0001.npy", -np.ones((20, 24), np.int8))


def truncated_image(folder):
    path = folder / "images/image_0004.png"
    path.write_bytes(path.read_bytes()[:300])


def no_cameras(folder):
    (folder / "cameras.json").unlink()


def broken_cameras(folder):
    (folder / "cameras.json").write_text("{")


def camera_of_another_size(folder):
    path = folder / "cameras.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"width": 48, "height": 40}))


def camera_that_scales(folder):
    path = folder / "cameras.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extrinsic": np.diag([2.0, 2, 2, 1]).tolist()}))


def camera_without_extrinsic(folder):
    path = folder / "cameras.json"
    camera = json.loads(path.read_text())
    del camera["extrinsic"]
    path.write_text(json.dumps(camera))


def cameras_of_other_frames(folder):
    path = folder / "cameras.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"extrinsic": [np.eye(4).tolist()] * 5}))


def no_poses(folder):
    (folder / "poses.npz").unlink()


def too_few_poses(folder):
    arrays = dict(np.load(folder / "poses.npz"))
    resave(folder / "poses.npz", **{name: arrays[name][:4] for name in ("global_orient", "body_pose", "transl")})


def uneven_poses(folder):
    resave(folder / "poses.npz", transl=np.zeros((5, 3)))


def nan_poses(folder):
    body_pose = np.zeros((6, 69))
    body_pose[[2, 4], 5] = np.nan
    resave(folder / "poses.npz", body_pose=body_pose)


def poses_of_another_body_model(folder):
    resave(folder / "poses.npz", body_pose=np.zeros((6, 63)))


def poses_without_translation(folder):
    resave(folder / "poses.npz", transl=None)


def poses_without_betas(folder):
    resave(folder / "poses.npz", betas=None)


def nan_betas(folder):
    resave(folder / "poses.npz", betas=np.full((1, 10), np.nan))


def poses_of_another_gender(folder):
    resave(folder / "poses.npz", gender="female")


def pickled_poses(folder):
    resave(folder / "poses.npz", transl=np.array([{"a": 1}], dtype=object))


def missing_albedo(folder):
    (folder / "albedos/albedo_0003.png").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (no_subject, "no such folder .*train_p1 holds nothing.*DATASET.md"),
        (no_images, r"images: found 0 files \*\.png"),
        (no_masks, "masks: found no such folder"),
        (too_few_masks, r"no file for frames 2, 5 \(2 of 6\)"),
        (empty_mask, "mask_0003.npy: found a mask without foreground"),
        (truncated_mask, "mask_0001.npy: found an unreadable file"),
        (mask_with_negative_values, "mask_0001.npy: found int8"),
        (truncated_image, "image_0004.png: found a truncated"),
        (no_cameras, "cameras.json: found nothing there"),
        (broken_cameras, "cameras.json: .*expected a JSON file"),
        (camera_of_another_size, "image_0000.png: found 24 x 20 pixels, expected 48 x 40, the size in .*cameras.json"),
        (camera_that_scales, "not a rotation"),
        (camera_without_extrinsic, "no extrinsic among"),
        (cameras_of_other_frames, r"5 extrinsic matrices, expected 1 or 6"),
        (no_poses, r"poses.npz: found nothing there \(.* holds albedos, cameras.json"),
        (too_few_poses, r"4 poses \(0-3\), expected 6, one for each frame \(0-5\)"),
        (uneven_poses, "6 poses and 5 translations"),
        (nan_poses, r"NaN or infinite body_pose in rows \[2, 4\]"),
        (poses_of_another_body_model, r"body_pose of shape \(6, 63\)"),
        (poses_without_translation, r"expected transl or trans \(N, 3\)"),
        (poses_without_betas, "no betas"),
        (nan_betas, "ten finite numbers"),
        (poses_of_another_gender, "found gender female, expected gender male"),
        (pickled_poses, "unreadable file"),
        (missing_albedo, r"albedos: found no file for frames 3"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_broken_capture(layouts, damage, message):
    """Catches a silent substitution, or an error from deep inside that names neither the file nor the way out."""
    damage(layouts.rana())
    with pytest.raises(InputError, match=message):
        rana(layouts)


def test_range_beyond_the_images(layouts):
    """Catches slices that shorten in silence."""
    layouts.rana()
    with pytest.raises(InputError, match=r"6 images \(0-5\), expected frames 0-99"):
        rana(layouts, frames=FrameRange.inclusive(0, 99))


def test_pose_count_of_a_split(layouts):
    """Catches the published silent switch to the poses of the training split."""
    layouts.peoplesnapshot()
    with pytest.raises(InputError, match=r"anim_nerf_test.npz: found 2 poses \(0-1\), expected 3.*images 3-5"):
        snapshot(layouts, FrameRange(3, 6), split="test")


def test_missing_pose_files_of_a_split(layouts):
    """Catches the published attempt to open a file named None."""
    folder = layouts.peoplesnapshot()
    shutil.rmtree(folder / "poses")
    (folder / "poses.npz").unlink()
    with pytest.raises(InputError, match="poses.npz: found nothing there"):
        snapshot(layouts)


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        (["a.hdr"] * 4, "4 names, expected a list of 6 names"),
        (["a.hdr"] * 5 + ["c.hdr"], "c.hdr: found no such map"),
        ({"a": 1}, "dict"),
    ],
)
def test_light_lists(layouts, listing, message):
    """Catches an index error at the first frame without a map."""
    folder = layouts.rana("test")
    (folder / "hdri_files.json").write_text(json.dumps(listing))
    with pytest.raises(InputError, match=message):
        rana(layouts, split="test")


def test_missing_map_lists_the_bundled_ones(tmp_path):
    """Catches a path tried in silence: the folders tried and the bundled maps are named."""
    bundled = bundled_hdris()
    assert len(bundled) >= 4
    with pytest.raises(InputError, match=f"looked in .*{tmp_path}.*{next(iter(bundled))}"):
        find_hdri("cambridge_2k.hdr", [tmp_path])


def test_bundled_maps_are_usable():
    """Catches a bundled map that its own reader refuses."""
    for path in bundled_hdris().values():
        assert read_hdr(path).mean() > 0


def motion(layouts, **options):
    subject_root = layouts.root / "peoplesnapshot/male-1-casual"
    root = layouts.root / "animation"
    return list(MotionFrames(root=root, motion="walk", subject_root=subject_root, gender="male", **options))


def test_motion_that_is_too_short(layouts):
    """Catches an index error deep in the dataset."""
    layouts.motion()
    layouts.peoplesnapshot()
    with pytest.raises(InputError, match=r"6 poses \(0-5\), expected frames 0-319"):
        motion(layouts, frames=FrameRange(0, 320))


@pytest.mark.parametrize("name", ["poses.npz", "cameras.npz"])
def test_motion_without_files(layouts, name):
    """Catches a motion folder that misses a file."""
    folder = layouts.motion()
    layouts.peoplesnapshot()
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"{name}: found nothing there"):
        motion(layouts)


def test_motion_of_an_unknown_subject(layouts):
    """Catches betas of zero used in silence when the subject is not there."""
    layouts.motion()
    with pytest.raises(InputError, match="Give the subject's folder"):
        motion(layouts)


def test_motion_worn_by_a_subject_of_another_gender(layouts):
    """Catches a body of the wrong gender with this subject's betas."""
    layouts.motion()
    folder = layouts.peoplesnapshot()
    resave(folder / "poses/anim_nerf_train.npz", gender="female")
    with pytest.raises(InputError, match="gender female"):
        motion(layouts)
