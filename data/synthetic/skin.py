"""Skin that clothes leave bare, with a painted face, and the eyes."""

import numpy as np

from body_models.skeleton import JOINT_NAMES, JOINTS
from data.synthetic.hair import above_hairline
from data.synthetic.noise import bump, fractal_noise, smoothstep
from data.synthetic.shirt import sleeve_end
from data.synthetic.shoes import shoe_top
from data.synthetic.surface import Surface, part_of, subdivided
from data.synthetic.tailoring import Mannequin, Palette, Piece, blended, finished, srgb

_BROW, _SCALP, _EYE_WHITE = srgb(40, 26, 18), srgb(34, 22, 16), srgb(232, 226, 220)
_IRIS_RADIUS, _PUPIL_RADIUS = 0.0062, 0.0028


def skin(body: Mannequin, palette: Palette) -> Piece:
    """Head, arms and hands; what clothes hide is left out."""
    whole = body.skin
    x, y, _ = whole.vertices.T
    covered = (y < body.at("neck")[1] - 0.075) & (np.abs(x) < sleeve_end(body) - 0.05)
    covered &= y > body.at("left_ankle")[1] + 0.075
    in_shoes = (y < shoe_top(body) - 0.02) & (np.abs(x) < 0.45)
    bare = part_of(whole, whole.faces[~(covered | in_shoes)[whole.faces].all(1)])
    albedo = palette.skin * (1 + 0.06 * fractal_noise(bare.vertices * 60, 51))[:, None]
    albedo *= 1 - _flush(body, bare.vertices)[:, None] * [0.02, 0.22, 0.22]
    lips = _lips(body, bare.vertices)
    albedo = blended(albedo, palette.skin * [0.82, 0.48, 0.48], lips)
    for eye in body.eyes:
        albedo = blended(albedo, _BROW, 0.85 * _brow(body, bare.vertices, eye))
    scalp = smoothstep(-0.006, 0.004, above_hairline(body, bare.vertices)) * (body.share(bare, "head") > 0.5)
    albedo = blended(albedo, _SCALP, 0.8 * scalp)
    return finished("body", bare, albedo, np.where(lips > 0.5, 0.38, 0.52))


def eyes(body: Mannequin, palette: Palette) -> list[Piece]:
    """Two glossy eyeballs that move with the head."""
    pieces = []
    for side, centre in zip(("l", "r"), body.eyes):
        ball = subdivided(body.group(f"helper-{side}-eye"), 2)
        radius = np.hypot(*(ball.vertices - centre)[:, :2].T)
        in_front = ball.vertices[:, 2] > centre[2]
        albedo = np.tile(_EYE_WHITE, (len(radius), 1))
        albedo[(radius < _IRIS_RADIUS) & in_front] = palette.iris
        albedo[(radius < _PUPIL_RADIUS) & in_front] = 0.01
        weights = np.zeros((len(radius), JOINTS))
        weights[:, JOINT_NAMES.index("head")] = 1
        pieces.append(finished("eye", Surface(ball.vertices, weights, ball.faces), albedo, 0.1))
    return pieces


def _flush(body: Mannequin, points: np.ndarray) -> np.ndarray:
    """[V] redness of cheeks and nose."""
    x, y, z = points.T
    amount = np.zeros(len(points))
    for side in (1, -1):
        cheek = bump(x, side * 0.042, 0.022) * bump(y, body.eye_height - 0.042, 0.018)
        amount += 0.5 * cheek * (z > body.head_centre[2])
    nose = bump(x, 0, 0.012) * bump(y, body.eye_height - 0.040, 0.015)
    return amount + 0.35 * nose * (z > np.mean(body.eyes, 0)[2])


def _lips(body: Mannequin, points: np.ndarray) -> np.ndarray:
    """[V] 1 on the lips, found around the front of the mouth's cavity."""
    skin_vertices = int(body.base.body_faces.max()) + 1
    cavity = body.vertices[body.base.cavities[body.base.cavities < skin_vertices]]
    mouth = cavity[(np.abs(cavity[:, 0]) < 0.03) & (cavity[:, 1] < body.eye_height - 0.03)]
    height = mouth[mouth[:, 2] > np.percentile(mouth[:, 2], 88), 1].mean()
    x, y, z = points.T
    across = np.abs(x) / 0.026
    thickness = 0.0085 * np.clip(1.05 - 0.5 * across**2, 0.2, None)
    return smoothstep(1.15, 0.85, np.hypot(across, (y - height) / thickness)) * (z > body.head_centre[2] + 0.03)


def _brow(body: Mannequin, points: np.ndarray, eye: np.ndarray) -> np.ndarray:
    """[V] 1 on the eyebrow over ``eye``: an arch that thins outwards, with strands."""
    x, y, z = points.T
    outwards = (x - eye[0]) * np.sign(eye[0])
    arch = eye[1] + 0.021 + 0.004 * np.cos((outwards + 0.004) / 0.022 * 1.3)
    thickness = 0.0045 * (1 - 0.35 * smoothstep(0, 0.024, outwards))
    brow = smoothstep(1.2, 0.8, np.abs(y - arch) / thickness) * (z > body.head_centre[2])
    brow *= smoothstep(-0.020, -0.016, outwards) * smoothstep(0.028, 0.022, outwards)
    return brow * (0.75 + 0.25 * np.sin(x * 2500 + y * 900))
