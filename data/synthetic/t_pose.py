"""From Anny's bones to the 24 joints: which bone belongs to which joint, and the T-pose."""

import numpy as np
from scipy.spatial.transform import Rotation

from body_models.skeleton import JOINT_NAMES
from data.synthetic.anny_source import AnnyShapes

_MIDDLE = {"root": "pelvis", "pelvis": "pelvis", "spine05": "pelvis", "spine04": "spine1", "spine03": "spine2",
           "spine02": "spine3", "spine01": "spine3", "neck01": "neck", "neck02": "neck", "neck03": "neck",
           "head": "head", "eye": "head"}  # fmt: skip
_LIMBS = {"upperleg": "hip", "lowerleg": "knee", "foot": "ankle", "toe": "foot", "clavicle": "collar",
          "shoulder": "collar", "upperarm": "shoulder", "lowerarm": "elbow", "wrist": "wrist", "metacarpal": "wrist",
          "finger1": "wrist", "finger": "hand"}  # fmt: skip
"""Beginnings of bone names; the first that fits counts (the thumb, finger1, moves with the wrist)."""

_HEADS_MIDDLE = {"pelvis": ("root",), "spine1": ("spine04",), "spine2": ("spine03",), "spine3": ("spine02",),
                 "neck": ("neck01",), "head": ("head",)}  # fmt: skip
_KNUCKLES = tuple(f"finger{finger}-1" for finger in (2, 3, 4, 5))
_HEADS_SIDE = {
    "hip": ("upperleg01",), "knee": ("lowerleg01",), "ankle": ("foot",),
    "foot": tuple(f"toe{toe}-1" for toe in range(1, 6)), "collar": ("clavicle",), "shoulder": ("upperarm01",),
    "elbow": ("lowerarm01",), "wrist": ("wrist",), "hand": _KNUCKLES,
}  # fmt: skip
"""Bones whose heads a joint lies at (their mean)."""

_CHEST_ABOVE_PELVIS = 0.22
"""SMPL's origin lies this many metres above the pelvis."""


def joint_of_bone(bone: str) -> int:
    """Index of the joint that moves with ``bone``.

    Raises:
        KeyError: the bone is not known.
    """
    stem = bone.split(".", maxsplit=1)[0]
    if stem in _MIDDLE:
        return JOINT_NAMES.index(_MIDDLE[stem])
    side = "left" if bone.endswith(".L") else "right"
    joint = next((joint for start, joint in _LIMBS.items() if stem.startswith(start)), None)
    if joint is None:
        raise KeyError(bone)
    return JOINT_NAMES.index(f"{side}_{joint}")


def joint_weights(shapes: AnnyShapes) -> np.ndarray:
    """Skinning weights [V, 24]: those of the bones, summed over each joint."""
    membership = np.zeros((len(shapes.bone_names), len(JOINT_NAMES)))
    for index, bone in enumerate(shapes.bone_names):
        membership[index, joint_of_bone(bone)] = 1
    weights = shapes.bone_weights @ membership
    return weights / weights.sum(1, keepdims=True)


def in_t_pose(shapes: AnnyShapes) -> tuple[np.ndarray, np.ndarray]:
    """All shapes in SMPL's rest pose, the origin in the chest.

    Returns:
        Vertices [N, V, 3] and joints [N, 24, 3] in metres.
    """
    poser = _BonePoser(shapes)
    for side, sign in (("L", 1.0), ("R", -1.0)):
        _straighten_arm(poser, side, sign)
        _straighten_leg(poser, side, sign)
    vertices, heads = poser.posed()
    joints = _joint_positions(heads, shapes.bone_names)
    origin = joints[:, 0].mean(0) + [0, _CHEST_ABOVE_PELVIS, 0]
    return vertices - origin, joints - origin


def _straighten_arm(poser: "_BonePoser", side: str, sign: float) -> None:
    """Arm out to the side, palm down."""
    count = len(poser.shapes.vertices)
    poser.rotate(f"clavicle.{side}", _about("z", np.full(count, sign * np.radians(7))))
    poser.point(f"upperarm01.{side}", [f"lowerarm01.{side}"], [sign, -0.02, -0.03])
    poser.point(f"lowerarm01.{side}", [f"wrist.{side}"], [sign, 0.0, 0.02])
    poser.point(f"wrist.{side}", [f"{knuckle}.{side}" for knuckle in _KNUCKLES], [sign, -0.05, 0.0])
    # The row of knuckles, index to little finger, must run backwards; half of the roll is in the forearm.
    row = poser.head(f"finger5-1.{side}") - poser.head(f"finger2-1.{side}")
    roll = np.arctan2(row[:, 1], -row[:, 2])
    poser.rotate(f"lowerarm02.{side}", _about("x", roll / 2))
    poser.rotate(f"wrist.{side}", _about("x", roll / 2))


def _straighten_leg(poser: "_BonePoser", side: str, sign: float) -> None:
    """Leg down, nearly vertical, as in SMPL's template."""
    poser.point(f"upperleg01.{side}", [f"lowerleg01.{side}"], [sign * 0.06, -1, 0.01])
    poser.point(f"lowerleg01.{side}", [f"foot.{side}"], [sign * 0.03, -1, -0.06])


class _BonePoser:
    """Turns bones, with everything that hangs from them, in all shapes at once."""

    def __init__(self, shapes: AnnyShapes) -> None:
        self.shapes = shapes
        count, bones = shapes.bone_heads.shape[:2]
        self.transforms = np.tile(np.eye(4), (count, bones, 1, 1))
        self._below: list[list[int]] = [[] for _ in range(bones)]
        for bone in range(bones):
            ancestor = bone
            while ancestor >= 0:
                self._below[ancestor].append(bone)
                ancestor = shapes.bone_parents[ancestor]

    def head(self, bone: str) -> np.ndarray:
        """Where the bone starts now, [N, 3]."""
        index = self.shapes.bone_names.index(bone)
        transform = self.transforms[:, index]
        return np.einsum("nij,nj->ni", transform[:, :3, :3], self.shapes.bone_heads[:, index]) + transform[:, :3, 3]

    def rotate(self, bone: str, rotations: np.ndarray) -> None:
        """Turn ``bone`` about its head by ``rotations`` [N, 3, 3]."""
        pivot = self.head(bone)
        turn = np.tile(np.eye(4), (len(pivot), 1, 1))
        turn[:, :3, :3] = rotations
        turn[:, :3, 3] = pivot - np.einsum("nij,nj->ni", rotations, pivot)
        below = self._below[self.shapes.bone_names.index(bone)]
        self.transforms[:, below] = turn[:, None] @ self.transforms[:, below]

    def point(self, bone: str, ends: list[str], direction: list[float]) -> None:
        """Turn ``bone`` so that the mean head of ``ends`` lies along ``direction`` from its own head."""
        now = np.mean([self.head(end) for end in ends], 0) - self.head(bone)
        self.rotate(bone, _rotation_between(now, np.array(direction, float)))

    def posed(self) -> tuple[np.ndarray, np.ndarray]:
        """Vertices [N, V, 3] and bone heads [N, B, 3]."""
        vertices = np.empty_like(self.shapes.vertices)
        for index, transforms in enumerate(self.transforms):
            blended = (self.shapes.bone_weights @ transforms.reshape(-1, 16)).reshape(-1, 4, 4)
            points = self.shapes.vertices[index]
            vertices[index] = np.einsum("vij,vj->vi", blended[:, :3, :3], points) + blended[:, :3, 3]
        heads = np.einsum("nbij,nbj->nbi", self.transforms[..., :3, :3], self.shapes.bone_heads)
        return vertices, heads + self.transforms[..., :3, 3]


def _joint_positions(heads: np.ndarray, bones: tuple[str, ...]) -> np.ndarray:
    """Joints [N, 24, 3] from bone heads [N, B, 3]."""
    joints = []
    for name in JOINT_NAMES:
        side, _, limb = name.partition("_")
        sources = _HEADS_MIDDLE.get(name) or [f"{bone}.{side[0].upper()}" for bone in _HEADS_SIDE[limb]]
        joints.append(heads[:, [bones.index(source) for source in sources]].mean(1))
    return np.stack(joints, 1)


def _about(axis: str, angles: np.ndarray) -> np.ndarray:
    return Rotation.from_euler(axis, angles[:, None]).as_matrix()


def _rotation_between(vectors: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Smallest rotations [N, 3, 3] from ``vectors`` [N, 3] to the direction of ``target`` [3]."""
    start = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    stop = np.broadcast_to(target / np.linalg.norm(target), start.shape)
    axis, cosine = np.cross(start, stop), (start * stop).sum(-1)
    cross = np.cross(axis[:, None, :], np.eye(3)).transpose(0, 2, 1)  # columns a x e_i
    return np.eye(3) + cross + cross @ cross / (1 + cosine)[:, None, None]
