"""Appearance heads."""

import pytest
import torch

from core.errors import InputError
from explicit_branch.components import build
from explicit_branch.rendering.appearance import View, canonical_view_directions

HEADS = {
    "ReflectionHead": {},
    "CanonicalViewHead": {"non_rigid_dim": 4, "latent_dim": 8},
    "SphericalHarmonicsHead": {},
}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_gives_colours_with_gradients(avatar, camera, pose_of, name):
    """Fails when an option of the texture group cannot run, or its features get no gradient."""
    head = build({"_target_": f"explicit_branch.rendering.appearance.{name}", **HEADS[name]}, frames=3)
    features = torch.randn(len(avatar.surfels), head.feature_dim, requires_grad=True)
    posed = avatar.deformation(avatar.surfels, pose_of(0.2), camera)
    for frame_index in (1, None):
        view = View(frame_index, torch.Generator().manual_seed(0))
        colours = head(features, posed, view)
        assert colours.shape == (len(avatar.surfels), 3)
        assert float(colours.detach().min()) >= 0
    colours.sum().backward()
    assert float(features.grad.abs().sum()) > 0


def test_spherical_harmonics_constant(avatar, camera, pose_of):
    """Fails when the constant band is scaled or the offset of one half is missing."""
    head = build({"_target_": "explicit_branch.rendering.appearance.SphericalHarmonicsHead"}, frames=0)
    features = torch.zeros(len(avatar.surfels), 16, 3)
    features[:, 0] = torch.tensor([0.1, 0.2, 0.3])
    with torch.no_grad():
        posed = avatar.deformation(avatar.surfels, pose_of(0.2), camera)
        colours = head(features.flatten(1), posed, View())
    expected = 0.5 + torch.tensor([0.1, 0.2, 0.3]) * 0.28209479
    torch.testing.assert_close(colours, expected.expand_as(colours))


@torch.no_grad()
def test_canonical_directions_follow_the_body(avatar, camera, pose_of):
    """Fails when the view is not turned back into the canonical pose."""
    pose = pose_of(0.0)
    posed = avatar.deformation(avatar.surfels, pose, camera)
    directions = canonical_view_directions(posed)
    # Upright in OpenCV axes is half a turn about x: the camera looks along canonical -z.
    torso = avatar.deformation.parts(avatar.surfels) == 8
    assert float(directions[torso][:, 2].mean()) < -0.9


def test_foreign_components_are_refused():
    """Fails when a checkpoint can name arbitrary code."""
    for target in ("os.system", "core.files.replacing", "explicit_branch.nothing.Here", ""):
        with pytest.raises(InputError, match="_target_"):
            build({"_target_": target})
    with pytest.raises(InputError, match="do not fit"):
        build({"_target_": "explicit_branch.rendering.appearance.ReflectionHead", "colour": 3}, frames=1)
