"""CUDA kernels of the triangle tree."""

import math

import pytest
import torch
import trimesh
from torch import Tensor

from gs_ir.bvh import (
    TriangleBvh,
    any_hit,
    any_hit_fan,
    build_bvh,
    closest_hit,
    closest_point,
    refit_bvh,
    signed_distance,
)
from gs_ir.reference import bvh as reference
from tests.gs_ir.cuda.agreement import assert_agree

TOLERANCE = {torch.float32: {"rtol": 1e-4, "atol": 1e-4}, torch.float64: {"rtol": 1e-11, "atol": 1e-11}}
NEAR, FAR = 1e-3, 2.0


def _soup(count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Triangles without common vertices: which one is nearest is not decided by rounding."""
    generator = torch.Generator().manual_seed(count)
    centres = torch.rand(count, 1, 3, generator=generator, dtype=dtype)
    corners = centres + 0.3 * torch.rand(count, 3, 3, generator=generator, dtype=dtype)
    return corners.reshape(-1, 3), torch.arange(3 * count).reshape(-1, 3)


def _sphere(subdivisions: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    mesh = trimesh.creation.icosphere(subdivisions)
    return torch.tensor(mesh.vertices, dtype=dtype), torch.tensor(mesh.faces)


def _rays(count: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    origins = 2 * torch.rand(count, 3, generator=generator, dtype=dtype) - 0.5
    return origins, torch.randn(count, 3, generator=generator, dtype=dtype)


def _on_gpu(bvh: TriangleBvh) -> TriangleBvh:
    return build_bvh(bvh.vertices.cuda(), bvh.faces.cuda())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("triangles", "rays"), [(0, 5), (1, 1), (5, 0), (33, 300), (400, 777)])
def test_rays(triangles, rays, dtype):
    """Fails when a node or block is skipped, or a hit is stored for another ray; expected worst 2e-5 in float32, where
    a grazing triangle enlarges rounding.
    """

    def trace(vertices, faces, origins, directions):
        bvh = build_bvh(vertices, faces)
        hits = closest_hit(bvh, origins, directions, NEAR, FAR)
        return any_hit(bvh, origins, directions, NEAR, FAR), hits.t, hits.face, hits.barycentric

    def expected(vertices, faces, origins, directions):
        rays = origins, directions, NEAR, FAR
        return reference.any_hit([vertices, faces], *rays), *reference.closest_hit([vertices, faces], *rays)

    assert_agree(trace, (*_soup(triangles, dtype), *_rays(rays, dtype)), reference=expected, **TOLERANCE[dtype])


@pytest.mark.parametrize(("origins", "directions"), [(0, 5), (1, 1), (37, 33), (20, 0)])
def test_fan(origins, directions):
    """Fails when origin and direction of a pair are mixed up."""

    def trace(vertices, faces, starts, ways):
        return any_hit_fan(build_bvh(vertices, faces), starts, ways, NEAR, FAR)

    def expected(vertices, faces, starts, ways):
        return reference.any_hit_fan([vertices, faces], starts, ways, NEAR, FAR)

    inputs = (*_soup(150, torch.float32), _rays(origins, torch.float32)[0], _rays(directions, torch.float32)[1])
    assert_agree(trace, inputs, reference=expected, rtol=0, atol=0)


def test_rays_in_a_deep_tree():
    """Fails when the stack overflows or a child's index is cut off: 82k triangles, six or more levels."""
    vertices, faces = _sphere(6, torch.float32)
    bvh = build_bvh(vertices, faces)
    origins, directions = _rays(20_000, torch.float32)
    expected = any_hit(bvh, origins, directions, NEAR, math.inf)
    found = any_hit(_on_gpu(bvh), origins.cuda(), directions.cuda(), NEAR, math.inf).cpu()
    assert (found != expected).sum() <= 2, "more than grazing rays differ"
    inside = origins.norm(dim=-1) < 0.9
    assert found[inside].all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_rays_hit_nothing(bad):
    """Fails when NaN, infinity or a zero direction lead the traversal astray."""
    bvh = _on_gpu(build_bvh(*_sphere(2, torch.float32)))
    origins, directions = torch.zeros(4, 3), torch.ones(4, 3)
    origins[0, 1] = bad
    directions[1, 2] = bad
    directions[2] = 0
    found = any_hit(bvh, origins.cuda(), directions.cuda(), 0.0, math.inf)
    assert found.tolist() == [False, False, False, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_ray_slips_through_edges(dtype):
    """Fails when fused multiply-adds open a gap between two triangles: from the centre to every edge and corner."""
    vertices, faces = _sphere(4, dtype)
    ends = torch.cat(
        [vertices[faces].mean(1), (vertices[faces] + vertices[faces].roll(-1, 1)).reshape(-1, 3), vertices]
    )
    bvh = build_bvh(vertices.cuda(), faces.cuda())
    assert any_hit(bvh, torch.zeros_like(ends).cuda(), ends.cuda(), 0.0, math.inf).all()


def test_axis_parallel_rays_on_lattice_lines():
    """Fails when a zero component times infinity makes a box disappear."""
    line = torch.arange(9.0)
    x, y = torch.meshgrid(line, line, indexing="ij")
    vertices = torch.stack([x, y, torch.zeros_like(x)], -1).reshape(-1, 3)
    corner = (torch.arange(8)[:, None] * 9 + torch.arange(8)).reshape(-1, 1)
    faces = torch.cat([corner + torch.tensor([0, 9, 10]), corner + torch.tensor([0, 10, 1])])
    bvh = build_bvh(vertices.cuda(), faces.cuda())
    for sign in (1.0, -1.0):
        for zero in (0.0, -0.0):
            origins = (vertices + torch.tensor([0, 0, -3.0 * sign])).cuda()
            directions = torch.tensor([zero, zero, sign]).expand_as(origins).cuda()
            assert any_hit(bvh, origins, directions, 0.0, math.inf).all()
            assert not any_hit(bvh, origins + 9 * directions.roll(1, 1), directions, 0.0, math.inf).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("triangles", "points"), [(0, 3), (1, 1), (5, 0), (33, 300), (400, 777)])
def test_closest_point(triangles, points, dtype):
    """Fails when a nearer box is pruned; expected worst 3e-5 (weights of slender triangles in float32)."""

    def nearest(vertices, faces, positions):
        found = closest_point(build_bvh(vertices, faces), positions)
        return found.distance, found.face, found.barycentric

    def expected(vertices, faces, positions):
        return reference.closest_point([vertices, faces], positions)

    inputs = (*_soup(triangles, dtype), _rays(points, dtype)[0])
    assert_agree(nearest, inputs, reference=expected, **TOLERANCE[dtype])


def test_signed_distance():
    """Fails when weights on edges and corners, which decide the sign, are not exactly 0 or 1; expected worst 1e-6."""
    vertices, faces = _sphere(4, torch.float32)
    points = _rays(5000, torch.float32)[0]

    def distance(vertices, faces, points):
        return signed_distance(build_bvh(vertices, faces), points)

    assert_agree(distance, (vertices, faces, points), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("triangles", [0, 1, 33, 5000])
def test_refit(triangles):
    """Fails when a level is swept before the one below it; the boxes are copies of coordinates, so exactly equal."""
    vertices, faces = _soup(triangles, torch.float32)
    bvh = build_bvh(vertices, faces)
    on_gpu = _on_gpu(bvh)
    assert on_gpu.level_offsets == bvh.level_offsets
    assert on_gpu.node_children.is_cuda
    torch.testing.assert_close(on_gpu.node_children.cpu(), bvh.node_children, rtol=0, atol=0)
    moved = vertices.flip(-1) * 1.5
    expected, found = refit_bvh(bvh, moved), refit_bvh(on_gpu, moved.cuda())
    for name in ("node_boxes", "block_vertices"):
        torch.testing.assert_close(getattr(found, name).cpu(), getattr(expected, name), rtol=0, atol=0, equal_nan=True)
