"""The workload of the speed figures: a body of capsules covered with surfels, its camera, skeleton and poses.

A 1.8 m body in an A-pose, y up, centred at the origin, seen from 2.5 m on the +z side so that it fills 80 % of the
image's height. Surfels are drawn by area on the union of the capsules with a tilt jitter; at 100,000 their scales are
log-normal, 4 to 8 mm at one sigma, and the scales shrink with the square root of the count.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from core.camera import Camera

FLOOR = 0.9
"""Metres from the floor to the origin."""
PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 20, 21]
TILT = math.tan(math.radians(5))
SCALE_AT_100K = math.sqrt(0.004 * 0.008)
SCALE_SIGMA = math.log(2) / 2

_CENTRAL = [
    (0, (-0.07, 0.95, 0), (0.07, 0.95, 0), 0.125), (3, (0, 1.00, 0), (0, 1.12, 0), 0.130),
    (6, (0, 1.15, 0), (0, 1.28, 0), 0.140), (9, (-0.06, 1.33, 0), (0.06, 1.33, 0), 0.125),
    (12, (0, 1.44, 0), (0, 1.54, 0), 0.055), (15, (0, 1.60, 0), (0, 1.695, 0), 0.105),
]  # fmt: skip
_LEFT = [
    (13, (0.05, 1.42, 0), (0.17, 1.43, 0), 0.060), (16, (0.18, 1.42, 0), (0.36, 1.20, 0), 0.047),
    (18, (0.36, 1.20, 0), (0.52, 0.98, 0), 0.038), (20, (0.52, 0.98, 0), (0.55, 0.94, 0), 0.033),
    (22, (0.55, 0.94, 0), (0.60, 0.86, 0), 0.034), (1, (0.09, 0.92, 0), (0.11, 0.50, 0), 0.076),
    (4, (0.11, 0.50, 0), (0.12, 0.10, 0), 0.052), (7, (0.12, 0.06, 0), (0.12, 0.05, 0.02), 0.045),
    (10, (0.12, 0.035, 0.03), (0.13, 0.035, 0.15), 0.035),
]  # fmt: skip
_RIGHT = [(joint + 1, (-a[0], *a[1:]), (-b[0], *b[1:]), radius) for joint, a, b, radius in _LEFT]
_CAPSULES = _CENTRAL + _LEFT + _RIGHT
CAPSULE_JOINT = np.array([joint for joint, *_ in _CAPSULES])
CAPSULE_START = np.array([a for _, a, _, _ in _CAPSULES], float) - [0, FLOOR, 0]
CAPSULE_END = np.array([b for _, _, b, _ in _CAPSULES], float) - [0, FLOOR, 0]
CAPSULE_RADIUS = np.array([radius for *_, radius in _CAPSULES])


@dataclass(frozen=True)
class AnchorCloud:
    """N surfels, float32."""

    centers: Tensor
    """[N, 3] metres."""
    rotations: Tensor
    """[N, 3, 3] columns: tangent u, tangent v, normal."""
    scales: Tensor
    """[N, 2] metres."""
    opacities: Tensor
    """[N] 0.9 to 0.99."""
    features: Tensor
    """[N, 19] uniform in [0, 1]."""

    @property
    def tangents(self) -> tuple[Tensor, Tensor]:
        """Axes times standard deviations, two of [N, 3]."""
        scaled = self.rotations[:, :, :2] * self.scales[:, None]
        return scaled[:, :, 0].contiguous(), scaled[:, :, 1].contiguous()


def _distances(points: np.ndarray) -> np.ndarray:
    """Distance [P, capsules] of points [P, 3] to the capsules' axes."""
    axis = CAPSULE_END - CAPSULE_START
    along = ((points[:, None] - CAPSULE_START) * axis).sum(-1) / (axis * axis).sum(-1)
    nearest = CAPSULE_START + np.clip(along, 0, 1)[..., None] * axis
    return np.linalg.norm(points[:, None] - nearest, axis=-1)


def _candidates(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points and normals, both [count, 3], on the capsules, by area and whether covered by another capsule or not."""
    length = np.linalg.norm(CAPSULE_END - CAPSULE_START, axis=1)
    area = 2 * math.pi * CAPSULE_RADIUS * length + 4 * math.pi * CAPSULE_RADIUS**2
    chosen = rng.choice(len(area), count, p=area / area.sum())
    outward = rng.normal(size=(count, 3))
    outward /= np.linalg.norm(outward, axis=1, keepdims=True)
    axis = (CAPSULE_END - CAPSULE_START)[chosen] / length[chosen, None]
    on_side = (rng.random(count) < (length / (length + 2 * CAPSULE_RADIUS))[chosen])[:, None]
    across = outward - (outward * axis).sum(1, keepdims=True) * axis
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    normals = np.where(on_side, across, outward)
    at_end = ((outward * axis).sum(1) > 0)[:, None]
    cap = np.where(at_end, CAPSULE_END[chosen], CAPSULE_START[chosen])
    side = CAPSULE_START[chosen] + rng.random((count, 1)) * (CAPSULE_END - CAPSULE_START)[chosen]
    return np.where(on_side, side, cap) + CAPSULE_RADIUS[chosen, None] * normals, normals


def surface(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points and outward normals, both [count, 3], uniform on the surface of the union."""
    kept: list[tuple[np.ndarray, np.ndarray]] = []
    while sum(len(points) for points, _ in kept) < count:
        points, normals = _candidates(2 * count, rng)
        outside = (_distances(points) - CAPSULE_RADIUS > -1e-6).all(1)
        kept.append((points[outside], normals[outside]))
    points, normals = (np.concatenate(parts)[:count] for parts in zip(*kept))
    return points, normals


@lru_cache(maxsize=4)
def cloud(count: int, seed: int = 0) -> AnchorCloud:
    """``count`` surfels."""
    rng = np.random.default_rng(seed)
    points, normals = surface(count, rng)
    tilted = normals + TILT * rng.normal(size=normals.shape)
    tilted /= np.linalg.norm(tilted, axis=1, keepdims=True)
    tangent_u = np.cross(rng.normal(size=normals.shape), tilted)
    tangent_u /= np.linalg.norm(tangent_u, axis=1, keepdims=True)
    rotations = np.stack([tangent_u, np.cross(tilted, tangent_u), tilted], 2)
    scales = SCALE_AT_100K * np.exp(SCALE_SIGMA * rng.normal(size=(count, 2))) * math.sqrt(100_000 / count)
    opacities = rng.uniform(0.9, 0.99, (count, 1))[:, 0]
    features = rng.random((count, 19))
    return AnchorCloud(*(torch.from_numpy(x).float() for x in (points, rotations, scales, opacities, features)))


def camera(resolution: int) -> Camera:
    """A square view from +z towards the origin."""
    focal = 0.8 * resolution * 2.5 / 1.8
    camera_from_world = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    camera_from_world[2, 3] = 2.5
    half = resolution / 2
    intrinsics = torch.tensor([[focal, 0, half], [0, focal, half], [0, 0, 1.0]])
    return Camera(intrinsics, camera_from_world, resolution, resolution)


def joints() -> Tensor:
    """[24, 3] metres: where each capsule begins."""
    positions = np.zeros((len(PARENTS), 3))
    positions[CAPSULE_JOINT] = CAPSULE_START
    positions[0] = (0, 0.05, 0)
    return torch.from_numpy(positions).float()


def vertices(count: int = 6890, seed: int = 1, falloff: float = 0.05) -> tuple[Tensor, Tensor]:
    """Points on the surface [V, 3] and skinning weights [V, 24] that fall off with the distance to the capsules."""
    points, _ = surface(count, np.random.default_rng(seed))
    distance = np.maximum(_distances(points) - CAPSULE_RADIUS, 0)
    weights = np.zeros((count, len(PARENTS)))
    for capsule, joint in enumerate(CAPSULE_JOINT):
        weights[:, joint] = np.maximum(weights[:, joint], np.exp(-((distance[:, capsule] / falloff) ** 2)))
    weights /= weights.sum(1, keepdims=True)
    return torch.from_numpy(points).float(), torch.from_numpy(weights).float()


def pose(seed: int, amount: float = 0.15) -> Tensor:
    """[24, 3] axis-angles in radians: small random rotations of all joints."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(24, 3)) * amount).float()
