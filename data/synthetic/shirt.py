"""A T-shirt: hanging body and sleeves, folds, printed stripes, an emblem in front, squares on the back."""

from dataclasses import replace

import numpy as np

from data.synthetic.noise import fractal_noise, gradient_noise, ridged_noise, smoothstep
from data.synthetic.surface import Surface, clipped, hemmed, relaxed, subdivided
from data.synthetic.tailoring import Mannequin, Palette, Piece, blended, finished, hang, stripe

_ARM_JOINTS = ("left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist")
_HAND_JOINTS = ("left_hand", "right_hand")


def sleeve_end(body: Mannequin) -> float:
    """Distance in metres from the middle of the body at which the sleeves end."""
    shoulder, elbow = body.at("left_shoulder")[0], body.at("left_elbow")[0]
    return float(shoulder + 0.62 * (elbow - shoulder))


def shirt(body: Mannequin, palette: Palette) -> Piece:
    """A cut, folded and printed T-shirt."""
    cloth = subdivided(_loose_shirt(body), 2)
    cloth = clipped(cloth, _outside(body, cloth))
    cloth = cloth.moved(cloth.normals() * _folds(body, cloth)[:, None])
    cloth = hemmed(cloth, 0.004)
    return finished("shirt", cloth, _printed(body, cloth, palette), 0.86)


def _hem_height(body: Mannequin) -> float:
    return body.at("left_hip")[1] - 0.045


def _chest_line(body: Mannequin) -> float:
    """z that parts front from back."""
    return body.at("spine3")[2] + 0.01


def _loose_shirt(body: Mannequin) -> Surface:
    """The tights, widened downwards; the body hangs from the chest, the sleeves from the shoulders."""
    cloth = body.loose_tights(10)
    hip, chest = body.at("left_hip"), body.at("spine3")
    width = 0.012 + 0.009 * smoothstep(chest[1], hip[1], cloth.vertices[:, 1])
    vertices = cloth.vertices + cloth.normals() * width[:, None]
    arm = np.clip(body.share(cloth, *_ARM_JOINTS, *_HAND_JOINTS), 0, 1)
    trunk = (arm < 0.45) & (vertices[:, 1] > hip[1] - 0.16)
    origin = np.array([0, body.at("neck")[1], _chest_line(body)])
    fall = hang(vertices[trunk], origin, np.array([0, -1.0, 0]), 0.09)
    amount = smoothstep(0.10, 0.26, fall.along) * (1 - smoothstep(0.25, 0.45, arm[trunk]))
    vertices[trunk] += fall.outward * (0.85 * fall.gap * amount)[:, None]
    for side, sign in (("left", 1), ("right", -1)):
        outwards = vertices[:, 0] * sign
        own = (outwards > body.at("left_shoulder")[0] - 0.01) & (arm > 0.3) & (outwards < body.at("left_elbow")[0])
        shoulder = body.at(f"{side}_shoulder")
        fall = hang(vertices[own], shoulder, body.at(f"{side}_elbow") - shoulder, 0.02)
        # Sleeves stand off below more than above.
        below = np.clip(-fall.outward[:, 1], 0, 1)
        wide = (0.9 * fall.gap + 0.006 + 0.014 * below) * smoothstep(-0.02, 0.08, fall.along)
        vertices[own] += fall.outward * wide[:, None]
    return replace(cloth, vertices=relaxed(vertices, body.tights_average, 4))


def _outside(body: Mannequin, cloth: Surface) -> np.ndarray:
    """Positive [V] where there is no shirt: below the hem, beyond the sleeves, inside the neckline."""
    x, y, z = cloth.vertices.T
    neck, hip = body.at("neck"), body.at("left_hip")
    opening = (cloth.vertices - _neck_centre(body)) / [0.084, 0.080, 0.108]
    neckline = 0.08 * (1 - np.linalg.norm(opening, axis=1))
    above_collar = np.where(np.abs(x) < 0.12, y - (neck[1] + 0.012 - 0.25 * (z - neck[2])), -1)
    hem = _hem_height(body) + 0.010 * np.cos(8 * x) - y
    outside = np.maximum.reduce([hem, np.abs(x) - sleeve_end(body), neckline, above_collar])
    return np.where(y < hip[1] - 0.2, 1, outside)


def _neck_centre(body: Mannequin) -> np.ndarray:
    return body.at("neck") + [0, -0.020, 0.022]


def _folds(body: Mannequin, cloth: Surface) -> np.ndarray:
    """Offsets [V] in metres: waist and drape of the body, armpits, sleeves."""
    points = cloth.vertices
    x, y, z = points.T
    width = np.abs(x)
    spine1, spine2, spine3 = (body.at(name)[1] for name in ("spine1", "spine2", "spine3"))
    shoulder, hem = body.at("left_shoulder"), _hem_height(body)
    on_arm = smoothstep(0.16, 0.24, width)
    wobble = 0.025 * gradient_noise(points * 7, 31)
    at_waist = smoothstep(hem - 0.02, hem + 0.10, y) * smoothstep(spine3 + 0.12, spine1, y)
    draped = smoothstep(spine2 + 0.05, hem, y)
    around = np.arctan2(x, z - _chest_line(body))
    armpit = np.exp(-(((width - 0.95 * shoulder[0]) / 0.07) ** 2) - ((y - shoulder[1] + 0.09) / 0.08) ** 2)
    creases = ridged_noise(points * [8, 5, 8] + wobble[:, None] * 12, 35) - 0.5
    on_trunk = (
        0.0032 * at_waist * np.sin((y + wobble + 0.25 * width * np.sign(z)) * 95)
        + 0.0055 * draped * np.sin(around * 9 + gradient_noise(points * [4, 2, 4], 33) * 6)
        + 0.0045 * creases * smoothstep(spine3 + 0.2, spine3, y)
        + 0.0015 * gradient_noise(points * [26, 16, 26], 36)
    )
    on_sleeve = 0.0032 * np.sin((width + wobble * 0.8) * 120 + y * 20 + z * 12)
    on_sleeve += 0.0022 * (ridged_noise(points * [7, 9, 9], 37) - 0.5)
    at_armpit = 0.004 * armpit * np.sin((width - 0.9 * y + wobble) * 115)
    return (1 - on_arm) * on_trunk + at_armpit + on_arm * on_sleeve


def _printed(body: Mannequin, cloth: Surface, palette: Palette) -> np.ndarray:
    """Albedo [V, 3]: chest stripes, dark sleeves with light rings, emblem, squares, collar."""
    points = cloth.vertices
    x, y, _ = points.T
    width = np.abs(x)
    chest, shoulder = body.at("spine3")[1], body.at("left_shoulder")[0]
    light, dark = palette.shirt_light, palette.shirt_dark
    arm = body.share(cloth, *_ARM_JOINTS)
    albedo = np.tile(palette.shirt, (len(points), 1))
    for low, high, colour in ((0.02, 0.07, light), (-0.035, 0.008, dark), (-0.06, -0.047, light)):
        albedo = blended(albedo, colour, stripe(chest + low, chest + high, y) * (arm < 0.5))
    sleeve = smoothstep(0.50, 0.53, arm) * smoothstep(shoulder - 0.05, shoulder - 0.03, width)
    albedo = blended(albedo, dark, sleeve)
    end = sleeve_end(body)
    for low, high in ((-0.028, -0.018), (-0.044, -0.036)):
        albedo = blended(albedo, light, stripe(end + low, end + high, width))
    albedo[_emblem(body, points) | _squares(body, points)] = light
    collar = np.linalg.norm((points - _neck_centre(body)) / [0.096, 0.092, 0.120], axis=1) < 1
    albedo[collar] = dark
    return albedo * (1 + 0.10 * fractal_noise(points * 60, 41, 2))[:, None]


def _emblem(body: Mannequin, points: np.ndarray) -> np.ndarray:
    """A ring around a five-pointed star, on the chest."""
    x, y, z = points.T
    up = y - (body.at("spine2")[1] - 0.035)
    radius, angle = np.hypot(x, up), np.arctan2(x, up)
    star = radius < 0.030 * (0.62 + 0.38 * np.cos(5 * angle))
    return (star | (np.abs(radius - 0.046) < 0.005)) & (z > _chest_line(body))


def _squares(body: Mannequin, points: np.ndarray) -> np.ndarray:
    """A chequered panel on the back."""
    x, y, z = points.T
    panel = (z < _chest_line(body)) & (y < body.at("spine2")[1]) & (y > body.at("spine1")[1] - 0.03)
    return panel & (np.abs(x) < 0.10) & ((np.floor(x / 0.02) + np.floor(y / 0.02)) % 2 == 0)
