"""Meshes of level sets: native against reference, scikit-image and closed forms; closedness on noise."""

import math

import pytest
import torch
from skimage.measure import marching_cubes as of_skimage
from torch import Tensor

import gs_ir
from gs_ir.bvh import build_bvh, closest_point
from gs_ir.reference import marching_cubes as reference


def _noise(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Independent values, positive on the border: every case of a cell occurs, and every surface is closed."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    for dim, size in enumerate(shape):
        for border in (0, size - 1):
            values.select(dim, border).abs_()
    return values


def _ball(resolution: int, radius: float = 0.7) -> tuple[Tensor, float]:
    """Distances to a ball in [-1, 1]^3 off the lattice's centre, and the lattice's spacing."""
    axis = torch.linspace(-1, 1, resolution, dtype=torch.float64)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    return ((x - 0.03).square() + (y + 0.02).square() + z.square()).sqrt() - radius, 2 / (resolution - 1)


def _half_edges(faces: Tensor, vertices: int) -> Tensor:
    begin, end = faces.reshape(-1), faces.roll(-1, 1).reshape(-1)
    return begin * vertices + end


def _is_closed(vertices: Tensor, faces: Tensor) -> bool:
    """Every directed edge occurs once, and so does its reverse."""
    forth, back = _half_edges(faces, len(vertices)), _half_edges(faces.flip(1), len(vertices))
    return len(forth.unique()) == len(forth) and torch.equal(forth.sort().values, back.sort().values)


def _euler_number(vertices: Tensor, faces: Tensor) -> int:
    return len(vertices) - len(faces) * 3 // 2 + len(faces)


def _volume(vertices: Tensor, faces: Tensor) -> float:
    a, b, c = vertices[faces].unbind(1)
    return float((a * torch.linalg.cross(b, c)).sum()) / 6


def _area(vertices: Tensor, faces: Tensor) -> float:
    a, b, c = vertices[faces].unbind(1)
    return float(torch.linalg.cross(b - a, c - a).norm(dim=-1).sum()) / 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(9, 14, 11), (1, 5, 5), (5, 1, 4), (2, 2, 2), (0, 3, 3), (20, 3, 30)])
def test_equals_reference(shape, dtype):
    """Fails when the two separately derived tables differ in a case, or edges and cells are numbered otherwise."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)
    found, expected = gs_ir.marching_cubes(values), reference.marching_cubes(values)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-6)
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("seed", range(4))
def test_noise_gives_closed_meshes(seed):
    """Fails when cells disagree on an ambiguous face (a hole), orient it differently, or share a diagonal in it."""
    vertices, faces = gs_ir.marching_cubes(_noise((24, 21, 26), seed))
    assert len(faces) > 10_000
    assert _is_closed(vertices, faces)
    assert torch.equal(faces.unique(), torch.arange(len(vertices)))


@pytest.mark.parametrize("case", range(256))
def test_every_case_is_closed(case):
    """Fails when a single cell's case leaves an edge open or turns the surface inwards."""
    values = torch.ones(4, 4, 4, dtype=torch.float64)
    for corner in range(8):
        if case >> corner & 1:
            values[1 + (corner >> 2), 1 + (corner >> 1 & 1), 1 + (corner & 1)] = -1
    vertices, faces = gs_ir.marching_cubes(values)
    assert _is_closed(vertices, faces)
    if case:
        # A lone corner is a double pyramid of half diagonals, 1/6.
        assert _volume(vertices, faces) >= (1 / 6 - 1e-12) * min(1, case)


def test_zeros_are_outside():
    """Fails when a value of exactly zero opens the mesh or divides by zero."""
    values = _noise((12, 12, 12)).round()
    values[values == 0] = 0.0
    vertices, faces = gs_ir.marching_cubes(values)
    assert torch.isfinite(vertices).all()
    assert _is_closed(vertices, faces)


def test_ball_converges_to_its_area_and_volume():
    """Fails when vertices are not placed where values are zero: the error must fall with the square of the spacing."""
    errors = []
    for resolution in (17, 33, 65):
        values, spacing = _ball(resolution)
        vertices, faces = gs_ir.marching_cubes(values)
        vertices = vertices * spacing
        assert _is_closed(vertices, faces)
        assert _euler_number(vertices, faces) == 2
        volume, area = 4 / 3 * math.pi * 0.7**3, 4 * math.pi * 0.7**2
        errors.append((abs(_volume(vertices, faces) / volume - 1), abs(_area(vertices, faces) / area - 1)))
    for coarse, fine in zip(errors[:-1], errors[1:]):
        assert all(c / f > 3 for c, f in zip(coarse, fine))
    assert max(errors[-1]) < 2e-3


def test_torus_keeps_its_hole():
    """Fails when the topology is wrong: Euler number 0 of a torus, 2 of each of two balls."""
    axis = torch.linspace(-1, 1, 40, dtype=torch.float64)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    torus = (((x.square() + y.square()).sqrt() - 0.6).square() + z.square()).sqrt() - 0.2
    balls = torch.minimum(*(((x - c).square() + y.square() + z.square()).sqrt() - 0.3 for c in (-0.5, 0.5)))
    assert _euler_number(*gs_ir.marching_cubes(torus)) == 0
    vertices, faces = gs_ir.marching_cubes(balls)
    assert _euler_number(vertices, faces) == 4
    assert len(gs_ir.mesh_parts(faces, len(vertices)).unique()) == 2


def test_same_surface_as_scikit_image():
    """Fails when axes are swapped or the surface is elsewhere than where Lewiner's tables put it."""
    axis = torch.linspace(-1, 1, 48, dtype=torch.float64)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    values = x.square() + 2 * y.square() + 3 * z.square() - 0.5 + 0.1 * torch.sin(9 * x + 4 * y * z)
    vertices, faces = gs_ir.marching_cubes(values)
    other_vertices, other_faces, _, _ = of_skimage(values.numpy(), 0.0)
    other_vertices = torch.from_numpy(other_vertices[:, ::-1].copy()).double()
    other_faces = torch.from_numpy(other_faces.astype("int64"))
    assert _euler_number(vertices, faces) == _euler_number(other_vertices, other_faces) == 2
    for mine, theirs in (((vertices, faces), other_vertices), ((other_vertices, other_faces), vertices)):
        assert closest_point(build_bvh(*mine), theirs).distance.max() < 1e-2
    assert _volume(vertices, faces) == pytest.approx(abs(_volume(other_vertices, other_faces)), rel=1e-4)


def test_parts_equal_reference():
    """Fails when a part is split or joined, or not named after its smallest vertex."""
    vertices, faces = gs_ir.marching_cubes(_noise((14, 13, 12)))
    order = torch.randperm(len(faces), generator=torch.Generator().manual_seed(0))
    found = gs_ir.mesh_parts(faces[order], len(vertices) + 3)
    assert torch.equal(found, reference.mesh_parts(faces, len(vertices) + 3))
    assert found[-3:].tolist() == list(range(len(vertices), len(vertices) + 3))
    assert gs_ir.mesh_parts(faces[:0], 0).shape == (0,)


def test_bad_input_is_refused():
    """Fails when a wrong shape reaches a kernel that reads beyond it."""
    with pytest.raises(ValueError, match="lattice|values"):
        gs_ir.marching_cubes(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="faces"):
        gs_ir.mesh_parts(torch.zeros(3, 4, dtype=torch.int64), 3)
    if gs_ir.has_kernel("mesh_parts", "CPU"):
        with pytest.raises(IndexError, match="vertex"):
            gs_ir.mesh_parts(torch.full((1, 3), 3), 3)
