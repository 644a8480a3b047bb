"""The self-contained checkpoint."""

import pytest
import torch

from core.errors import InputError
from explicit_branch.avatar import load_avatar
from explicit_branch.rendering.probes import OcclusionProbes
from explicit_branch.rendering.renderer import Renderer
from gs_ir.probes import ProbeVolumes


def probes() -> OcclusionProbes:
    """One half-open probe lattice for each of the nine parts."""
    coefficients = torch.zeros(72, 9)
    coefficients[:, 0] = 1.7
    corners = torch.full((9, 3), -1.5)
    volumes = ProbeVolumes(coefficients.half(), torch.arange(10) * 8, corners, torch.full((9, 3), 2), 3.0)
    return OcclusionProbes(volumes)


@torch.no_grad()
@pytest.mark.parametrize("offset", [0, 5])
def test_loaded_avatar_renders_the_same_picture(make_avatar, camera, light, pose_of, tmp_path, offset):
    """Fails when anything that a render needs is missing from the checkpoint: networks, body, probes, raster rules."""
    components = {"non_rigid": {"_target_": "explicit_branch.deformation.non_rigid.OffsetHashGrid", "log2_size": 8,
                                "width": 16, "delay": offset}}  # fmt: skip
    avatar = make_avatar(800)
    avatar = make_avatar(800, components={**avatar.record.components, **components})
    avatar.probes, avatar.training_light = probes(), torch.rand(6, 16, 16, 3)
    avatar.save(tmp_path / "ckpt3.pth", trainer={"anything": 1})
    loaded = load_avatar(tmp_path / "ckpt3.pth", subject="tester", gender="male", canonical_pose="a_pose")
    pose = pose_of(0.4)
    first, second = (Renderer(a).render(pose, camera, light, colour=True) for a in (avatar, loaded))
    torch.testing.assert_close(first.image, second.image, atol=1e-6, rtol=0)
    torch.testing.assert_close(first.colour, second.colour, atol=1e-6, rtol=0)
    assert float(first.buffer.occlusion[first.alpha > 0.9].max()) < 0.7
    assert torch.equal(avatar.training_light, loaded.training_light)


@pytest.mark.parametrize(
    ("key", "value"), [("subject", "other"), ("gender", "female"), ("canonical_pose", "star_pose")]
)
def test_another_subjects_checkpoint_is_refused(avatar, tmp_path, key, value):
    """Fails when a student of another subject, gender or rest pose is used silently."""
    avatar.save(tmp_path / "ckpt1.pth")
    with pytest.raises(InputError, match=f"{key} = {value}"):
        load_avatar(tmp_path / "ckpt1.pth", **{key: value})


def test_other_files_are_refused(tmp_path):
    """Fails when a published 7-tuple or a teacher is half read, or a missing file is not listed beside what exists."""
    torch.save((1, 2), tmp_path / "ckpt30000.pth")
    with pytest.raises(InputError, match="a tuple"):
        load_avatar(tmp_path / "ckpt30000.pth")
    with pytest.raises(InputError, match=r"ckpt30000\.pth"):
        load_avatar(tmp_path / "ckpt999.pth")
