"""Procedural motions as SMPL poses.

Every motion is [T, 24, 3] axis-angle in radians, in the body's own frame (y up, z forward, +x left). ``facing_camera``
turns them into the world's OpenCV axes, where y points down and the body looks at the camera.
"""

from collections.abc import Callable

import numpy as np
from scipy.spatial.transform import Rotation

from body_models.skeleton import JOINT_NAMES, JOINTS

JOINT = {name: index for index, name in enumerate(JOINT_NAMES)}

_SWAY = {"spine1": 0.025, "spine2": 0.025, "spine3": 0.025, "neck": 0.05, "head": 0.05, "left_hip": 0.02,
         "right_hip": 0.02, "left_knee": 0.02, "right_knee": 0.02, "left_shoulder": 0.05, "right_shoulder": 0.05,
         "left_elbow": 0.05, "right_elbow": 0.05}  # fmt: skip
"""Standard deviation in radians of what a person who tries to stand still does."""


def smooth_noise(frames: int, channels: int, period: float, generator: np.random.Generator) -> np.ndarray:
    """Unit-variance noise [T, C] that changes over ``period`` frames: Gaussian knots joined by Catmull-Rom splines."""
    knots = generator.normal(size=(int(np.ceil(frames / period)) + 4, channels))
    position = np.arange(frames) / period + 1
    index = np.floor(position).astype(int)
    t = (position - index)[:, None]
    a, b, c, d = (knots[index + shift] for shift in (-1, 0, 1, 2))
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def standing(frames: int, arms: float = 0.8, legs: float = 0.1) -> np.ndarray:
    """An A-pose [T, 24, 3] with ``arms`` lowered and ``legs`` spread by radians, elbows a little bent."""
    pose = np.zeros((frames, JOINTS, 3))
    for side, sign in (("left", 1), ("right", -1)):
        pose[:, JOINT[f"{side}_shoulder"], 2] = -sign * arms
        pose[:, JOINT[f"{side}_hip"], 2] = sign * legs
        pose[:, JOINT[f"{side}_elbow"], 1] = -sign * 0.18
    return pose


def turntable(frames: int, turns: float = 1.0, seed: int = 0) -> np.ndarray:
    """[T, 24, 3]: an A-pose that turns about the vertical and sways; frame 0 faces forward."""
    noise = smooth_noise(frames, JOINTS * 3, max(frames / 6, 4), np.random.default_rng(seed))
    sway = np.zeros(JOINTS)
    for name, amount in _SWAY.items():
        sway[JOINT[name]] = amount
    pose = standing(frames) + noise.reshape(frames, JOINTS, 3) * sway[:, None]
    pose[:, 0] = _about("y", 2 * np.pi * turns * np.arange(frames) / frames).as_rotvec()
    return pose


def walk(frames: int, fps: float = 30.0, speed: float = 1.0) -> np.ndarray:
    """[T, 24, 3]: walking on the spot, arms against legs, 0.95 double steps a second at ``speed`` 1."""
    phase = 2 * np.pi * 0.95 * speed * np.arange(frames) / fps
    swing, lift = np.sin(phase), np.cos(phase)
    pose = np.zeros((frames, JOINTS, 3))
    for side, sign in (("left", 1), ("right", -1)):
        stride = sign * swing
        bent = np.clip(sign * np.cos(phase + 0.35), 0, 1) ** 2
        pose[:, JOINT[f"{side}_hip"]] = _turns("xyz", -0.45 * stride - 0.06, 0, sign * 0.03)
        pose[:, JOINT[f"{side}_knee"]] = _turns("xyz", 0.12 + 0.55 * bent, 0, 0)
        pose[:, JOINT[f"{side}_ankle"]] = _turns("xyz", 0.12 * stride - 0.05, 0, 0)
        hanging = _about("x", 0.45 * stride) * _about("z", np.full(frames, -sign * 1.28))
        pose[:, JOINT[f"{side}_shoulder"]] = hanging.as_rotvec()
        pose[:, JOINT[f"{side}_elbow"]] = _turns("xyz", 0 * swing, -sign * (0.35 + 0.2 * np.clip(-stride, 0, 1)), 0)
    pose[:, JOINT["spine1"]] = _turns("xyz", 0.03, 0.06 * swing, 0)
    pose[:, JOINT["spine3"]] = _turns("xyz", 0, -0.10 * swing, 0.02 * lift)
    pose[:, 0] = _turns("xyz", 0, -0.08 * swing, 0.03 * lift)
    return pose


def dance(frames: int, fps: float = 30.0, beats_per_minute: float = 110.0, seed: int = 0) -> np.ndarray:
    """[T, 24, 3]: knees on the beat, arms and trunk on smooth noise that keeps the arms clear of the body."""
    generator = np.random.default_rng(seed)
    phase = np.pi * beats_per_minute / 60 * np.arange(frames) / fps
    sideways, bounce = np.sin(phase), 0.5 - 0.5 * np.cos(2 * phase)
    # Bounded by tanh: the largest swing still clears the trunk.
    arms = np.tanh(smooth_noise(frames, 6, 0.9 * fps, generator))
    trunk = smooth_noise(frames, 4, 1.1 * fps, generator)
    pose = standing(frames, arms=0.6, legs=0.08)
    for side, sign, first in (("left", 1, 0), ("right", -1, 2)):
        forward, upward = arms[:, first], arms[:, first + 1]
        bend = arms[:, 4 if sign > 0 else 5]
        raised = _about("y", -sign * (0.15 + 0.30 * forward)) * _about("z", -sign * 0.40 + 0.50 * upward)
        pose[:, JOINT[f"{side}_shoulder"]] = raised.as_rotvec()
        pose[:, JOINT[f"{side}_elbow"]] = _turns("xyz", 0 * bend, -sign * (0.65 + 0.50 * bend), sign * 0.3 * forward)
    _dance_legs(pose, sideways, bounce)
    pose[:, JOINT["spine1"]] = _turns("xyz", 0.10 + 0.1 * trunk[:, 0], 0.2 * trunk[:, 1], -0.10 * sideways)
    pose[:, JOINT["spine2"]] = _turns("xyz", 0.05 * trunk[:, 0], 0.18 * trunk[:, 1], 0.10 * sideways)
    pose[:, JOINT["spine3"]] = _turns("xyz", 0.05 * trunk[:, 0], 0.15 * trunk[:, 1], 0.08 * sideways)
    pose[:, JOINT["neck"]] = _turns("xyz", 0.08 * bounce, 0.15 * trunk[:, 2], 0.06 * sideways)
    pose[:, JOINT["head"]] = _turns("xyz", 0.08 * bounce, 0.15 * trunk[:, 3], 0.05 * sideways)
    pose[:, 0] = _about("y", 0.7 * smooth_noise(frames, 1, 1.6 * fps, generator)[:, 0]).as_rotvec()
    return pose


def _dance_legs(pose: np.ndarray, sideways: np.ndarray, bounce: np.ndarray) -> None:
    """Both knees give on the beat; the free leg lifts in turn."""
    give, lean = 0.22 + 0.30 * bounce, 0.16 * sideways
    for side, sign in (("left", 1), ("right", -1)):
        lifted = np.clip(sign * sideways, 0, 1)
        pose[:, JOINT[f"{side}_hip"]] = _turns("xyz", -0.6 * give - 0.2 * lifted, sign * 0.15, sign * 0.12 + 0.5 * lean)
        pose[:, JOINT[f"{side}_knee"]] = _turns("xyz", 1.2 * give + 0.35 * lifted, 0, 0)
        pose[:, JOINT[f"{side}_ankle"]] = _turns("xyz", -0.6 * give, 0, 0)


MOTIONS: dict[str, Callable[[int], np.ndarray]] = {"turntable": turntable, "walk": walk, "dance": dance}
"""The motions that need nothing but a number of frames."""


def facing_camera(poses: np.ndarray) -> np.ndarray:
    """Poses [T, 24, 3] in world axes (OpenCV): the root is turned by half a turn about x, so that y points down."""
    turned = poses.copy()
    turned[:, 0] = (Rotation.from_euler("x", np.pi) * Rotation.from_rotvec(poses[:, 0])).as_rotvec()
    return turned


def _about(axis: str, angles: np.ndarray) -> Rotation:
    """Rotations by ``angles`` [T] about a coordinate axis."""
    return Rotation.from_rotvec(np.asarray(angles)[:, None] * np.eye(3)["xyz".index(axis)])


def _turns(order: str, *angles: np.ndarray | float) -> np.ndarray:
    """Axis-angle [T, 3] (or [3]) of Euler angles about fixed axes, in the ``order`` given."""
    return Rotation.from_euler(order, np.stack(np.broadcast_arrays(*angles), -1)).as_rotvec()
