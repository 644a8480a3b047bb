"""Fitting of bodies and tailoring, on shapes made from the embedded body."""

import numpy as np
import pytest
import torch
from scipy import sparse

from body_models import load_body
from body_models.skinning import rest_joints, shaped_vertices
from body_models.smpl_file import EMBEDDED_BODIES
from core.files import write_npz_atomically
from data.synthetic.anny_source import AnnyShapes
from data.synthetic.body_fit import base_mesh, fit_body
from data.synthetic.noise import smoothstep
from data.synthetic.subject import dress
from data.synthetic.t_pose import _BonePoser, _rotation_between, joint_of_bone
from data.synthetic.tailoring import hang, srgb, stripe


def test_fitted_body_reproduces_its_examples(tmp_path):
    """Fails when directions are scaled or ordered wrongly, or the regressor does not give the joints of new shapes."""
    body = load_body(None, "neutral").to(dtype=torch.float64)
    betas = torch.randn(16, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vertices, joints = shaped_vertices(body, betas).numpy(), rest_joints(body, betas).numpy()
    kept = np.arange(0, len(body.v_template), 3)
    weights = body.weights.numpy()[kept]
    entries = fit_body(vertices[:, kept], joints, weights / weights.sum(1, keepdims=True))
    entries |= {"f": np.array([[0, 1, 2]], np.uint32), "gender": np.array("neutral")}
    write_npz_atomically(tmp_path / "neutral.npz", entries)
    fitted = load_body(tmp_path, "neutral").to(dtype=torch.float64)
    basis = fitted.shapedirs.reshape(-1, 10).numpy()
    offsets = (vertices[:, kept] - fitted.v_template.numpy()).reshape(16, -1)
    found = np.linalg.lstsq(basis, offsets.T, rcond=None)[0].T
    np.testing.assert_allclose(found.std(0, ddof=1), 1, rtol=0.02)
    again = shaped_vertices(fitted, torch.as_tensor(found))
    np.testing.assert_allclose(again.numpy(), vertices[:, kept], atol=2e-5)
    new = torch.randn(10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    regressed = fitted.joint_regressor.numpy() @ shaped_vertices(body, new).numpy()[kept]
    error = np.linalg.norm(regressed - rest_joints(body, new).numpy(), axis=1)
    assert error.mean() < 0.01
    assert (fitted.joint_regressor >= 0).all()


@pytest.mark.parametrize(
    ("bone", "joint"),
    [("upperleg01.L", 1), ("upperleg02.R", 2), ("spine05", 0), ("finger1-2.L", 20), ("finger3-1.R", 23),
     ("toe2-1.L", 10), ("clavicle.R", 14), ("shoulder01.L", 13), ("upperarm01.R", 17), ("neck02", 12),
     ("metacarpal2.L", 20)],
)  # fmt: skip
def test_bones_belong_to_joints(bone, joint):
    """Fails when a bone moves with a joint of the other side, or the thumb with the fingers."""
    assert joint_of_bone(bone) == joint


def test_unknown_bone_is_an_error():
    """Fails when a new version of anny with other bones gives a body with parts that stay behind."""
    with pytest.raises(KeyError):
        joint_of_bone("tail.L")


def test_bones_point_where_they_are_told():
    """Fails when a rotation is taken about the wrong point or moves bones that do not hang below."""
    heads = np.array([[[0.0, 0, 0], [0, 1, 0], [0, 2, 0], [1, 0, 0]]])
    shapes = AnnyShapes(
        vertices=heads.copy(),
        bone_heads=heads,
        bone_names=("root", "arm", "hand", "other"),
        bone_parents=(-1, 0, 1, 0),
        bone_weights=sparse.identity(4, format="csr"),
        body_faces=np.empty((0, 3), int),
        groups={},
        cavities=np.empty(0, int),
    )
    poser = _BonePoser(shapes)
    poser.point("arm", ["hand"], [1.0, 0.0, 0.0])
    vertices, heads = poser.posed()
    np.testing.assert_allclose(vertices[0], [[0, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(vertices, heads)


def test_rotation_between_directions():
    """Fails when the matrix is transposed or not a rotation."""
    start = np.random.default_rng(0).normal(size=(5, 3))
    target = np.array([1.0, 2.0, 3.0])
    rotation = _rotation_between(start, target)
    turned = np.einsum("nij,nj->ni", rotation, start / np.linalg.norm(start, axis=1, keepdims=True))
    np.testing.assert_allclose(turned, np.tile(target / np.linalg.norm(target), (5, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation), 1)


def test_cloth_bridges_a_hollow():
    """Fails when cloth follows the waist instead of hanging from the chest, or hangs inside the body."""
    height, angle = np.meshgrid(np.linspace(0, 1, 200), np.linspace(-np.pi, np.pi, 200, endpoint=False))
    radius = 0.2 - 0.1 * np.exp(-(((height - 0.6) / 0.15) ** 2))
    points = np.stack([radius * np.cos(angle), -height, radius * np.sin(angle)], -1).reshape(-1, 3)
    fall = hang(points, np.zeros(3), np.array([0, -1.0, 0]), slope=0.05)
    np.testing.assert_allclose(fall.along, height.ravel())
    hung = (np.linalg.norm(points[:, [0, 2]], axis=1) + fall.gap).reshape(height.shape)
    assert fall.gap.min() >= 0
    at_waist = hung[:, 120]
    # Where the body narrows faster than the slope, the cloth falls at the slope: 0.2 m, less about 0.05 * 0.35.
    assert at_waist.mean() == pytest.approx(0.185, abs=0.008)
    assert at_waist.std() < 2e-3
    np.testing.assert_allclose(np.linalg.norm(fall.outward, axis=1), 1)
    assert np.abs(fall.outward[:, 1]).max() < 1e-12


def test_colours_and_stripes():
    """Fails when 8-bit colours are taken as linear, or a stripe's edge is hard or misplaced."""
    assert srgb(188, 188, 188) == pytest.approx(0.503, abs=2e-3)
    assert stripe(0.1, 0.2, np.array([0.0, 0.1, 0.15, 0.2, 0.3])) == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert smoothstep(0, 1, np.array([0.25])) == pytest.approx(0.15625)


@pytest.mark.slow
def test_dressing_the_embedded_body():
    """Fails when clothes are cut away, or do not follow the body's joints."""
    pytest.importorskip("anny", reason="anny is not installed: the generator's clothes are not checked")
    body_file = EMBEDDED_BODIES / "male.npz"
    subject = dress(base_mesh(body_file, "male"), body_file, "male", np.zeros(10))
    assert 1.5e5 < len(subject.vertices) < 3e5
    assert np.isfinite(subject.vertices).all()
    np.testing.assert_allclose(subject.weights.sum(1), 1, rtol=1e-6)
    body = load_body(None, "male")
    assert np.abs(subject.vertices.min(0) - body.v_template.numpy().min(0)).max() < 0.05
    assert subject.albedo.min() >= 0.01
    assert len(np.unique(subject.albedo.round(2), axis=0)) > 100
