"""The nine rigid parts that carry occlusion probes."""

from torch import Tensor

PART_NAMES = (
    "left_upper_arm", "left_forearm", "right_upper_arm", "right_forearm", "right_thigh", "right_shin", "left_thigh",
    "left_shin", "torso",
)  # fmt: skip

PART_JOINTS = ((16,), (18, 20, 22), (17,), (19, 21, 23), (2,), (5, 8, 11), (1,), (4, 7, 10),
               (0, 3, 6, 9, 12, 13, 14, 15))  # fmt: skip
"""Joints of each part; the order is that of the published occlusion volumes."""

DRIVING_JOINTS = (16, 18, 17, 19, 2, 5, 1, 4, 0)
"""The joint whose transform moves the whole part (wrist, ankle, head and spine bending are ignored)."""

PART_OF_JOINT = tuple(
    next(part for part, joints in enumerate(PART_JOINTS) if joint in joints)
    for joint in range(sum(map(len, PART_JOINTS)))
)
"""[24] part of each joint."""


def part_of_points(weights: Tensor) -> Tensor:
    """Part [...] (int64) of points with skinning ``weights`` [..., 24]: the part of the strongest joint."""
    return weights.new_tensor(PART_OF_JOINT).long()[weights.argmax(-1)]


def part_weights(weights: Tensor) -> Tensor:
    """Skinning ``weights`` [..., 24] summed over the joints of each part: [..., 9]."""
    membership = weights.new_zeros(weights.shape[-1], len(PART_NAMES))
    for joint, part in enumerate(PART_OF_JOINT):
        membership[joint, part] = 1
    return weights @ membership
