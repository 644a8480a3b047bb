"""Motions: the published camera and root rule, and files taken as they are."""

import numpy as np
import pytest
import torch

from core.errors import InputError
from data.animation import MotionFrames
from data.frame_range import FrameRange


def read(layouts, **options):
    arguments = {"root": layouts.root / "animation", "motion": "walk", "gender": "male"}
    return MotionFrames(**arguments, subject_root=layouts.root / "peoplesnapshot/male-1-casual", **options)


@pytest.mark.parametrize(
    ("options", "size", "focal"),
    [({}, 1080, 2000.0), ({"downscale": 2}, 540, 1000.0), ({"size": (216, 216)}, 216, 400.0)],
)
def test_published_camera(layouts, options, size, focal):
    """Catches stored intrinsics used, and a principal point that is not the image's centre."""
    layouts.motion()
    layouts.peoplesnapshot()
    camera = read(layouts, **options)[2].camera
    assert (camera.width, camera.height) == (size, size)
    expected = [[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]]
    torch.testing.assert_close(camera.intrinsics, torch.tensor(expected))
    torch.testing.assert_close(camera.camera_from_world[:3, 3], torch.tensor([0.1, 0.2, 0.3]))


def test_principal_point_of_wide_images(layouts):
    """Catches the published exchange of height and width, which square images hide."""
    layouts.motion(height=540, width=960)
    layouts.peoplesnapshot()
    torch.testing.assert_close(
        read(layouts)[0].camera.intrinsics, torch.tensor([[1000.0, 0, 480], [0, 1000.0, 270], [0, 0, 1]])
    )


def test_published_root_motion(layouts):
    """Catches rebasing on the first *selected* frame instead of the motion's first frame."""
    layouts.motion()
    layouts.peoplesnapshot()
    frames = read(layouts, frames=FrameRange(2, 6, 3))
    for frame, number in zip(frames, (2, 5)):
        expected = layouts.transl[number] - layouts.transl[0] + np.array([0, 0.15, 5], np.float32)
        np.testing.assert_allclose(frame.pose.transl.numpy(), expected, atol=1e-6)
        np.testing.assert_array_equal(frame.pose.axis_angles.reshape(-1).numpy(), layouts.poses[number])
        assert frame.image is frame.mask is frame.valid is None


def test_files_taken_as_they_are(layouts):
    """Catches the published rule applied when the stored camera was asked for, and per-frame cameras not followed."""
    folder = layouts.motion(height=20, width=24)
    layouts.peoplesnapshot()
    intrinsic = np.stack([np.diag([10.0 + i, 11.0, 1.0]) for i in range(6)])
    extrinsic = np.stack([np.eye(4)] * 6)
    extrinsic[:, 2, 3] = np.arange(6)
    np.savez(folder / "cameras.npz", intrinsic=intrinsic, extrinsic=extrinsic, height=[20] * 6, width=[24] * 6)
    stored = read(layouts, camera="file", frames=FrameRange(1, 6, 2))
    assert [frame.camera.intrinsics[0, 0].item() for frame in stored] == [11, 13, 15]
    assert [frame.camera.camera_from_world[2, 3].item() for frame in stored] == [1, 3, 5]
    np.testing.assert_array_equal(stored[0].pose.transl.numpy(), layouts.transl[1])
    assert read(layouts)[3].camera.camera_from_world[2, 3].item() == 3


def test_shape_comes_from_the_subject(layouts):
    """Catches betas of the motion's performer, and the published order of the subject's pose files."""
    layouts.motion()
    folder = layouts.peoplesnapshot()
    frames = read(layouts)
    assert frames.betas.tolist() == layouts.betas.tolist()
    assert (frames.subject, frames.gender) == ("male-1-casual", "male")
    np.savez(folder / "poses/anim_nerf_train.npz", **(layouts.pose_arrays() | {"betas": np.zeros((1, 10))}))
    assert read(layouts).betas.abs().sum() == 0
    (folder / "poses/anim_nerf_train.npz").unlink()
    assert read(layouts).betas.tolist() == layouts.betas.tolist()


def test_light_of_a_motion(layouts):
    """Catches a map that is not found among the bundled ones."""
    layouts.motion()
    layouts.peoplesnapshot()
    assert read(layouts, hdri="city.hdr")[0].hdri.name == "city.hdr"


def test_unknown_camera_rule(layouts):
    """Catches a misspelt option that silently means the default."""
    with pytest.raises(InputError, match="'published' or 'file'"):
        read(layouts, camera="stored")
