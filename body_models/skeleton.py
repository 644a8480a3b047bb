"""The SMPL skeleton: 24 joints, root first, parents before children."""

JOINT_NAMES = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle", "right_ankle",
    "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head", "left_shoulder",
    "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hand", "right_hand",
)  # fmt: skip

PARENTS = (-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21)
"""Parent of each joint; the root has -1."""

DEPTH_LEVELS = (range(1, 4), range(4, 7), range(7, 10), range(10, 15), range(15, 18), range(18, 20),
                range(20, 22), range(22, 24))  # fmt: skip
"""Joints below the root by distance from it: parents of a level lie in earlier levels, so a level is one product."""

JOINTS = len(PARENTS)
BETAS = 10
"""Shape coefficients that are used."""
POSE_FEATURES = 9 * (JOINTS - 1)
"""Entries of the joint rotation matrices without the root: inputs of the pose blend shapes."""
