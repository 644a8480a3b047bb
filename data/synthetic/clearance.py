"""Self-intersection of poses, from capsules around the bones."""

from dataclasses import dataclass

import numpy as np
import torch

from body_models.skinning import joint_transforms
from data.synthetic.motion import JOINT


@dataclass(frozen=True)
class Capsule:
    """A thick segment between two joints, as fractions along the line from the first to the second."""

    first: str
    second: str
    radius: float
    """Metres; includes clothing."""
    start: float = 0.0
    stop: float = 1.0


_TRUNK = (
    Capsule("pelvis", "spine3", 0.15),
    Capsule("spine3", "neck", 0.13),
    Capsule("neck", "head", 0.10, stop=1.8),
)


def _limbs(side: str) -> tuple[Capsule, Capsule, Capsule, Capsule]:
    """Thigh, shin with foot, forearm, hand. The forearm starts beyond the elbow, which may rest against the trunk."""
    return (
        Capsule(f"{side}_hip", f"{side}_knee", 0.085, start=0.35),
        Capsule(f"{side}_knee", f"{side}_ankle", 0.065, stop=1.15),
        Capsule(f"{side}_elbow", f"{side}_wrist", 0.045, start=0.3),
        Capsule(f"{side}_wrist", f"{side}_hand", 0.045, stop=2.0),
    )


def _pairs() -> list[tuple[Capsule, Capsule]]:
    """Segments that must keep apart: arms from trunk, legs and each other; legs from each other below the hips."""
    left, right = _limbs("left"), _limbs("right")
    arms, legs = left[2:] + right[2:], left[:2] + right[:2]
    pairs = [(arm, other) for arm in arms for other in _TRUNK + legs]
    pairs += [(a, b) for a in left[2:] for b in right[2:]]
    return pairs + [(a, b) for a in left[:2] for b in right[:2]]


def clearance(poses: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Smallest gap [T] in metres between parts of the body that must not touch; negative where they intersect.

    Args:
        poses: [T, 24, 3] axis-angle, radians.
        joints: [24, 3] joints at rest, metres.
    """
    rest = torch.as_tensor(np.asarray(joints), dtype=torch.float64)
    transforms = joint_transforms(torch.as_tensor(np.asarray(poses), dtype=torch.float64), rest)
    placed = ((transforms[..., :3, :3] @ rest[..., None]).squeeze(-1) + transforms[..., :3, 3]).numpy()
    gaps = [_segment_distance(*_ends(placed, a), *_ends(placed, b)) - a.radius - b.radius for a, b in _pairs()]
    return np.min(gaps, axis=0)


def _ends(placed: np.ndarray, capsule: Capsule) -> tuple[np.ndarray, np.ndarray]:
    first, second = placed[:, JOINT[capsule.first]], placed[:, JOINT[capsule.second]]
    return first + capsule.start * (second - first), first + capsule.stop * (second - first)


def _segment_distance(p0: np.ndarray, p1: np.ndarray, q0: np.ndarray, q1: np.ndarray) -> np.ndarray:
    """Distance [T] between segments p and q, ends [T, 3] (Ericson, Real-Time Collision Detection, 5.1.9)."""
    along_p, along_q, between = p1 - p0, q1 - q0, p0 - q0
    dot = lambda a, b: np.einsum("td,td->t", a, b)  # noqa: E731
    pp, qq, pq = dot(along_p, along_p), dot(along_q, along_q), dot(along_p, along_q)
    pb, qb = dot(along_p, between), dot(along_q, between)
    denominator = pp * qq - pq * pq
    safe = np.where(denominator > 1e-12, denominator, 1)
    s = np.clip(np.where(denominator > 1e-12, (pq * qb - pb * qq) / safe, 0), 0, 1)
    t = np.clip((pq * s + qb) / qq, 0, 1)
    s = np.clip((pq * t - pb) / pp, 0, 1)
    return np.linalg.norm(between + s[:, None] * along_p - t[:, None] * along_q, axis=-1)
