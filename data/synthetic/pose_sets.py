"""Sets of single poses: within the joints' limits, without self-intersection, and the set for distillation."""

import numpy as np
from scipy.spatial.transform import Rotation

from body_models.canonical import canonical_pose
from body_models.skeleton import JOINTS
from data.synthetic.clearance import clearance
from data.synthetic.motion import JOINT, dance, walk

TURNTABLE_VIEWS = 10
SMALLEST_GAP = 0.01
"""Metres that must remain between parts of the body."""

_LIMITS_LEFT = {
    "hip": ((-1.2, 0.4), (-0.3, 0.4), (0.0, 0.5)),
    "knee": ((0.0, 1.5), (0.0, 0.0), (0.0, 0.0)),
    "ankle": ((-0.4, 0.3), (-0.15, 0.15), (-0.1, 0.1)),
    "collar": ((0.0, 0.0), (-0.15, 0.15), (-0.1, 0.2)),
    "shoulder": ((-0.4, 0.4), (-1.0, 0.3), (-1.2, 0.7)),
    "elbow": ((-0.2, 0.2), (-1.9, 0.0), (-0.2, 0.2)),
}
"""Ranges in radians about x, y, z (fixed axes) of the left side; y and z change sign on the right."""

_LIMITS_MIDDLE = {
    "spine1": ((-0.1, 0.3), (-0.2, 0.2), (-0.15, 0.15)),
    "spine2": ((-0.1, 0.2), (-0.2, 0.2), (-0.15, 0.15)),
    "spine3": ((-0.1, 0.2), (-0.2, 0.2), (-0.1, 0.1)),
    "neck": ((-0.2, 0.3), (-0.4, 0.4), (-0.2, 0.2)),
    "head": ((-0.2, 0.2), (-0.3, 0.3), (-0.2, 0.2)),
}


def random_poses(count: int, joints: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """``count`` poses [count, 24, 3] drawn within the joints' limits, free of self-intersection, any heading.

    Args:
        count: how many.
        joints: [24, 3] joints at rest, metres, of the body that must not intersect itself.
        generator: source of randomness.
    """
    kept: list[np.ndarray] = []
    while len(kept) < count:
        drawn = _within_limits(4 * count, generator)
        kept.extend(drawn[clearance(drawn, joints) > SMALLEST_GAP])
    return with_random_heading(np.stack(kept[:count]), generator, tilt=0.15)


def distillation_poses(varied: int, joints: np.ndarray, seed: int = 0) -> np.ndarray:
    """Poses [10 + varied, 24, 3] for the teacher to render: ten views of a spread rest pose, then varied poses.

    Half of the varied poses come from dance and walk, half from the joints' limits; all clear of self-intersection.
    """
    generator = np.random.default_rng(seed)
    turn = np.tile(canonical_pose("da_pose").double().numpy(), (TURNTABLE_VIEWS, 1, 1))
    # Frame 0 shows the back, frame 5 the front, as in the published set.
    turn[:, 0, 1] = np.pi - 2 * np.pi * np.arange(TURNTABLE_VIEWS) / TURNTABLE_VIEWS
    moving = np.concatenate([dance(1200, seed=seed), walk(120)])
    moving = moving[clearance(moving, joints) > SMALLEST_GAP]
    from_motion = varied // 2
    picked = moving[generator.choice(len(moving), from_motion, replace=False)]
    free = random_poses(varied - from_motion, joints, generator)
    return np.concatenate([turn, with_random_heading(picked, generator, tilt=0.05), free])


def with_random_heading(poses: np.ndarray, generator: np.random.Generator, tilt: float) -> np.ndarray:
    """``poses`` [T, 24, 3] turned about the vertical by any angle and tilted by up to ``tilt`` radians."""
    turned = poses.copy()
    count = len(poses)
    heading = Rotation.from_rotvec(generator.uniform(-np.pi, np.pi, (count, 1)) * [[0.0, 1.0, 0.0]])
    leaning = Rotation.from_rotvec(generator.uniform(-tilt, tilt, (count, 3)) * [1.0, 0.0, 1.0])
    turned[:, 0] = (heading * leaning * Rotation.from_rotvec(poses[:, 0])).as_rotvec()
    return turned


def _within_limits(count: int, generator: np.random.Generator) -> np.ndarray:
    """Poses [count, 24, 3] with every joint uniform within its limits; wrists and hands stay straight."""
    poses = np.zeros((count, JOINTS, 3))
    for name, limits in _LIMITS_MIDDLE.items():
        poses[:, JOINT[name]] = _draw(limits, count, generator)
    for name, limits in _LIMITS_LEFT.items():
        poses[:, JOINT[f"left_{name}"]] = _draw(limits, count, generator)
        poses[:, JOINT[f"right_{name}"]] = _draw(limits, count, generator) * [1, -1, -1]
    return poses


def _draw(limits: tuple, count: int, generator: np.random.Generator) -> np.ndarray:
    low, high = np.array(limits).T
    return Rotation.from_euler("xyz", generator.uniform(low, high, (count, 3))).as_rotvec()
