"""Tailoring of meshes: noise, subdivision, cutting, hems, decimation."""

import numpy as np
import pytest
from scipy import sparse

from data.synthetic.decimation import decimate
from data.synthetic.noise import fractal_noise, gradient_noise, ridged_noise, smoothstep
from data.synthetic.surface import Surface, clipped, hemmed, neighbour_average, relaxed, subdivided


def sphere(times: int = 2) -> Surface:
    """A closed surface: a subdivided octahedron, weights that follow x."""
    vertices = np.concatenate([np.eye(3), -np.eye(3)])
    faces = np.array([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]])
    weights = np.zeros((6, 24))
    weights[:, 0] = (1 + vertices[:, 0]) / 2
    weights[:, 1] = 1 - weights[:, 0]
    return subdivided(Surface(vertices, weights, faces, {"height": vertices[:, 1].copy()}), times)


def volume(surface: Surface) -> float:
    corners = surface.vertices[surface.faces]
    return float(np.einsum("fa,fa->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6)


def boundary_edges(faces: np.ndarray) -> int:
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
    return int((np.unique(edges, axis=0, return_counts=True)[1] == 1).sum())


def test_subdivision_keeps_affine_fields_and_closedness():
    """Fails when an edge or vertex rule's coefficients do not sum to 1, or faces are glued wrongly."""
    surface = sphere(3)
    assert len(surface.faces) == 8 * 4**3
    assert len(surface.vertices) - boundary_edges(surface.faces) - len(surface.faces) // 2 == 2  # Euler, closed
    np.testing.assert_allclose(surface.weights.sum(1), 1)
    np.testing.assert_allclose(surface.fields["height"], surface.vertices[:, 1])
    assert volume(surface) > 0
    outward = (surface.normals() * surface.vertices).sum(1)
    assert outward.min() > 0


def test_subdivision_of_a_flat_grid_stays_flat_and_keeps_its_border():
    """Fails when boundary rules pull the border inwards or bend it."""
    grid = np.stack(np.meshgrid(np.arange(4.0), np.arange(4.0), indexing="ij"), -1).reshape(-1, 2)
    square = np.arange(16).reshape(4, 4)
    a, b, c, d = square[:-1, :-1].ravel(), square[1:, :-1].ravel(), square[1:, 1:].ravel(), square[:-1, 1:].ravel()
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    surface = Surface(np.c_[grid, np.zeros(16)], np.ones((16, 24)) / 24, faces)
    finer = subdivided(surface)
    assert not finer.vertices[:, 2].any()
    assert boundary_edges(finer.faces) == 2 * boundary_edges(faces)
    straight = finer.vertices[np.isclose(finer.vertices[:, 0], 0)]
    assert len(straight) >= 5


def test_clipping_cuts_along_the_zero_line():
    """Fails when cut triangles are dropped or kept whole, or the new vertices are placed wrongly."""
    surface = clipped(sphere(4), sphere(4).vertices[:, 1] - 0.1)
    assert surface.vertices[:, 1].max() == pytest.approx(0.1)
    assert boundary_edges(surface.faces) > 20
    np.testing.assert_allclose(surface.weights.sum(1), 1)
    np.testing.assert_allclose(surface.fields["height"], surface.vertices[:, 1], atol=1e-12)
    both = clipped(sphere(4), sphere(4).vertices[:, 1]), clipped(sphere(4), -sphere(4).vertices[:, 1])
    whole = sphere(4)
    area = [np.linalg.norm(np.cross(*_sides(s)), axis=1).sum() for s in (*both, whole)]
    assert area[0] + area[1] == pytest.approx(area[2])
    assert all((s.normals() * s.vertices).sum(1).min() > 0 for s in both)  # triangles keep their winding


def _sides(surface: Surface) -> tuple[np.ndarray, np.ndarray]:
    a, b, c = surface.vertices[surface.faces].transpose(1, 0, 2)
    return b - a, c - a


def test_hem_turns_inwards():
    """Fails when the strip is wound or placed outwards, which would show as a dark or flared edge."""
    open_bowl = clipped(sphere(3), sphere(3).vertices[:, 1])
    rim = boundary_edges(open_bowl.faces)
    hem = hemmed(open_bowl, 0.05)
    assert len(hem.faces) == len(open_bowl.faces) + 2 * rim
    assert boundary_edges(hem.faces) == rim
    inner = hem.vertices[len(open_bowl.vertices) :]
    assert np.linalg.norm(inner, axis=1).max() < np.linalg.norm(open_bowl.vertices, axis=1).max() - 0.04


def test_relaxing_smooths():
    """Fails when neighbours are averaged with wrong counts: a constant must stay, noise must shrink."""
    surface = sphere(3)
    average = neighbour_average(surface.faces, len(surface.vertices))
    assert sparse.issparse(average)
    np.testing.assert_allclose(np.asarray(average.sum(1)).ravel(), 1)
    noisy = surface.vertices + np.random.default_rng(0).normal(scale=0.02, size=surface.vertices.shape)
    roughness = lambda v: np.linalg.norm(average @ v - v, axis=1).mean()  # noqa: E731
    assert roughness(relaxed(noisy, average, 5)) < 0.5 * roughness(noisy)


def test_decimation_keeps_the_surface_closed_and_its_volume():
    """Fails when a collapse tears, folds or flips the surface, or moves the vertices it keeps."""
    surface = sphere(4)
    kept, faces = decimate(surface.vertices, surface.faces, 300, np.ones(len(surface.vertices)))
    assert len(kept) == 300
    assert boundary_edges(faces) == 0
    assert len(faces) == 2 * 300 - 4  # closed, genus 0
    smaller = Surface(surface.vertices[kept], surface.weights[kept], faces)
    assert volume(smaller) == pytest.approx(volume(surface), rel=0.05)
    assert (smaller.normals() * smaller.vertices).sum(1).min() > 0


def test_decimation_removes_unimportant_vertices_first():
    """Fails when the importance is applied to the vertex that stays."""
    surface = sphere(3)
    below = surface.vertices[:, 1] < 0
    kept, _ = decimate(surface.vertices, surface.faces, 180, np.where(below, 1e-3, 1.0))
    assert below[kept].sum() < 0.4 * (~below[kept]).sum()


def test_noise_is_smooth_centred_and_depends_on_the_seed():
    """Fails when lattice cells do not join, or seeds do not matter."""
    points = np.random.default_rng(0).uniform(-30, 30, (4000, 3))
    noise = gradient_noise(points, 1)
    assert abs(noise.mean()) < 0.02
    assert 0.1 < noise.std() < 0.5
    assert np.abs(gradient_noise(points + 1e-4, 1) - noise).max() < 1e-3
    assert np.abs(np.corrcoef(noise, gradient_noise(points, 2))[0, 1]) < 0.1
    assert gradient_noise(np.round(points), 1) == pytest.approx(0, abs=1e-9)  # zero at lattice points
    assert ridged_noise(points).max() <= 1
    assert fractal_noise(points, octaves=1) == pytest.approx(gradient_noise(points))
    assert smoothstep(1, 0, np.array([-1, 0.5, 2])) == pytest.approx([1, 0.5, 0])
