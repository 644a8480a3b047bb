"""The nine parts and the canonical poses."""

from math import pi

import pytest
import torch

from body_models import canonical_pose, load_body
from body_models.canonical import CANONICAL_POSES
from body_models.parts import (
    DRIVING_JOINTS,
    PART_JOINTS,
    PART_NAMES,
    PART_OF_JOINT,
    part_of_points,
    part_weights,
)
from body_models.skeleton import DEPTH_LEVELS, JOINT_NAMES, JOINTS, PARENTS
from core.errors import InputError


def test_parts_partition_the_joints():
    """Fails when a joint is in two parts or in none, or a part is driven by a joint of another."""
    assert sorted(joint for part in PART_JOINTS for joint in part) == list(range(JOINTS))
    assert len(PART_NAMES) == len(PART_JOINTS) == len(DRIVING_JOINTS) == 9
    for part, (joints, driver) in enumerate(zip(PART_JOINTS, DRIVING_JOINTS)):
        assert driver in joints
        assert {PART_OF_JOINT[joint] for joint in joints} == {part}
        # The driver is the joint nearest to the root: all others of the part hang below it.
        assert all(joint == driver or PARENTS[joint] in joints for joint in joints)
    for part, name in enumerate(PART_NAMES[:-1]):
        assert {JOINT_NAMES[joint].split("_")[0] for joint in PART_JOINTS[part]} == {name.split("_")[0]}


def test_levels_list_parents_first():
    """Fails when a joint would be multiplied before its parent is known."""
    seen = [0]
    for level in DEPTH_LEVELS:
        assert all(PARENTS[joint] in seen for joint in level)
        seen.extend(level)
    assert seen == list(range(JOINTS))


def test_part_of_vertices_matches_where_they_are():
    """Fails when left and right are swapped: +x is the left side of the body at rest."""
    body = load_body(None, "neutral")
    parts = part_of_points(body.weights)
    assert set(parts.tolist()) == set(range(9))
    for part, name in enumerate(PART_NAMES):
        x = body.v_template[parts == part, 0].mean()
        assert {"left": x > 0.05, "right": x < -0.05}.get(name.split("_")[0], x.abs() < 0.01)
    torch.testing.assert_close(part_weights(body.weights).sum(-1), torch.ones(len(body.weights)))


@pytest.mark.parametrize(
    ("names", "entries"),
    [
        (("A_pose", "a_pose", [0.2, -0.2, -0.8, 0.8]), {2: 0.2, 5: -0.2, 47: -0.8, 50: 0.8}),
        (("star_pose",), {2: pi / 4, 5: -pi / 4}),
        (("da_pose",), {2: pi / 6, 5: -pi / 6}),
        (("ps_pose",), {2: 0.2, 5: -0.2}),
        (("ps_female_3_pose", "ps_female3_pose"), {2: 0.2, 5: -0.2, 47: -0.2, 50: 0.2}),
    ],
)
def test_canonical_poses_have_the_published_entries(names, entries):
    """Fails when an angle goes to another joint or axis, or a branch's spelling is not understood."""
    expected = torch.zeros(69)
    for index, angle in entries.items():
        expected[index] = angle
    for name in names:
        pose = canonical_pose(name)
        assert not pose[0].any()
        torch.testing.assert_close(pose[1:].flatten(), expected)


@pytest.mark.parametrize("wrong", ["t_pose", [0.1, 0.2], [0.0] * 5])
def test_unknown_canonical_pose_is_refused(wrong):
    """Fails when a misspelt pose silently becomes the T-pose."""
    with pytest.raises(InputError, match="A_pose") as caught:
        canonical_pose(wrong)
    assert all(name in str(caught.value) for name in CANONICAL_POSES)
