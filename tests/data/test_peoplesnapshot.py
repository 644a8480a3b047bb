"""The PeopleSnapshot reader: splits and their pose files."""

import cv2
import numpy as np
import pytest

from data.frame_range import FrameRange
from data.peoplesnapshot import PeopleSnapshotFrames


def read(layouts, **options):
    return PeopleSnapshotFrames(root=layouts.root / "peoplesnapshot", subject="male-1-casual", gender="male", **options)


def check(layouts, frames, numbers):
    assert len(frames) == len(numbers)
    for number, frame in zip(numbers, frames):
        np.testing.assert_array_equal(frame.mask.numpy(), layouts.masks[number])
        np.testing.assert_array_equal(frame.pose.axis_angles.reshape(-1).numpy(), layouts.poses[number])
        np.testing.assert_array_equal(frame.pose.transl.numpy(), layouts.transl[number])


def test_split_files_hold_the_selected_frames(layouts):
    """Catches a second subsampling of pose files that already are subsampled, and splits exchanged."""
    layouts.peoplesnapshot()
    check(layouts, read(layouts, split="train", frames=FrameRange.inclusive(0, 3, 2)), [0, 2])
    check(layouts, read(layouts, split="test", frames=FrameRange(4, 6)), [4, 5])


def test_published_test_split_is_the_training_frames(layouts):
    """Catches the loss of the published protocol: the train split by name gives the frames of the published test."""
    layouts.peoplesnapshot()
    held_out = read(layouts, split="test", frames=FrameRange(4, 6))
    published = read(layouts, split="train", frames=FrameRange(0, 4, 2))
    assert not np.array_equal(held_out[0].image, published[0].image)
    check(layouts, published, [0, 2])


def test_raw_fits_are_sliced_where_no_split_file_exists(layouts):
    """Catches a missing fallback: poses.npz has a row for every image."""
    folder = layouts.peoplesnapshot()
    (folder / "poses/anim_nerf_test.npz").unlink()
    check(layouts, read(layouts, split="test", frames=FrameRange(3, 6, 2)), [3, 5])


def test_plain_split_file_is_second_choice(layouts):
    """Catches poses/<split>.npz ignored or preferred to the refined file."""
    folder = layouts.peoplesnapshot()
    np.savez(folder / "poses/train.npz", **layouts.pose_arrays([4, 5]))
    check(layouts, read(layouts, split="train", frames=FrameRange(0, 4, 2)), [0, 2])
    (folder / "poses/anim_nerf_train.npz").unlink()
    frames = read(layouts, split="train", frames=FrameRange(0, 4, 2))
    np.testing.assert_array_equal(frames[0].pose.transl.numpy(), layouts.transl[4])


def test_frames_without_ground_truth_have_none(layouts):
    """Catches zero maps that metrics would compare with."""
    layouts.peoplesnapshot()
    frame = read(layouts, frames=FrameRange(0, 4, 2))[0]
    assert frame.albedo is frame.normal is frame.roughness is frame.valid is frame.hdri is None


@pytest.mark.parametrize("suffix", [".png", ".npy"])
def test_masks_may_be_pictures(layouts, suffix):
    """Catches custom captures whose masks are PNG files."""
    folder = layouts.peoplesnapshot()
    if suffix == ".png":
        for path in (folder / "masks").iterdir():
            cv2.imwrite(str(path.with_suffix(".png")), np.load(path) * 255)
            path.unlink()
    check(layouts, read(layouts, frames=FrameRange(0, 4, 2)), [0, 2])


def test_excluded_frames_keep_the_others_on_their_poses(layouts):
    """Fails when a frame that is left out shifts the poses of a split file, which still holds its row."""
    folder = layouts.peoplesnapshot()
    np.savez(folder / "poses/anim_nerf_train.npz", **layouts.pose_arrays(slice(0, 6, 2)))
    check(layouts, read(layouts, split="train", frames=FrameRange(0, 6, 2).without([2])), [0, 4])
    check(layouts, read(layouts, split="raw", frames=FrameRange(1, 6).without([2, 4])), [1, 3, 5])
