"""From options to datasets: every layout in both branches, frames that are left out, cameras that move."""

import copy

import pytest
import torch

from body_models import CanonicalBody, load_body
from core.errors import InputError
from data import embedded
from data.camera_folders import LAYOUTS
from data.rana import RanaFrames
from implicit_branch.rendering.emitters import TextureLight
from implicit_branch.rendering.frame import Illumination, render_frame
from tests.data.camera_folders_writer import SUBJECT, write
from tests.implicit_branch.conftest import RECIPE, make_teacher
from tests.workflows.test_configuration import compose
from workflows.build_data import explicit_frames, implicit_frames

STUDENT = {"synthetichuman": "synthetichuman_IA_custom_relight", "zju-mocap": "zju_IA_custom"}


def camera_folder_config(root, layout, *overrides):
    """Both branches on a folder with a folder for each camera."""
    given = f"subject: {SUBJECT[layout]}, gender: male, body_model: embedded"
    return compose("config_rana", f"implicit_branch/dataset={layout}/custom",
                   f"implicit_branch.dataset={{dataroot: {root / layout}, {given}}}",
                   f"explicit_branch/dataset={STUDENT[layout]}",
                   f"explicit_branch.dataset={{root_dir: {root / layout}, {given}, img_hw: [32, 32]}}",
                   *overrides)  # fmt: skip


@pytest.mark.parametrize("layout", tuple(LAYOUTS))
def test_both_branches_read_camera_folders(layout, tmp_path):
    """Fails when an option names a layout that no reader has, or its camera or split does not arrive."""
    write(tmp_path, layout)
    config = camera_folder_config(tmp_path, layout)
    taught, learned = implicit_frames(config, "test"), explicit_frames(config, "test")
    assert (len(taught), len(learned), taught.name, learned.name) == (8, 8, layout, layout)
    assert (taught[5].hdri is not None) == (layout == "synthetichuman")
    assert taught[5].hdri == learned[5].hdri
    assert learned[5].image.shape == (32, 32, 3)
    torch.testing.assert_close(taught[5].camera.camera_from_world, learned[5].camera.camera_from_world)
    assert not torch.equal(learned[5].camera.camera_from_world, learned[4].camera.camera_from_world)
    config = camera_folder_config(tmp_path, layout, "implicit_branch.dataset.camera=other",
                                  "explicit_branch.dataset.camera=other")  # fmt: skip
    for frames in (implicit_frames, explicit_frames):
        with pytest.raises(InputError, match="expected camera other"):
            frames(config, "train")


@pytest.mark.parametrize("kind", ["rana", "peoplesnapshot"])
def test_one_list_excludes_frames_of_both_branches(kind):
    """Fails when a frame that is left out trains one of the branches, or leaves the test frames too."""
    options = {"rana": ("rana/p1/subject_00", "rana_IA_subject_00_male"),
               "peoplesnapshot": ("peoplesnapshot/subject_00", "ps_IA_subject_00")}[kind]  # fmt: skip
    data = (f"implicit_branch/dataset={options[0]}", f"explicit_branch/dataset={options[1]}")
    whole = compose("config_rana", *data)
    config = compose("config_rana", *data, "implicit_branch.dataset.exclude=[3,7]")
    for frames in (implicit_frames, explicit_frames):
        everything, left = frames(whole, "train"), frames(config, "train")
        assert len(left) == len(everything) - 2
        assert torch.equal(left[3].pose.axis_angles, everything[4].pose.axis_angles)
        assert torch.equal(left[3].image, everything[4].image)
        assert len(frames(config, "test")) == len(frames(whole, "test"))
    with pytest.raises(InputError, match="exclude"):
        implicit_frames(compose("config_rana", *data, "implicit_branch.dataset.exclude=[400]"), "train")


def test_unknown_dataset_names_list_the_known_ones():
    """Fails when a mistyped dataset name of the student is read as PeopleSnapshot, or ends after loading."""
    config = compose("config_rana", "explicit_branch.dataset.name=ranna", "implicit_branch.dataset.name=ranna")
    for frames in (implicit_frames, explicit_frames):
        with pytest.raises(InputError, match="found ranna, expected peoplesnapshot, rana, synthetichuman, zju-mocap"):
            frames(config, "train")


def test_teacher_follows_the_camera_of_each_frame(tmp_path):
    """Fails when the teacher renders a frame with another frame's extrinsic: the pictures of a world that turns with
    its camera are those of one at rest."""
    write(tmp_path, "synthetichuman")
    moving = implicit_frames(camera_folder_config(tmp_path, "synthetichuman"), "train")
    still = RanaFrames(root=embedded.load_root() / "rana", subject=embedded.SUBJECT, gender="male", split="test")
    teacher = make_teacher(copy.deepcopy(RECIPE), CanonicalBody(load_body(None, "male"), still.betas))
    light = TextureLight(hdr_filepath=still[0].hdri)
    illumination = Illumination.of_environment(teacher, light, samples_per_pixel=1)
    for number in (2, 6):
        maps = [
            render_frame(teacher, frame.pose, frame.camera.resized(24, 24), illumination)
            for frame in (moving[number], still[number])
        ]
        assert 20 < float(maps[1].alpha.sum()) < 200
        torch.testing.assert_close(maps[0].alpha, maps[1].alpha, atol=0.05, rtol=0)
        torch.testing.assert_close(maps[0].depth, maps[1].depth, atol=0.05, rtol=0)
