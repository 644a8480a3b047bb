"""Noise for folds, strands and dye: gradient noise without state, the same on every machine."""

import numpy as np

_GRADIENTS = np.array(
    [[1, 1, 0], [-1, 1, 0], [1, -1, 0], [-1, -1, 0], [1, 0, 1], [-1, 0, 1], [1, 0, -1], [-1, 0, -1], [0, 1, 1],
     [0, -1, 1], [0, 1, -1], [0, -1, -1]], float,
)  # fmt: skip
_SHIFT = 1000.0
"""Moves coordinates of a body into the positive range, where the lattice hash is defined."""


def _hash(x: np.ndarray, y: np.ndarray, z: np.ndarray, seed: int) -> np.ndarray:
    """A well mixed 32-bit number for each lattice point."""
    with np.errstate(over="ignore"):
        mixed = x.astype(np.uint32) * np.uint32(374761393) + y.astype(np.uint32) * np.uint32(668265263)
        mixed = mixed + z.astype(np.uint32) * np.uint32(2147483647) + np.uint32(seed * 974634721 & 0xFFFFFFFF)
        mixed = (mixed ^ (mixed >> np.uint32(13))) * np.uint32(1274126177)
        mixed = (mixed ^ (mixed >> np.uint32(16))) * np.uint32(2246822519)
        return mixed ^ (mixed >> np.uint32(15))


def gradient_noise(points: np.ndarray, seed: int = 0) -> np.ndarray:
    """Smooth noise [N] in about [-1, 1] at ``points`` [N, 3], one feature per unit (Perlin 2002)."""
    shifted = np.asarray(points, float) + _SHIFT
    cell = np.floor(shifted).astype(np.int64)
    offset = shifted - cell
    fade = offset**3 * (offset * (offset * 6 - 15) + 10)
    total = np.zeros(len(shifted))
    for corner in np.ndindex(2, 2, 2):
        at = cell + corner
        gradient = _GRADIENTS[_hash(at[:, 0], at[:, 1], at[:, 2], seed) % 12]
        weight = np.prod(np.where(corner, fade, 1 - fade), axis=1)
        total += weight * (gradient * (offset - corner)).sum(1)
    return total


def fractal_noise(points: np.ndarray, seed: int = 0, octaves: int = 3) -> np.ndarray:
    """Octaves of gradient noise [N]: each twice as fine and half as strong."""
    layers = [gradient_noise(np.asarray(points) * 2**k, seed + k) * 0.5**k for k in range(octaves)]
    return np.sum(layers, axis=0)


def ridged_noise(points: np.ndarray, seed: int = 0) -> np.ndarray:
    """Noise [N] with sharp crests at 1, like creases in cloth."""
    return 1 - 2.2 * np.abs(gradient_noise(points, seed))


def smoothstep(start: float, stop: float, value: np.ndarray) -> np.ndarray:
    """0 before ``start``, 1 after ``stop`` (which may be smaller), a cubic between."""
    t = np.clip((value - start) / (stop - start), 0, 1)
    return t * t * (3 - 2 * t)


def bump(value: np.ndarray, centre: float, width: float) -> np.ndarray:
    """A Gaussian of height 1 around ``centre``."""
    return np.exp(-(((value - centre) / width) ** 2))
