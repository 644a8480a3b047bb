"""Mesh decimation that keeps a subset of the vertices, so that every shape of the body can be decimated alike."""

import heapq

import numpy as np

_SHORT_EDGE = 2e-3
_LARGEST_TURN = 0.3
_THINNEST = 0.08


def decimate(
    vertices: np.ndarray, faces: np.ndarray, target: int, importance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Collapse edges of a closed surface until ``target`` vertices are left (quadric error, Garland and Heckbert 1997).

    An edge collapses onto one of its ends; the link condition keeps the surface closed and of the same genus.

    Args:
        vertices: [V, 3] metres.
        faces: [F, 3] closed, manifold.
        target: vertices to keep.
        importance: [V] multiplies the cost of removing a vertex; small values go first.

    Returns:
        Indices of the kept vertices [target], ascending, and faces [F', 3] over them.
    """
    mesh = _CollapsingMesh(vertices, faces, importance)
    for vertex in range(len(vertices)):
        mesh.propose(vertex)
    while len(mesh.alive) > target:
        mesh.collapse_cheapest()
    kept = np.array(sorted(mesh.alive))
    compact = np.full(len(vertices), -1)
    compact[kept] = np.arange(len(kept))
    return kept, compact[np.array([mesh.faces[face] for face in sorted(mesh.faces)])]


class _CollapsingMesh:
    """Connectivity, error quadrics and the queue of possible collapses."""

    def __init__(self, vertices: np.ndarray, faces: np.ndarray, importance: np.ndarray) -> None:
        self.vertices, self.importance = vertices, importance
        self.faces = {index: tuple(map(int, face)) for index, face in enumerate(faces)}
        self.faces_at: list[set[int]] = [set() for _ in vertices]
        for index, face in self.faces.items():
            for vertex in face:
                self.faces_at[vertex].add(index)
        self.alive = set(range(len(vertices)))
        self.quadrics = _plane_quadrics(vertices, faces)
        self.homogeneous = np.concatenate([vertices, np.ones((len(vertices), 1))], 1)
        self.version = [0] * len(vertices)
        self.queue: list[tuple[float, int, int, int]] = []

    def neighbours(self, vertex: int) -> set[int]:
        around = {other for face in self.faces_at[vertex] for other in self.faces[face]}
        around.discard(vertex)
        return around

    def propose(self, vertex: int) -> None:
        """Queue the four cheapest ways to remove ``vertex``."""
        ways = sorted((self._cost(vertex, onto), onto) for onto in self.neighbours(vertex))
        for cost, onto in ways[:4]:
            heapq.heappush(self.queue, (cost, self.version[vertex], vertex, onto))

    def _cost(self, removed: int, onto: int) -> float:
        point = self.homogeneous[onto]
        error = max(float(point @ (self.quadrics[removed] + self.quadrics[onto]) @ point), 0.0)
        length2 = float(((self.vertices[removed] - self.vertices[onto]) ** 2).sum())
        # The length term spreads collapses evenly over flat regions, where every error is zero.
        return (error + _SHORT_EDGE * length2**2 + 1e-13) * self.importance[removed]

    def collapse_cheapest(self) -> None:
        """Perform the cheapest queued collapse if it is still current and keeps the surface sound."""
        _, version, removed, onto = heapq.heappop(self.queue)
        if removed not in self.alive or onto not in self.alive or self.version[removed] != version:
            return
        changed = self._sound(removed, onto)
        if changed is None:
            return
        for face in list(self.faces_at[removed]):
            if onto in self.faces[face]:
                for vertex in self.faces.pop(face):
                    self.faces_at[vertex].discard(face)
        for face, corners in changed:
            self.faces[face] = corners
            self.faces_at[onto].add(face)
        self.faces_at[removed].clear()
        self.alive.discard(removed)
        self.quadrics[onto] += self.quadrics[removed]
        for vertex in [*self.neighbours(onto), onto]:
            self.version[vertex] += 1
            self.propose(vertex)

    def _sound(self, removed: int, onto: int) -> list[tuple[int, tuple[int, ...]]] | None:
        """The faces that change, or None if the collapse would fold, flip or pinch the surface."""
        around, across = self.neighbours(removed), self.neighbours(onto)
        shared = around & across
        if onto not in around or len(shared) != 2 or len(around | across) < 6:
            return None
        changed = []
        for face in self.faces_at[removed]:
            before = self.faces[face]
            if onto in before:
                continue
            after = tuple(onto if vertex == removed else vertex for vertex in before)
            if not self._keeps_shape(before, after):
                return None
            changed.append((face, after))
        return None if any(len(self.neighbours(vertex)) <= 3 for vertex in shared) else changed

    def _keeps_shape(self, before: tuple[int, ...], after: tuple[int, ...]) -> bool:
        old, new = self._cross(before), self._cross(after)
        area = np.linalg.norm(new)
        longest2 = max(((self.vertices[after[i]] - self.vertices[after[i - 1]]) ** 2).sum() for i in range(3))
        turned = new @ old < _LARGEST_TURN * area * np.linalg.norm(old)
        return not (area < 1e-10 or turned or area < _THINNEST * longest2)

    def _cross(self, face: tuple[int, ...]) -> np.ndarray:
        a, b, c = self.vertices[list(face)]
        return np.cross(b - a, c - a)


def _plane_quadrics(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """[V, 4, 4] sums of squared distances to the planes of the faces around, weighted by area."""
    corners = vertices[faces]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    twice_area = np.linalg.norm(cross, axis=1)
    unit = cross / np.maximum(twice_area, 1e-12)[:, None]
    plane = np.concatenate([unit, -(unit * corners[:, 0]).sum(1, keepdims=True)], 1)
    of_face = plane[:, :, None] * plane[:, None, :] * (twice_area / 2)[:, None, None]
    quadrics = np.zeros((len(vertices), 4, 4))
    for corner in range(3):
        np.add.at(quadrics, faces[:, corner], of_face)
    return quadrics
