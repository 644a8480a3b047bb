"""CUDA kernels of marching cubes and of connected parts."""

import pytest
import torch

from gs_ir.marching_cubes import marching_cubes, mesh_parts
from gs_ir.reference import marching_cubes as reference
from tests.gs_ir.cuda.agreement import assert_agree


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(0, 3, 3), (1, 1, 1), (1, 5, 5), (2, 2, 2), (9, 14, 11), (33, 31, 65)])
def test_marching_cubes(shape, dtype):
    """Fails when a case of the table, a number of the scan, or the order differs; expected worst one rounding of a
    coordinate: 8e-6 in float32.
    """
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    assert_agree(marching_cubes, (values,), reference=reference.marching_cubes, rtol=0, atol=1e-5)


def test_an_unaligned_view():
    """Fails when values are loaded at an address that they do not begin at."""
    values = torch.randn(9 * 8 * 7 + 1, generator=torch.Generator().manual_seed(0))[1:].reshape(9, 8, 7)
    assert_agree(marching_cubes, (values,), reference=reference.marching_cubes, rtol=0, atol=1e-5)


def test_a_large_lattice_twice():
    """Fails when the order of the output depends on the order of the blocks."""
    values = torch.randn(120, 130, 110, generator=torch.Generator().manual_seed(0)).cuda()
    first, second = marching_cubes(values), marching_cubes(values)
    assert all(torch.equal(a, b) for a, b in zip(first, second))


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_mesh_parts(share):
    """Fails when a join is lost to another thread's: parts of a noisy mesh, from many specks to few large ones."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(40, 41, 42, generator=generator)
    vertices, faces = marching_cubes(values)
    faces = faces[torch.rand(len(faces), generator=generator) < share]
    assert_agree(mesh_parts, (faces, len(vertices)), reference=reference.mesh_parts, rtol=0, atol=0)


def test_parts_of_one_long_strip():
    """Fails when paths of many halvings are cut: a strip whose vertices are numbered at random is one part."""
    count = 100_000
    numbers = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    strip = torch.arange(count - 2)[:, None] + torch.arange(3)
    assert not mesh_parts(numbers[strip].cuda(), count).any()


def test_no_faces():
    """Fails when an empty mesh launches a kernel of no blocks."""
    faces = torch.zeros(0, 3, dtype=torch.int64).cuda()
    assert mesh_parts(faces, 4).tolist() == [0, 1, 2, 3]
    assert mesh_parts(faces, 0).shape == (0,)
