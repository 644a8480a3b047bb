"""A skinned triangle surface and what tailoring needs: subdivision, cutting, hems, relaxing.

Every edit is a sparse matrix that makes the new vertices out of the old ones, so that positions, skinning weights and
fields all follow.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Surface:
    """Triangles with skinning weights and named scalar fields."""

    vertices: np.ndarray
    """[V, 3] metres."""
    weights: np.ndarray
    """[V, 24]."""
    faces: np.ndarray
    """[F, 3]."""
    fields: dict[str, np.ndarray] = field(default_factory=dict)
    """[V] each; they follow every edit."""

    def moved(self, offsets: np.ndarray) -> "Surface":
        """The surface with ``offsets`` [V, 3] metres added."""
        return replace(self, vertices=self.vertices + offsets)

    def normals(self) -> np.ndarray:
        """[V, 3] area-weighted unit normals."""
        return vertex_normals(self.vertices, self.faces)

    def with_field(self, name: str, values: np.ndarray) -> "Surface":
        """The surface with one more field."""
        return replace(self, fields={**self.fields, name: values})


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area-weighted unit normals [V, 3]."""
    corners = vertices[faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    total = np.zeros_like(vertices)
    for corner in range(3):
        for axis in range(3):
            total[:, axis] += np.bincount(faces[:, corner], face_normals[:, axis], len(vertices))
    return total / (np.linalg.norm(total, axis=1, keepdims=True) + 1e-12)


def part_of(surface: Surface, faces: np.ndarray) -> Surface:
    """The surface made of ``faces`` only, without the vertices they do not use."""
    used, compact = np.unique(faces, return_inverse=True)
    chosen = sparse.identity(len(surface.vertices), format="csr")[used]
    return _mapped(surface, chosen, compact.reshape(faces.shape))


def subdivided(surface: Surface, times: int = 1) -> Surface:
    """Loop subdivision (Loop 1987), with the usual rules for open boundaries."""
    for _ in range(times):
        matrix, faces = loop_subdivision(surface.faces, len(surface.vertices))
        surface = _mapped(surface, matrix, faces)
    return surface


def loop_subdivision(faces: np.ndarray, count: int) -> tuple[sparse.csr_matrix, np.ndarray]:
    """One step of Loop subdivision of a mesh with ``count`` vertices.

    Returns:
        Matrix [V', V] that makes the new vertices, and the new faces [4 F, 3].
    """
    edges, half_edge, on_boundary = _edges(faces)
    opposite = np.concatenate([faces[:, 2], faces[:, 0], faces[:, 1]])
    middle = count + np.arange(len(edges))
    rows, columns, values = [], [], []

    def put(row: np.ndarray, column: np.ndarray, value: np.ndarray | float) -> None:
        rows.append(row)
        columns.append(column)
        values.append(np.broadcast_to(value, row.shape))

    for end in (0, 1):
        put(middle, edges[:, end], np.where(on_boundary, 0.5, 0.375))
    inner = ~on_boundary[half_edge]
    put(middle[half_edge[inner]], opposite[inner], 0.125)
    at_boundary = np.zeros(count, bool)
    at_boundary[edges[on_boundary].ravel()] = True
    valence = np.bincount(edges.ravel(), minlength=count)
    ring = np.where(valence == 3, 3 / 16, 3 / (8 * np.maximum(valence, 1)))
    inside, border = np.flatnonzero(~at_boundary), np.flatnonzero(at_boundary)
    put(inside, inside, 1 - valence[inside] * ring[inside])
    put(border, border, 0.75)
    for this, other in ((0, 1), (1, 0)):
        free = ~at_boundary[edges[:, this]]
        put(edges[free, this], edges[free, other], ring[edges[free, this]])
        put(edges[on_boundary, this], edges[on_boundary, other], 0.125)
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    matrix = sparse.csr_matrix(entries, (count + len(edges), count))
    return matrix, _split_in_four(faces, middle[half_edge])


def _split_in_four(faces: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Corners and centre of each face; ``middle`` [3 F] is the new vertex on each half-edge."""
    ab, bc, ca = middle.reshape(3, len(faces))
    a, b, c = faces.T
    return np.concatenate([np.stack(t, 1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])


def clipped(surface: Surface, where: np.ndarray) -> Surface:
    """Keep the part with ``where`` [V] < 0; triangles are cut along its zero line."""
    count, faces = len(surface.vertices), surface.faces
    inside = where < 0
    kept = inside[faces].sum(1)
    crossing = (kept == 1) | (kept == 2)
    cut, single = faces[crossing], (kept == 1)[crossing]
    # Turn each cut triangle so that the vertex alone on its side comes first.
    lone = np.argmax(inside[cut] == single[:, None], axis=1)
    a, b, c = np.take_along_axis(cut, (lone[:, None] + np.arange(3)) % 3, 1).T
    pairs = np.sort(np.concatenate([np.stack([a, b], 1), np.stack([a, c], 1)]), 1)
    ends, which = np.unique(pairs, axis=0, return_inverse=True)
    ab, ac = count + which.reshape(2, -1)
    t = where[ends[:, 0]] / (where[ends[:, 0]] - where[ends[:, 1]])
    row = np.arange(len(ends))
    new = sparse.csr_matrix(
        (np.concatenate([1 - t, t]), (np.concatenate([row, row]), ends.T.ravel())), (len(ends), count)
    )
    tip = np.stack([a, ab, ac], 1)[single]
    base = np.concatenate([np.stack([ab, b, c], 1)[~single], np.stack([ab, c, ac], 1)[~single]])
    matrix = sparse.vstack([sparse.identity(count), new], format="csr")
    triangles = np.concatenate([faces[kept == 3], tip, base])
    return part_of(_mapped(surface, matrix, faces), triangles)


def hemmed(surface: Surface, depth: float) -> Surface:
    """A strip of ``depth`` metres turned inwards along every open boundary, so that cloth looks thick."""
    count, faces = len(surface.vertices), surface.faces
    _, half_edge, on_boundary = _edges(faces)
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    start, stop = directed[on_boundary[half_edge]].T
    rim = np.unique(np.concatenate([start, stop]))
    inner = np.full(count, -1)
    inner[rim] = count + np.arange(len(rim))
    strip = np.concatenate([np.stack([stop, start, inner[start]], 1), np.stack([stop, inner[start], inner[stop]], 1)])
    identity = sparse.identity(count, format="csr")
    doubled = _mapped(surface, sparse.vstack([identity, identity[rim]], format="csr"), np.concatenate([faces, strip]))
    offsets = np.zeros_like(doubled.vertices)
    offsets[count:] = -depth * surface.normals()[rim]
    return doubled.moved(offsets)


def neighbour_average(faces: np.ndarray, count: int) -> sparse.csr_matrix:
    """Matrix [V, V] that replaces each vertex by the mean of its neighbours."""
    edges, _, _ = _edges(faces)
    ones = np.ones(len(edges))
    adjacency = sparse.coo_matrix((ones, (edges[:, 0], edges[:, 1])), (count, count)).tocsr()
    adjacency = adjacency + adjacency.T
    valence = np.maximum(np.asarray(adjacency.sum(1)).ravel(), 1)
    return sparse.diags(1 / valence) @ adjacency


def relaxed(vertices: np.ndarray, average: sparse.csr_matrix, steps: int, amount: float = 0.5) -> np.ndarray:
    """``vertices`` [V, 3] moved ``steps`` times by ``amount`` of the way to the mean of their neighbours."""
    for _ in range(steps):
        vertices = vertices + amount * (average @ vertices - vertices)
    return vertices


def _edges(faces: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges [E, 2] (sorted ends), the edge of each half-edge [3 F] (all ab, then bc, then ca), on boundary [E]."""
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges, half_edge, uses = np.unique(np.sort(directed, 1), axis=0, return_inverse=True, return_counts=True)
    return edges, half_edge.ravel(), uses == 1


def _mapped(surface: Surface, matrix: sparse.csr_matrix, faces: np.ndarray) -> Surface:
    mapped = {name: matrix @ values for name, values in surface.fields.items()}
    return Surface(matrix @ surface.vertices, matrix @ surface.weights, faces, mapped)
