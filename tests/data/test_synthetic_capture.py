"""The generator's plan, writers and manifest, with a renderer that only paints squares."""

import json
import sys

import numpy as np
import pytest
import torch

from body_models import load_body
from body_models.skinning import rest_joints
from core.errors import InputError
from core.images import read_hdr
from data import embedded
from data.peoplesnapshot import PeopleSnapshotFrames
from data.rana import RanaFrames
from data.synthetic import generate
from data.synthetic.capture import MEAN_RADIANCE, Plan, capture, scaled_to_mean
from data.synthetic.layouts import Pictures, centred_camera
from data.synthetic.manifest import Manifest, sha256
from data.synthetic.optional_packages import require
from data.synthetic.render import encode
from data.synthetic.subject import ClothedSubject

SMALL = Plan(size=16, train_frames=7, test_frames=5, relights=("sunset", "city"))


@pytest.fixture(scope="module")
def subject_file(tmp_path_factory):
    """The bare embedded body in place of a clothed one."""
    body = load_body(None, "male")
    betas = torch.zeros(10)
    subject = ClothedSubject(
        vertices=body.v_template.numpy(),
        faces=body.faces.numpy(),
        weights=body.weights.numpy(),
        albedo=np.full((len(body.v_template), 3), 0.5),
        roughness=np.full(len(body.v_template), 0.4),
        joints=rest_joints(body, betas).numpy(),
        betas=betas.numpy(),
        gender="male",
    )
    path = tmp_path_factory.mktemp("subject") / "subject.npz"
    subject.save(path)
    return path


class Painter:
    """Counts what it is asked for; frame i is a grey of its own."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.calls: list[dict] = []
        self.stop_after = stop_after

    def __call__(self, subject, camera, **arguments):
        if self.stop_after is not None and len(self.calls) >= self.stop_after:
            raise KeyboardInterrupt
        self.calls.append(arguments)
        shape = (camera.height, camera.width)
        mask = np.zeros(shape, np.uint8)
        mask[4:12, 6:10] = 1
        grey = np.full((*shape, 3), (10 * arguments["seed"] + 5) / 255)
        return Pictures(grey, mask, 0.5 * grey, np.full((*shape, 3), 0.5), np.full(shape, 0.25))


def test_capture_is_read_back_as_written(tmp_path, subject_file):
    """Fails when a file name, axis, light or table of a layout is not what the readers expect."""
    painter = Painter()
    capture(subject_file, tmp_path, SMALL, render=painter)
    train = RanaFrames(root=tmp_path / "rana", subject="subject_00", gender="male")
    test = RanaFrames(root=tmp_path / "rana", subject="subject_00", gender="male", split="test")
    assert (len(train), len(test), len(painter.calls)) == (7, 5, 12)
    assert [frame.hdri.name for frame in test] == ["sunset.hdr", "city.hdr", "sunset.hdr", "city.hdr", "sunset.hdr"]
    assert train[3].image[5, 7].tolist() == pytest.approx([35 / 255] * 3, abs=1e-3)
    assert float(train[3].roughness[0, 0]) == pytest.approx(0.25, abs=2e-3)
    assert train[0].mask.sum() == 32
    for frame, call in zip([*train, *test], painter.calls):
        np.testing.assert_allclose(frame.pose.axis_angles.numpy(), call["pose"], atol=1e-6)
        np.testing.assert_allclose(frame.pose.transl.numpy(), call["transl"], atol=1e-6)
    assert painter.calls[0]["quality"].samples == 128
    assert painter.calls[-1]["quality"].samples == 256
    copy = {"root": tmp_path / "peoplesnapshot", "subject": "subject_00", "gender": "male"}
    from data.frame_range import FrameRange

    held_out = PeopleSnapshotFrames(**copy, split="test", frames=FrameRange(6, 7))
    assert held_out[0].image[5, 7].tolist() == pytest.approx([55 / 255] * 3, abs=1e-3)  # frame 5 of the turn
    assert len(PeopleSnapshotFrames(**copy, split="train", frames=FrameRange(0, 6))) == 6


def test_pelvis_stands_before_the_camera(tmp_path, subject_file):
    """Fails when the translation forgets that the root turns about the pelvis."""
    painter = Painter()
    capture(subject_file, tmp_path, SMALL, render=painter, peoplesnapshot=False)
    subject = ClothedSubject.load(subject_file)
    for call in painter.calls[::4]:
        vertices, normals = subject.posed(call["pose"], call["transl"])
        points, depth = centred_camera(100, 155).project(torch.as_tensor(vertices, dtype=torch.float64))
        assert points.min() > 0
        assert points.max() < 100
        assert depth.mean() == pytest.approx(3.2, abs=0.15)
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, rtol=1e-5)


def test_interrupted_capture_goes_on(tmp_path, subject_file):
    """Fails when finished frames are rendered again, or a missing or damaged one is not."""
    with pytest.raises(KeyboardInterrupt):
        capture(subject_file, tmp_path, SMALL, render=Painter(stop_after=4))
    second = Painter()
    capture(subject_file, tmp_path, SMALL, render=second)
    assert [call["seed"] for call in second.calls] == [4, 5, 6, 0, 1, 2, 3, 4]
    folder = tmp_path / "rana" / "train_p1" / "subject_00"
    (folder / "masks" / "mask_0002.npy").unlink()
    image = folder / "images" / "image_0005.png"
    image.write_bytes(image.read_bytes()[:-20])
    third = Painter()
    capture(subject_file, tmp_path, SMALL, render=third)
    assert [call["seed"] for call in third.calls] == [2, 5]
    whole = Painter()
    capture(subject_file, tmp_path / "whole", SMALL, render=whole)
    assert sha256(image) == sha256(tmp_path / "whole" / image.relative_to(tmp_path))
    found = json.loads((tmp_path / "rana" / "manifest.json").read_text())
    assert found["settings"]["seed"] == 3
    assert found["files"]["train_p1/subject_00/images/image_0005.png"] == sha256(image)


def test_other_settings_are_refused(tmp_path, subject_file):
    """Fails when frames of two sizes, seeds or subjects are mixed in one folder."""
    capture(subject_file, tmp_path, SMALL, render=Painter())
    with pytest.raises(InputError, match=r"seed 3.*seed 4.*another output folder"):
        capture(subject_file, tmp_path, Plan(**{**vars(SMALL), "seed": 4}), render=Painter())


def test_manifest_notices_changes(tmp_path):
    """Fails when a file that changed after it was recorded counts as complete."""
    path = tmp_path / "a.txt"
    path.write_text("one")
    manifest = Manifest(tmp_path, {"seed": 1})
    assert not manifest.has([path])
    manifest.record([path])
    assert Manifest(tmp_path, {"seed": 1}).has([path])
    path.write_text("two")
    assert not Manifest(tmp_path, {"seed": 1}).has([path])


def test_lights_are_scaled_over_the_sphere():
    """Fails when rows are averaged without their solid angle: the poles would count too much."""
    radiance = torch.zeros(64, 128, 3)
    radiance[:32] = 2.0
    assert scaled_to_mean(radiance, 0.9)[0, 0, 0] == pytest.approx(1.8, rel=1e-5)
    polar = torch.zeros(64, 128, 3)
    polar[0] = 1.0
    share = (1 - np.cos(np.pi / 64)) / 2
    assert scaled_to_mean(polar, 0.9)[0, 0, 0] == pytest.approx(0.9 / share, rel=1e-4)
    bundled = read_hdr(embedded.hdris() / "city.hdr")
    assert float(scaled_to_mean(bundled, MEAN_RADIANCE).mean() / bundled.mean()) == pytest.approx(1.0037, abs=0.003)


def test_encoding_of_maps():
    """Fails when normals are not turned to the viewer or not in OpenGL axes, or the background is not white."""
    camera = centred_camera(2, 2.0)
    colours, maps = np.zeros((2, 2, 4)), np.zeros((2, 2, 11))
    colours[0, 0] = [0.25, 0.25, 0.25, 0.5]
    colours[0, 1] = [0.2, 0.2, 0.2, 1.0]
    maps[0, 1, :3], maps[0, 1, 9] = 0.3, 0.7
    maps[0, 1, 3:6], maps[0, 1, 6:9] = [0.0, 0.6, 0.8], [0.1, 0.1, 3.0]  # looks down and away: the back is seen
    pictures = encode(colours, maps, camera)
    assert pictures.image[1, 1] == pytest.approx(1.0)
    assert pictures.image[0, 0, 0] == pytest.approx(0.8808, abs=1e-3)  # 0.75 linear
    assert pictures.mask.tolist() == [[0, 1], [0, 0]]
    assert pictures.albedo[0, 1] == pytest.approx(0.3)
    assert pictures.roughness[0, 1] == pytest.approx(0.7)
    assert 2 * pictures.normal[0, 1] - 1 == pytest.approx([0, 0.6, 0.8])
    assert pictures.normal[1, 0] == pytest.approx(0.5)


def test_missing_packages_are_named_with_the_command(monkeypatch, tmp_path, subject_file, capsys):
    """Fails when the generator ends in a bare ImportError."""
    for name in ("anny", "mitsuba"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(InputError, match=f"pip install {name}"):
            require(name)
    from data.synthetic import mitsuba_scene

    mitsuba_scene.mitsuba.cache_clear()
    with pytest.raises(InputError, match="pip install mitsuba"):
        capture(subject_file, tmp_path, SMALL)


def test_command_line(tmp_path, monkeypatch, caplog, subject_file):
    """Fails when an option does not reach the plan, or an error is a traceback instead of a line."""
    asked = []
    monkeypatch.setattr(generate, "capture", lambda *arguments, **named: asked.append((arguments, named)))
    words = [
        "capture",
        "--subject",
        str(subject_file),
        "--output",
        str(tmp_path),
        "--size",
        "64",
        "--train-frames",
        "9",
    ]
    assert generate.main([*words, "--relights", "forest", "--no-peoplesnapshot"]) == 0
    (_, output, plan), named = asked[0]
    assert (plan.size, plan.train_frames, plan.relights, named["peoplesnapshot"]) == (64, 9, ("forest",), False)
    assert output == tmp_path
    monkeypatch.undo()
    assert generate.main(["capture", "--subject", str(tmp_path / "none.npz"), "--output", str(tmp_path)]) == 1
    with pytest.raises(SystemExit) as ended:
        generate.main(["--help"])
    assert ended.value.code == 0
