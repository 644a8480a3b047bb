"""Trousers: hanging legs, folds, seams, pockets, a belt."""

from dataclasses import replace

import numpy as np

from data.synthetic.noise import bump, fractal_noise, gradient_noise, ridged_noise, smoothstep
from data.synthetic.surface import Surface, clipped, hemmed, relaxed, subdivided
from data.synthetic.tailoring import Mannequin, Palette, Piece, finished, hang, srgb

_BELT, _BUCKLE, _THREAD = srgb(70, 42, 26), srgb(190, 186, 175), srgb(190, 140, 70)
_BELT_HEIGHT = 0.036


def trousers(body: Mannequin, palette: Palette) -> Piece:
    """Cut, folded and dyed trousers."""
    waist, ankle = body.at("pelvis")[1] + 0.055, body.at("left_ankle")[1] + 0.045
    cloth = subdivided(_loose_legs(body), 2)
    x, y, _ = cloth.vertices.T
    cloth = clipped(cloth, np.maximum.reduce([y - waist, ankle - y, np.abs(x) - 0.42]))
    cloth = cloth.moved(cloth.normals() * _folds(body, cloth, ankle)[:, None])
    cloth = hemmed(cloth, 0.004)
    albedo = _dyed(body, cloth, palette, waist, ankle)
    x, y, z = cloth.vertices.T
    belt = y > waist - _BELT_HEIGHT
    buckle = belt & (np.abs(x) < 0.024) & (z > body.at("pelvis")[2])
    albedo[belt], albedo[buckle] = _BELT, _BUCKLE
    return finished("trousers", cloth, albedo, np.select([buckle, belt], [0.25, 0.38], 0.82))


def _loose_legs(body: Mannequin) -> Surface:
    """The tights, widened from the hips down, each leg falling from its widest place."""
    cloth = body.loose_tights(14)
    hip, knee = body.at("left_hip"), body.at("left_knee")
    width = 0.004 + 0.011 * smoothstep(hip[1] - 0.08, knee[1], cloth.vertices[:, 1])
    vertices = cloth.vertices + cloth.normals() * width[:, None]
    for side in ("left", "right"):
        leg = body.share(cloth, *(f"{side}_{joint}" for joint in ("hip", "knee", "ankle", "foot")))
        own = (leg > 0.5) & (vertices[:, 1] < hip[1] - 0.06)
        top = body.at(f"{side}_hip")
        fall = hang(vertices[own], top, body.at(f"{side}_ankle") - top, 0.10)
        vertices[own] += fall.outward * (0.9 * fall.gap * smoothstep(0.05, 0.30, fall.along))[:, None]
    return replace(cloth, vertices=relaxed(vertices, body.tights_average, 3))


def _folds(body: Mannequin, cloth: Surface, ankle: float) -> np.ndarray:
    """Offsets [V] in metres: stacked folds above the ankle, creases at knee and crotch, a fine weave of wrinkles."""
    points = cloth.vertices
    x, y, z = points.T
    hip, knee = body.at("left_hip"), body.at("left_knee")
    stacked = smoothstep(ankle + 0.16, ankle, y)
    at_knee = bump(y, knee[1], 0.09)
    at_crotch = bump(y, hip[1] - 0.05, 0.07) * (z > -0.02)
    wobble = 0.02 * gradient_noise(points * 6, 5)
    sideways = np.abs(x) - knee[0]
    folds = (
        0.0045 * stacked * np.sin((y + wobble) * 150 + sideways * 18 + z * 8)
        + 0.0028 * at_knee * np.sin((y + wobble * 1.4) * 110 - z * 25)
        + 0.003 * at_crotch * np.sin((np.abs(x) + (y - hip[1]) * 0.6 + wobble) * 120)
        + 0.0021 * ridged_noise(points * [9, 5, 9] + wobble[:, None] * 20, 11)
        + 0.0012 * gradient_noise(points * [30, 18, 30], 12)
    )
    # Held flat by the belt.
    return folds * (0.12 + 0.88 * smoothstep(hip[1] - 0.02, hip[1] - 0.12, y))


def _dyed(body: Mannequin, cloth: Surface, palette: Palette, waist: float, ankle: float) -> np.ndarray:
    """Albedo [V, 3]: washed-out thighs, side seams in another thread, fly, pockets, hems."""
    points = cloth.vertices
    x, y, z = points.T
    hip, knee, foot, pelvis = body.at("left_hip"), body.at("left_knee"), body.at("left_ankle"), body.at("pelvis")
    in_front = z > pelvis[2]
    worn = smoothstep(0, 0.06, z - pelvis[2]) * bump(y, knee[1] + 0.16, 0.16)
    albedo = palette.trousers * (1 + 0.22 * fractal_noise(points * [40, 14, 40], 21) + 0.45 * worn)[:, None]
    down = (hip[1] - y) / (hip[1] - foot[1])
    off_seam = z - (hip[2] + (foot[2] - hip[2]) * down)
    outside = np.abs(x) - np.interp(-y, [-hip[1], -foot[1]], [hip[0], foot[0]])
    seam = bump(off_seam, 0, 0.0035) * smoothstep(0, 0.02, outside)
    albedo = albedo * (1 - 0.35 * seam[:, None]) + _THREAD * (0.30 * seam[:, None])
    fly = bump(x, 0, 0.003) * in_front * smoothstep(hip[1] - 0.03, hip[1], y)
    albedo *= (1 - 0.4 * fly)[:, None]
    pocket = np.abs(np.hypot(np.abs(x) - 0.15, 0.9 * (y - waist + 0.01)) - 0.075) < 0.003
    albedo[pocket & in_front & (y < waist - 0.03)] *= 0.6
    albedo[y < ankle + 0.022] *= 0.85
    return albedo
