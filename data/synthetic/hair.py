"""Short hair: a shell over the scalp with grooves like strands."""

from dataclasses import replace

import numpy as np

from body_models.skeleton import JOINT_NAMES
from data.synthetic.noise import gradient_noise, smoothstep
from data.synthetic.surface import Surface, clipped, hemmed, neighbour_average, part_of, subdivided
from data.synthetic.tailoring import Mannequin, Palette, Piece, finished


def above_hairline(body: Mannequin, points: np.ndarray) -> np.ndarray:
    """[N] height in metres of ``points`` above the hairline: it rises over the forehead and falls to the nape."""
    x, y, z = points.T
    centre = body.head_centre
    forehead = 0.9 * np.clip(centre[2] + 0.050 - z, 0, 0.055)
    nape = 0.105 * smoothstep(centre[2] + 0.015, centre[2] - 0.05, z)
    waves = 0.012 * np.cos(60 * x) * (z > centre[2] + 0.05)
    return y - (body.eye_height + 0.066) + forehead + nape + waves


def hair(body: Mannequin, palette: Palette) -> Piece:
    """The shell, thick on top and thin at the line, free of the ears."""
    shell = _scalp(body)
    above = shell.fields["above"]
    normals = _smooth_normals(shell)
    from_centre = shell.vertices - body.head_centre
    x, y, z = from_centre.T
    strands = _strands(from_centre)
    parting = np.exp(-(((x - 0.03) / 0.06) ** 2))
    thickness = 0.002 + 0.014 * smoothstep(0, 0.05, above) + 0.012 * smoothstep(0.02, 0.09, y) * (z > -0.03) * parting
    thickness += 0.0016 * strands * smoothstep(0, 0.02, above)
    thickness += 0.004 * gradient_noise(from_centre * 22, 64) * smoothstep(0, 0.03, above)
    shell = shell.moved(normals * thickness[:, None]).with_field("strands", strands)
    shell = hemmed(shell, 0.006)
    albedo = palette.hair * (1 + 0.28 * np.tanh(shell.fields["strands"]))[:, None]
    # Half stiff: hair follows the head more than the neck's skin does.
    weights = 0.5 * shell.weights
    weights[:, JOINT_NAMES.index("head")] += 0.5
    return finished("hair", replace(shell, weights=weights), albedo, 0.42)


def _scalp(body: Mannequin) -> Surface:
    """The skin above the hairline, finely subdivided; field ``above`` is the distance to the line."""
    skin = body.skin
    on_head = body.share(skin, "head") > 0.5
    faces = skin.faces[on_head[skin.faces].all(1)]
    above = np.minimum(above_hairline(body, skin.vertices), _clear_of_ears(body, skin.vertices))
    # Vertices of other parts of the body stay out whatever their height.
    reached = np.full(len(above), -1.0)
    reached[np.unique(faces)] = above[np.unique(faces)]
    faces = faces[(reached[faces] > -0.03).any(1)]
    scalp = subdivided(part_of(skin.with_field("above", reached), faces), 2)
    return clipped(scalp, -scalp.fields["above"])


def _clear_of_ears(body: Mannequin, points: np.ndarray) -> np.ndarray:
    """Positive [N] where hair may grow: around the ear, and behind the jaw."""
    x, y, z = points.T
    ear = body.ear_centre
    ring = 0.03 * (np.hypot((y - ear[1]) / 0.040, (z - ear[2]) / 0.030) - 1) + (np.abs(x) < 0.05)
    jaw = y - (ear[1] - 0.012) + 0.44 * np.clip(ear[2] - z, 0, 0.2)
    return np.minimum(ring, np.where(z > ear[2] - 0.012, jaw, 1))


def _smooth_normals(shell: Surface) -> np.ndarray:
    normals = shell.normals()
    average = neighbour_average(shell.faces, len(normals))
    for _ in range(20):
        normals = average @ normals
    return normals / np.linalg.norm(normals, axis=1, keepdims=True)


def _strands(from_centre: np.ndarray) -> np.ndarray:
    """[V] grooves that follow the direction in which the hair is combed, from a parting on the left."""
    x, y, z = from_centre.T
    azimuth = np.arctan2(x, z + 0.02)
    elevation = np.arctan2(y, np.hypot(x, z))
    side = np.clip((x - 0.025) / 0.02, -1, 1)
    flow = 6 * azimuth + 2.2 * gradient_noise(from_centre * 9, 61) + 1.5 * side
    fine = 0.6 * np.sin(17 * flow + 3 * gradient_noise(from_centre * 25, 62))
    along = gradient_noise(np.stack([9 * flow, 5 * elevation, 3 * azimuth], 1), 63)
    return np.sin(7 * flow) + fine + 0.5 * along
