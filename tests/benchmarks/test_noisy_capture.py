"""The spoiled capture has the noise that it names, and nothing else changes."""

import json

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from benchmarks.noisy_capture import Noise, jittered, signed_distance, spoil, turned, with_holes
from core.errors import InputError
from data import embedded
from data.rana import RanaFrames


@pytest.fixture
def disc():
    """A disc of radius 120 in a large picture."""
    rows, columns = np.mgrid[:400, :400] - 199.5
    return (rows**2 + columns**2 < 120**2).astype(np.uint8)


def test_outlines_move_by_three_pixels(disc):
    """Fails when masks grow or shrink as a whole, or outlines move by another distance: radii of a disc, by angle."""
    rng, radii = np.random.default_rng(0), []
    for _ in range(8):
        contours, _ = cv2.findContours(jittered(disc, Noise(), rng), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        outline = max(contours, key=len)[:, 0] - 199.5
        radii.append(np.linalg.norm(outline, axis=1) + 0.5)
    found = np.concatenate(radii)
    assert abs(found.mean() - 120) < 1
    assert 2.4 < found.std() < 3.6


def test_signed_distance_of_a_disc(disc):
    """Fails when the outline runs through pixels instead of between them (a bias of half a pixel)."""
    rows, columns = np.mgrid[:400, :400] - 199.5
    exact = 120 - np.hypot(rows, columns)
    assert abs((signed_distance(disc) - exact)[np.abs(exact) < 30].mean()) < 0.1


def test_two_per_cent_are_missing_in_few_regions(disc):
    """Fails when another share is dropped, pixels are scattered, or the rest of the mask changes."""
    result = with_holes(disc, Noise(), np.random.default_rng(1))
    assert (result <= disc).all()
    lost = disc - result
    assert lost.sum() == round(0.02 * disc.sum())
    assert 1 <= cv2.connectedComponents(lost)[0] - 1 <= 4


def test_poses_turn_by_the_angle_and_smoothly():
    """Fails when the rms angle is another one, noise is added to axis-angles, or joints tremble from frame to frame."""
    before = np.random.default_rng(0).normal(size=(200, 24, 3))
    after = turned(before, Noise(), np.random.default_rng(1))
    first, second = (Rotation.from_rotvec(x.reshape(-1, 3)) for x in (before, after))
    offsets = np.degrees((first.inv() * second).as_rotvec()).reshape(200, 24, 3)
    assert np.sqrt((offsets**2).sum(-1).mean()) == pytest.approx(1.5, rel=1e-3)
    assert np.linalg.norm(np.diff(offsets, axis=0), axis=-1).mean() < 0.4


def test_a_spoiled_capture_is_still_a_capture(tmp_path):
    """Fails when images, ground truth or the test split change, the record lies, or an output is overwritten."""
    data = embedded.load_root() / "rana"
    reached = spoil(data, tmp_path / "noisy", embedded.SUBJECT, Noise())
    assert reached["jitter"] == pytest.approx(3, abs=0.8)
    assert reached["dropped"] == pytest.approx(0.02, abs=2e-3)
    assert reached["degrees"] == pytest.approx(1.5, abs=1e-3)
    assert json.loads((tmp_path / "noisy/noise.json").read_text())["reached"] == reached
    capture = {"subject": embedded.SUBJECT, "gender": embedded.GENDER, "keep_background": True}
    for split in ("train_p1", "test"):
        clean, noisy = (RanaFrames(root=root, split=split, **capture)[5] for root in (data, tmp_path / "noisy"))
        assert bool((clean.image == noisy.image).all())
        assert bool((clean.mask == noisy.mask).all()) == (split == "test")
        assert bool((clean.pose.transl == noisy.pose.transl).all())
        assert bool((clean.albedo == noisy.albedo).all())
    with pytest.raises(InputError, match="a new folder"):
        spoil(data, tmp_path / "noisy", embedded.SUBJECT, Noise())
