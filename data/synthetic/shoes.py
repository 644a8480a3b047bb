"""Shoes: flat soles, laces, stiff toes."""

from dataclasses import replace

import numpy as np

from body_models.skeleton import JOINT_NAMES
from data.synthetic.noise import bump
from data.synthetic.surface import Surface, clipped, hemmed, subdivided
from data.synthetic.tailoring import Mannequin, Palette, Piece, finished, srgb

_SOLE, _LACE = srgb(225, 222, 214), srgb(215, 215, 210)
_LACE_PITCH = 0.016


def shoe_top(body: Mannequin) -> float:
    """Height y in metres at which the shoes end."""
    return float(body.at("left_ankle")[1] + 0.012)


def shoes(body: Mannequin, palette: Palette) -> Piece:
    """A pair of laced shoes."""
    tights = body.tights
    feet = body.share(tights, "left_ankle", "right_ankle", "left_foot", "right_foot") > 0.5
    ground = tights.vertices[feet, 1].min() - 0.010
    loose = body.loose_tights(6)
    shoe = subdivided(loose.moved(0.0065 * loose.normals()), 2)
    x, y, z = shoe.vertices.T
    opening = y - (shoe_top(body) + 0.25 * np.clip(body.at("left_ankle")[2] - z, -0.05, 0.02))
    shoe = _stiff(clipped(shoe, np.where(np.abs(x) > 0.45, 1, opening)))
    shoe = _flat_sole(shoe, ground)
    # The lace is laid along the normals of the shoe before its rim is drawn out.
    shoe = _laced(body, shoe, ground)
    shoe = hemmed(shoe, 0.004)
    sole, lace = shoe.vertices[:, 1] < ground + 0.030, shoe.fields["lace"] > 0.5
    albedo = np.tile(palette.shoes, (len(shoe.vertices), 1))
    albedo[sole], albedo[lace] = _SOLE, _LACE
    return finished("shoes", shoe, albedo, np.where(sole, 0.6, 0.42))


def _stiff(shoe: Surface) -> Surface:
    """Half of the toes' movement goes to the ankle."""
    weights = shoe.weights.copy()
    for side in ("left", "right"):
        ankle, foot = JOINT_NAMES.index(f"{side}_ankle"), JOINT_NAMES.index(f"{side}_foot")
        weights[:, ankle] += 0.5 * weights[:, foot]
        weights[:, foot] *= 0.5
    return replace(shoe, weights=weights)


def _flat_sole(shoe: Surface, ground: float) -> Surface:
    """Everything below the edge of the sole is pressed onto the ground."""
    vertices = shoe.vertices.copy()
    y = vertices[:, 1]
    vertices[:, 1] = np.where(y < ground + 0.014, ground + 0.25 * (y - ground), y)
    return replace(shoe, vertices=vertices)


def _laced(body: Mannequin, shoe: Surface, ground: float) -> Surface:
    """The rim of the sole stands out, laces lie across the instep; adds the field ``lace``."""
    normals = shoe.normals()
    rim = 0.006 * bump(shoe.vertices[:, 1], ground + 0.018, 0.010)
    vertices = shoe.vertices + normals * [1, 0, 1] * rim[:, None]
    x, y, z = vertices.T
    left, right = body.at("left_foot"), body.at("right_foot")
    aside = np.abs(x - 0.985 * np.where(x > 0, left[0], right[0]))
    back = z - left[2]
    instep = (aside < 0.024) & (back > -0.10) & (back < -0.005) & (y > ground + 0.05)
    lace = np.where(instep, 0.5 + 0.5 * np.sin(back * 2 * np.pi / _LACE_PITCH), 0)
    shoe = replace(shoe, vertices=vertices + normals * (0.0022 * lace)[:, None])
    return shoe.with_field("lace", lace)
