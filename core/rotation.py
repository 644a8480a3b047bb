"""Rotations: axis-angle (radians), matrices, wxyz quaternions."""

from functools import lru_cache

import torch
from torch import Tensor

from core.vectors import unit


def axis_angle_to_matrix(axis_angle: Tensor) -> Tensor:
    """Rodrigues' formula: axis-angle [..., 3] in radians to rotation matrices [..., 3, 3].

    Written with sinc-like ratios so that value and gradient are exact at zero rotation.
    """
    squared = (axis_angle * axis_angle).sum(-1)[..., None, None]
    small = squared < 1e-8
    angle = torch.where(small, torch.ones_like(squared), squared).sqrt()
    sine = torch.where(small, 1 - squared / 6, angle.sin() / angle)
    cosine = torch.where(small, 0.5 - squared / 24, (1 - angle.cos()) / (angle * angle))
    skew = skew_matrix(axis_angle)
    identity = torch.eye(3, dtype=axis_angle.dtype, device=axis_angle.device)
    return identity + sine * skew + cosine * (skew @ skew)


def skew_matrix(vector: Tensor) -> Tensor:
    """Cross-product matrices [..., 3, 3] of vectors [..., 3]: ``skew_matrix(a) @ b == cross(a, b)``."""
    x, y, z = vector.unbind(-1)
    zero = torch.zeros_like(x)
    return torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(*vector.shape[:-1], 3, 3)


def quaternion_to_matrix(quaternion: Tensor) -> Tensor:
    """Rotation matrices [..., 3, 3] of wxyz quaternions [..., 4]; they need not be normalised.

    The matrix is the identity plus a linear map of the products of two components each.
    """
    direction = unit(quaternion)
    products = (direction[..., :, None] * direction[..., None, :]).reshape(-1, 16)
    linear, identity = _matrix_of_products(quaternion.dtype, quaternion.device)
    return torch.addmm(identity, products, linear).reshape(*quaternion.shape[:-1], 3, 3)


@lru_cache(maxsize=8)
def _matrix_of_products(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """[16, 9] factors of the products (ww, wx, wy, wz, xw, ...), and the identity [9]; kept for each device."""
    w, x, y, z = range(4)
    terms: list[list[tuple[int, int, int]]] = [
        [(-2, y, y), (-2, z, z)], [(2, x, y), (-2, w, z)], [(2, x, z), (2, w, y)],
        [(2, x, y), (2, w, z)], [(-2, x, x), (-2, z, z)], [(2, y, z), (-2, w, x)],
        [(2, x, z), (-2, w, y)], [(2, y, z), (2, w, x)], [(-2, x, x), (-2, y, y)],
    ]  # fmt: skip
    with torch.inference_mode(False):
        linear = torch.zeros(16, 9, dtype=dtype)
        for entry, parts in enumerate(terms):
            for factor, first, second in parts:
                linear[4 * first + second, entry] = factor
        return linear.to(device), torch.eye(3, dtype=dtype).reshape(9).to(device)


def matrix_to_quaternion(matrix: Tensor) -> Tensor:
    """Unit wxyz quaternions [..., 4] of rotation matrices [..., 3, 3] (largest-component branch, Shepperd 1978)."""
    m = matrix
    diagonal = torch.stack([m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]], -1)
    trace = diagonal.sum(-1, keepdim=True)
    squares = torch.cat([1 + trace, 1 + 2 * diagonal - trace], -1)  # four times the squared components
    a, b, c = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    d, e, f = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 2, 1] + m[..., 1, 2]
    s0, s1, s2, s3 = squares.unbind(-1)
    candidates = torch.stack(
        [
            torch.stack([s0, a, b, c], -1),
            torch.stack([a, s1, d, e], -1),
            torch.stack([b, d, s2, f], -1),
            torch.stack([c, e, f, s3], -1),
        ],
        -2,
    )
    largest = squares.argmax(-1)[..., None, None].expand(*squares.shape[:-1], 1, 4)
    return torch.nn.functional.normalize(candidates.gather(-2, largest).squeeze(-2), dim=-1)


def frame_from_normal(normal: Tensor) -> Tensor:
    """Right-handed frames [..., 3, 3] whose third column is the unit ``normal`` [..., 3] (Duff et al. 2017)."""
    x, y, z = normal.unbind(-1)
    sign = torch.where(z >= 0, torch.ones_like(z), -torch.ones_like(z))
    a = -1 / (sign + z)
    b = x * y * a
    tangent = torch.stack([1 + sign * x * x * a, sign * b, -sign * x], -1)
    bitangent = torch.stack([b, sign + y * y * a, -y], -1)
    return torch.stack([tangent, bitangent, normal], -1)


def compose_axis_angles(first: Tensor, second: Tensor) -> Tensor:
    """Axis-angle [..., 3] of the rotations ``first`` times ``second`` (radians; ``second`` acts first).

    Through quaternions, whose logarithm is smooth up to a full turn: half a turn is no exception, and the result may be
    a little more than that. Value and gradient are exact at zero rotations.
    """
    w1, v1 = _half_turn(first)
    w2, v2 = _half_turn(second)
    real = w1 * w2 - (v1 * v2).sum(-1, keepdim=True)
    imaginary = w1 * v2 + w2 * v1 + torch.linalg.cross(v1, v2)
    squared = imaginary.square().sum(-1, keepdim=True)
    small = squared < 1e-8
    sine = torch.where(small, torch.ones_like(squared), squared).sqrt()
    # Near no rotation the real part is positive: the angle's half is its sine plus a sixth of its cube.
    ratio = torch.where(small, 1 + squared / 6, torch.atan2(sine, real) / sine)
    return 2 * ratio * imaginary


def _half_turn(axis_angle: Tensor) -> tuple[Tensor, Tensor]:
    """Real part [..., 1] and imaginary part [..., 3] of the quaternions of ``axis_angle`` [..., 3]."""
    squared = axis_angle.square().sum(-1, keepdim=True)
    small = squared < 1e-8
    angle = torch.where(small, torch.ones_like(squared), squared).sqrt()
    real = torch.where(small, 1 - squared / 8, (angle / 2).cos())
    ratio = torch.where(small, 0.5 - squared / 48, (angle / 2).sin() / angle)
    return real, ratio * axis_angle
