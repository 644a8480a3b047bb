"""The distillation set: float maps, published pictures, and the manifest."""

import json

import cv2
import numpy as np
import pytest
import torch

from core.errors import InputError
from data.animation import MotionFrames
from data.distillation import DistillationFrames
from data.frame_range import FrameRange
from data.peoplesnapshot import PeopleSnapshotFrames

SIZE = 16


@pytest.fixture
def motion(layouts):
    layouts.motion()
    layouts.peoplesnapshot()
    return MotionFrames(
        root=layouts.root / "animation",
        motion="walk",
        subject_root=layouts.root / "peoplesnapshot/male-1-casual",
        gender="male",
        size=(SIZE, SIZE),
    )


@pytest.fixture
def truth():
    """Known maps of six frames: a soft square in the middle."""
    rng = np.random.default_rng(5)
    alpha = np.zeros((6, SIZE, SIZE))
    alpha[:, 4:12, 4:12] = 1
    alpha[:, 3, 4:12] = 0.5
    normal = rng.normal(size=(6, SIZE, SIZE, 3)) + [0, 0, -4]
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    covered = alpha > 0
    maps = {
        "pbr_rgb": rng.uniform(0.05, 0.9, (6, SIZE, SIZE, 3)) * alpha[..., None],
        "alpha": alpha,
        "normal": normal * covered[..., None],
        "albedo": rng.uniform(0.1, 0.9, (6, SIZE, SIZE, 3)) * covered[..., None],
        "roughness": rng.uniform(0.2, 0.9, (6, SIZE, SIZE)) * covered,
        "metallic": rng.uniform(0, 0.3, (6, SIZE, SIZE)) * covered,
        "depth": rng.uniform(4, 6, (6, SIZE, SIZE)) * covered,
    }
    return {name: values.astype(np.float32) for name, values in maps.items()}


def manifest(layouts, **changes) -> dict:
    frames = [{"name": f"{i:04d}", "index": i} for i in range(6)]
    subject = {
        "subject": "male-1-casual",
        "gender": "male",
        "betas": layouts.betas.tolist(),
        "canonical_pose": "A_pose",
    }
    return {"schema": 1, **subject, "width": SIZE, "height": SIZE, "frames": frames} | changes


@pytest.fixture
def float_folder(layouts, truth):
    """A set with lossless maps and a manifest."""
    folder = layouts.root / "save" / "it0-test"
    folder.mkdir(parents=True)
    for i in range(6):
        arrays = {name: values[i].astype(np.float16) for name, values in truth.items()}
        np.savez(folder / f"{i:04d}-maps.npz", **arrays)
    (folder / "manifest.json").write_text(json.dumps(manifest(layouts)))
    return folder


@pytest.fixture
def picture_folder(layouts, truth):
    """A set as the published teacher writes it: truncated 8-bit pictures, no manifest."""
    folder = layouts.root / "published" / "it0-test"
    alpha_folder = folder.with_name("it0-test-with-alpha")
    alpha_folder.mkdir(parents=True)
    folder.mkdir()

    def write(path, image):
        image = np.repeat(image[..., None], 3, -1) if image.ndim == 2 else image
        order = [2, 1, 0, 3][: image.shape[-1]]
        cv2.imwrite(str(path), (image[..., order] * 255).astype(np.uint8))

    for i in range(6):
        m = {name: values[i] for name, values in truth.items()}
        a = m["alpha"][..., None]
        linear = m["pbr_rgb"] + (1 - a)
        srgb = np.where(linear < 0.0031308, linear * 12.92, 1.055 * linear.clip(1e-4) ** (1 / 2.4) - 0.055)
        write(folder / f"{i:04d}-pbr_rgb.png", srgb)
        write(alpha_folder / f"{i:04d}-pbr_rgb.png", np.concatenate([srgb, a], -1))
        write(folder / f"{i:04d}-pbr_albedo.png", m["albedo"] * a)
        write(folder / f"{i:04d}-pbr_roughness.png", m["roughness"] * m["alpha"] + 1 - m["alpha"])
        write(folder / f"{i:04d}-pbr_metallic.png", m["metallic"] * m["alpha"] + 1 - m["alpha"])
        write(folder / f"{i:04d}-normal.png", (m["normal"] * [1, -1, -1] * a + 1) / 2)
        np.save(folder / f"{i:04d}-depth.npy", m["depth"] * m["alpha"] + (1 - m["alpha"]) * 6)
    return folder


def srgb_over_white(truth, number):
    linear = truth["pbr_rgb"][number] + 1 - truth["alpha"][number][..., None]
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_float_maps(layouts, motion, float_folder, truth):
    """Catches world normals not turned to OpenGL axes, a background in sRGB, and frames out of step."""
    frames = DistillationFrames(motion, float_folder, canonical_pose="a_pose", selection=FrameRange(1, 6, 2))
    assert (len(frames), frames.subject, frames.gender) == (3, "male-1-casual", "male")
    for position, number in enumerate((1, 3, 5)):
        frame = frames[position]
        assert (frame.index, frame.name) == (position, f"{position:04d}")
        np.testing.assert_allclose(frame.pose.transl, motion[number].pose.transl)
        np.testing.assert_allclose(frame.image, srgb_over_white(truth, number), atol=2e-3)
        np.testing.assert_allclose(frame.mask, truth["alpha"][number], atol=1e-3)
        np.testing.assert_allclose(frame.normal, truth["normal"][number] * [1, -1, -1], atol=2e-3)
        for name in ("albedo", "roughness", "metallic", "depth"):
            np.testing.assert_allclose(getattr(frame, name), truth[name][number], rtol=1e-3, atol=1e-3)


def test_published_pictures(motion, picture_folder, truth):
    """Catches maps left premultiplied, or over white; tolerances are those of truncated 8-bit values over alpha."""
    frames = DistillationFrames(motion, picture_folder)
    frame, alpha = frames[3], truth["alpha"][3]
    solid, level = alpha == 1, 1.5 / 255
    np.testing.assert_allclose(frame.image, srgb_over_white(truth, 3), atol=level)
    np.testing.assert_allclose(frame.mask, alpha, atol=level)
    for name in ("albedo", "roughness", "metallic"):
        found = getattr(frame, name).numpy()
        np.testing.assert_allclose(found[solid], truth[name][3][solid], atol=level)
        np.testing.assert_allclose(found[alpha == 0.5], truth[name][3][alpha == 0.5], atol=2.5 * level)
        assert np.abs(found[alpha == 0]).max() == 0
    cosine = (frame.normal.numpy()[solid] * (truth["normal"][3] * [1, -1, -1])[solid]).sum(-1)
    assert np.degrees(np.arccos(cosine.clip(-1, 1))).max() < 1
    assert np.degrees(np.arccos(cosine.clip(-1, 1))).mean() < 0.4
    np.testing.assert_allclose(frame.depth.numpy()[solid], truth["depth"][3][solid], atol=1e-5)
    assert frame.depth[3].abs().max() == 0


def test_training_frames_keep_their_images(layouts, motion, float_folder, truth):
    """Catches captured images replaced by renders when only the maps were asked for."""
    manifest_path = float_folder / "manifest.json"
    manifest_path.write_text(json.dumps(manifest(layouts, width=SIZE, height=SIZE)))
    folder = layouts.root / "peoplesnapshot/male-1-casual"
    (folder / "poses/anim_nerf_train.npz").unlink()
    capture = PeopleSnapshotFrames(
        root=layouts.root / "peoplesnapshot", subject="male-1-casual", gender="male", size=(SIZE, SIZE)
    )
    frame = DistillationFrames(capture, float_folder, keep_images=True)[2]
    assert torch.equal(frame.image, capture[2].image)
    assert torch.equal(frame.mask, capture[2].mask)
    np.testing.assert_allclose(frame.albedo, truth["albedo"][2], atol=1e-3)


def test_preload(motion, float_folder):
    """Catches a second read of every map in every step."""
    frames = DistillationFrames(motion, float_folder, preload=True)
    for path in float_folder.glob("*.npz"):
        path.unlink()
    assert frames[4].albedo.shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gender": "female"}, "gender = female, expected gender = male"),
        ({"subject": "male-2-casual"}, "subject = male-2-casual"),
        ({"betas": [0.0] * 10}, "betas"),
        ({"canonical_pose": "star_pose"}, "canonical_pose = star_pose"),
        ({"schema": 2}, "schema = 2"),
        ({"width": 540}, "width = 540"),
        ({"frames": []}, "0 frames listed, 6 renders"),
    ],
)
def test_manifest_of_another_set_is_refused(layouts, motion, float_folder, change, message):
    """Catches renders of another body, pose or size used in silence."""
    (float_folder / "manifest.json").write_text(json.dumps(manifest(layouts, **change)))
    with pytest.raises(InputError, match=message):
        DistillationFrames(motion, float_folder, canonical_pose="A_pose")


def test_missing_and_incomplete_sets(layouts, motion, float_folder, picture_folder):
    """Catches an index error in the middle of training: the message names the stage to run."""
    with pytest.raises(InputError, match="no such folder.*Run the render stage first"):
        DistillationFrames(motion, layouts.root / "save" / "it9-test")
    (float_folder / "0005-maps.npz").unlink()
    with pytest.raises(InputError, match="5 renders, expected 6.*render stage"):
        DistillationFrames(motion, float_folder)
    for path in float_folder.glob("*.npz"):
        path.unlink()
    with pytest.raises(InputError, match="no .*maps.npz"):
        DistillationFrames(motion, float_folder)
    (picture_folder.with_name("it0-test-with-alpha") / "0002-pbr_rgb.png").unlink()
    with pytest.raises(InputError, match="0002-pbr_rgb.png"):
        DistillationFrames(motion, picture_folder)[2]


def test_maps_of_another_size_or_with_nan(layouts, motion, float_folder):
    """Catches maps resampled in silence, and NaN that would enter the losses."""
    path = float_folder / "0001-maps.npz"
    arrays = dict(np.load(path))
    np.savez(path, **{name: values[:8] for name, values in arrays.items()})
    frames = DistillationFrames(motion, float_folder)
    with pytest.raises(InputError, match="16 x 8 pixels, expected 16 x 16"):
        frames[1]
    arrays["albedo"][3, 3] = np.nan
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="albedo"):
        frames[1]
    del arrays["alpha"]
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="no alpha among"):
        frames[1]
