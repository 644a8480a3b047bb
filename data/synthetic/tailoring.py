"""What all clothes share: the mannequin they are cut on, palettes, hanging cloth."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_matrix

from body_models.skeleton import JOINT_NAMES
from data.synthetic.body_fit import BaseMesh
from data.synthetic.noise import smoothstep
from data.synthetic.surface import Surface, neighbour_average, part_of, relaxed, subdivided

ALBEDO_RANGE = (0.01, 0.95)
ROUGHNESS_RANGE = (0.08, 1.0)


def srgb(red: float, green: float, blue: float) -> np.ndarray:
    """Linear colour [3] of an 8-bit sRGB one."""
    encoded = np.array([red, green, blue]) / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


@dataclass(frozen=True)
class Palette:
    """Linear colours of one outfit."""

    trousers: np.ndarray
    shirt: np.ndarray
    shirt_light: np.ndarray
    shirt_dark: np.ndarray
    shoes: np.ndarray
    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray


PALETTES = (
    Palette(srgb(62, 74, 104), srgb(196, 52, 44), srgb(232, 226, 212), srgb(36, 58, 92), srgb(58, 60, 64),
            srgb(205, 150, 120), srgb(58, 36, 24), srgb(60, 92, 120)),
    Palette(srgb(150, 126, 92), srgb(60, 120, 96), srgb(228, 214, 170), srgb(40, 40, 46), srgb(110, 50, 40),
            srgb(132, 88, 62), srgb(26, 22, 22), srgb(84, 60, 38)),
)  # fmt: skip


@dataclass(frozen=True)
class Piece:
    """One finished piece of the subject."""

    name: str
    surface: Surface
    albedo: np.ndarray
    """[V, 3] linear."""
    roughness: np.ndarray
    """[V] perceptual."""


def finished(name: str, surface: Surface, albedo: np.ndarray, roughness: np.ndarray | float) -> Piece:
    """A piece with materials within physical bounds."""
    count = len(surface.vertices)
    colours = np.clip(np.broadcast_to(albedo, (count, 3)), *ALBEDO_RANGE)
    return Piece(name, surface, colours, np.clip(np.broadcast_to(roughness, count), *ROUGHNESS_RANGE))


def blended(albedo: np.ndarray, colour: np.ndarray, amount: np.ndarray) -> np.ndarray:
    """``albedo`` [V, 3] painted over with ``colour`` where ``amount`` [V] is 1."""
    return albedo * (1 - amount[:, None]) + colour * amount[:, None]


@dataclass(frozen=True)
class Mannequin:
    """A shaped body with the helper surfaces of the base mesh."""

    base: BaseMesh
    vertices: np.ndarray
    """[V, 3] of the base mesh, metres."""
    joints: np.ndarray
    """[24, 3]."""

    def at(self, joint: str) -> np.ndarray:
        """[3] position of a joint."""
        return self.joints[JOINT_NAMES.index(joint)]

    def share(self, surface: Surface, *joints: str) -> np.ndarray:
        """[V] summed skinning weight of ``joints``."""
        return surface.weights[:, [JOINT_NAMES.index(joint) for joint in joints]].sum(1)

    def group(self, name: str) -> Surface:
        """A named surface of the base mesh."""
        return part_of(self._whole, self.base.groups[name])

    @cached_property
    def skin(self) -> Surface:
        """The skin, once subdivided."""
        return subdivided(part_of(self._whole, self.base.body_faces))

    @cached_property
    def tights(self) -> Surface:
        """The helper surface around the body that clothes are cut from, once subdivided."""
        return subdivided(self.group("helper-tights"))

    @cached_property
    def tights_average(self) -> csr_matrix:
        """Averages the neighbours of each vertex of the tights."""
        return neighbour_average(self.tights.faces, len(self.tights.vertices))

    def loose_tights(self, steps: int) -> Surface:
        """The tights without the body's small forms: ``steps`` of relaxation."""
        moved = relaxed(self.tights.vertices, self.tights_average, steps)
        return Surface(moved, self.tights.weights, self.tights.faces)

    @cached_property
    def eyes(self) -> tuple[np.ndarray, np.ndarray]:
        """Centres [3] of the left and the right eye (mean over face corners)."""
        centres = [self.vertices[self._corners(f"helper-{side}-eye")].mean(0) for side in ("l", "r")]
        return centres[0], centres[1]

    @cached_property
    def head_centre(self) -> np.ndarray:
        """[3] the middle of the head, a little above the eyes."""
        head = self._head_vertices
        return np.array([0, self.eye_height + 0.03, head[:, 2].mean()])

    @property
    def eye_height(self) -> float:
        """y of the eyes."""
        return float(np.mean(self.eyes, 0)[1])

    @cached_property
    def ear_centre(self) -> np.ndarray:
        """[3] the left ear: the sixty outermost vertices of the head."""
        head = self._head_vertices
        outermost = head[np.argsort(head[:, 0])[-59:]]
        return outermost.mean(0) + [0, -0.006, 0.004]

    @cached_property
    def _head_vertices(self) -> np.ndarray:
        skin = np.unique(self.base.body_faces)
        return self.vertices[skin[self.base.weights[skin, JOINT_NAMES.index("head")] > 0.9]]

    @cached_property
    def _whole(self) -> Surface:
        return Surface(self.vertices, self.base.weights, self.base.body_faces)

    def _corners(self, group: str) -> np.ndarray:
        return np.unique(self.base.groups[group])


@dataclass(frozen=True)
class Hanging:
    """Where cloth hangs around a line, for each of N points."""

    along: np.ndarray
    """[N] metres along the line."""
    outward: np.ndarray
    """[N, 3] unit, away from the line."""
    gap: np.ndarray
    """[N] metres between the point and the hanging cloth, not negative."""


def hang(points: np.ndarray, origin: np.ndarray, axis: np.ndarray, slope: float) -> Hanging:
    """How far cloth hangs away from ``points`` [N, 3] around the line from ``origin`` along ``axis``.

    Along the line, the radius of the cloth may not shrink faster than ``slope`` metres per metre: it bridges hollows
    and falls from the widest place, as cloth does under its weight. Works on a grid of angles and heights.
    """
    sectors, rings = 96, 160
    direction = axis / np.linalg.norm(axis)
    along = (points - origin) @ direction
    across = points - origin - along[:, None] * direction
    radius = np.linalg.norm(across, axis=1)
    first = np.cross(direction, [0.3, 0.2, 1.0])
    first /= np.linalg.norm(first)
    turn = (np.arctan2(across @ np.cross(direction, first), across @ first) + np.pi) / (2 * np.pi) * sectors
    heights = np.linspace(along.min(), along.max(), rings)
    step = heights[1] - heights[0]
    grid = np.zeros((rings, sectors))
    ring = np.clip(np.searchsorted(heights, along) - 1, 0, rings - 1)
    np.maximum.at(grid, (ring, turn.astype(int) % sectors), radius)
    hung = gaussian_filter(_fall(_without_holes(grid), slope * step), (3, 3), mode=("nearest", "wrap"))
    at_points = _bilinear(hung, (along - heights[0]) / step, turn - 0.5)
    outward = across / np.maximum(radius, 1e-6)[:, None]
    return Hanging(along, outward, np.maximum(at_points - radius, 0))


def _without_holes(grid: np.ndarray) -> np.ndarray:
    """Cells without a point take the largest radius beside them."""
    for _ in range(6):
        above, below = np.vstack([grid[:1], grid[:-1]]), np.vstack([grid[1:], grid[-1:]])
        around = np.stack([np.roll(grid, 1, 1), np.roll(grid, -1, 1), above, below])
        grid = np.where(grid == 0, around.max(0), grid)
    return grid


def _fall(grid: np.ndarray, drop: float) -> np.ndarray:
    hung = grid.copy()
    for ring in range(1, len(hung)):
        hung[ring] = np.maximum(hung[ring], hung[ring - 1] - drop)
    return hung


def _bilinear(grid: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Values [N] of ``grid`` at fractional rows (clamped) and columns (periodic)."""
    rows, columns = grid.shape
    row = np.clip(row, 0, rows - 1.001)
    top, left = row.astype(int), np.floor(column).astype(int)
    t, s = row - top, column - left
    left, right = left % columns, (left + 1) % columns
    upper = grid[top, left] * (1 - s) + grid[top, right] * s
    lower = grid[top + 1, left] * (1 - s) + grid[top + 1, right] * s
    return upper * (1 - t) + lower * t


def stripe(low: float, high: float, value: np.ndarray, softness: float = 0.0015) -> np.ndarray:
    """1 between ``low`` and ``high``, 0 outside, soft edges."""
    return smoothstep(low - softness, low + softness, value) * (1 - smoothstep(high - softness, high + softness, value))
