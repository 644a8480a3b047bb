"""The flicker of a slow turn: what the figures mean, and a film of the embedded body."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from benchmarks import ceilings
from benchmarks.flicker import LEVELS, TRUTH, TRUTHS, change, slow_turn, summary, table, truth
from body_models import load_body
from body_models.canonical import CanonicalBody
from core.images import read_hdr
from data import embedded
from data.hdr import find_hdri
from data.rana import RanaFrames
from explicit_branch.rendering.light import ImageLight


def film(values: list[float]) -> torch.Tensor:
    """Uniform pictures [T, 4, 4, 3]."""
    return torch.tensor(values).reshape(-1, 1, 1, 1).expand(-1, 4, 4, 3)


def test_steady_motion_is_no_flicker():
    """Fails when the second difference counts what moves evenly, or the first one does not."""
    everywhere = torch.ones(4, 4, 4, dtype=torch.bool)
    ramp, blinking = film([0.0, 0.1, 0.2, 0.3]), film([0.0, 0.1, 0.0, 0.1])
    assert change(ramp, everywhere, 1) == pytest.approx(0.1 * LEVELS)
    assert change(ramp, everywhere, 2) == pytest.approx(0, abs=1e-4)
    assert change(blinking, everywhere, 1) == pytest.approx(0.1 * LEVELS)
    assert change(blinking, everywhere, 2) == pytest.approx(0.2 * LEVELS)


def test_only_pixels_that_stay_inside_count():
    """Fails when a pixel counts that the body leaves or enters between the frames compared."""
    images = film([0.0, 0.0, 0.0]).clone()
    images[1, 0] = 1.0
    solid = torch.ones(3, 4, 4, dtype=torch.bool)
    solid[1, 0] = False
    assert change(images, solid, 1) == change(images, solid, 2) == 0
    solid[1, 0], solid[0, 0] = True, False
    assert change(images, solid, 1) == pytest.approx(LEVELS * 4 / 28)
    assert change(images, solid, 2) == 0


@pytest.fixture(scope="module")
def frames():
    """Three small frames, a degree apart."""
    capture = {"subject": embedded.SUBJECT, "gender": embedded.GENDER, "split": "test", "size": (24, 24)}
    return slow_turn(RanaFrames(root=embedded.load_root() / "rana", **capture)[0], 3, 1.0)


def test_bodies_turn_about_the_vertical(frames):
    """Fails when the step has another size, the body leans, or it leaves its place."""
    first, last = (Rotation.from_rotvec(frames[i].pose.global_orient.numpy()) for i in (0, 2))
    np.testing.assert_allclose(np.degrees((last * first.inv()).as_rotvec()), [0, 2, 0], atol=1e-4)
    assert torch.equal(frames[0].pose.transl, frames[2].pose.transl)
    assert torch.equal(frames[0].pose.body_pose, frames[2].pose.body_pose)


def test_film_of_the_truth(frames, tmp_path, monkeypatch):
    """Fails when a light or a model is left out, pixels of edges count, or truth's ratio to itself is not 1."""
    body = CanonicalBody(load_body(None, "male"), torch.zeros(10), "a_pose")
    joints = body.body.joint_regressor @ body.body.v_template
    count = len(body.body.v_template)
    np.savez(tmp_path / "body.npz", v=body.body.v_template, f=body.body.faces, W=body.body.weights, J=joints,
             albedo=np.full((count, 3), 0.5, np.float32), rough=np.full(count, 0.5, np.float32))  # fmt: skip
    monkeypatch.setattr(ceilings, "bake_probes", partial(ceilings.bake_probes, cell=0.1, directions=32))
    lights = {"city": ImageLight.from_image(read_hdr(find_hdri("city")), resolution=16)}
    found, solid = truth(ceilings.read_subject(tmp_path / "body.npz", "cpu"), frames, lights)
    assert solid.shape == (3, 24, 24)
    assert 0.03 < float(solid.float().mean()) < 0.5
    rows = summary(found["city"], solid)
    assert set(rows) == set(TRUTHS)
    assert rows[TRUTH]["change_ratio"] == rows[TRUTH]["flicker_ratio"] == 1
    assert 0 < rows[TRUTH]["change"] < 10
    assert rows["none"]["level"] > rows[TRUTH]["level"]
    assert len(table({"city": rows}).splitlines()) == 2 + len(TRUTHS)
