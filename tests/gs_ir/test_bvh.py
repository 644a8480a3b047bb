"""Triangle tree: rays and distances against closed forms and brute force, refitting against rebuilding."""

import math

import pytest
import torch
import trimesh

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

LARGEST_DEPTH = 9
"""Levels for which the traversal's stack of 64 is always enough."""


def _sphere(subdivisions: int = 3, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    mesh = trimesh.creation.icosphere(subdivisions)
    return torch.tensor(mesh.vertices, dtype=dtype), torch.tensor(mesh.faces)


def _sagitta(vertices: torch.Tensor, faces: torch.Tensor) -> float:
    """How far the icosphere's faces lie inside the unit sphere."""
    return float(1 - vertices[faces].mean(1).norm(dim=-1).min())


def _triangle_soup(count: int, dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(count, 1, 3, generator=generator, dtype=dtype)
    corners = centres + 0.3 * torch.rand(count, 3, 3, generator=generator, dtype=dtype)
    return corners.reshape(-1, 3), torch.arange(3 * count).reshape(-1, 3)


def _rays(count: int, dtype: torch.dtype, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    origins = 2 * torch.rand(count, 3, generator=generator, dtype=dtype) - 0.5
    return origins, torch.randn(count, 3, generator=generator, dtype=dtype)


def _morton_tree(vertices: torch.Tensor, faces: torch.Tensor) -> TriangleBvh:
    children, block_faces, offsets = reference.build_bvh(vertices, faces)
    levels = offsets.tolist()
    boxes, block_vertices = reference.refit_bvh(vertices, faces, children, block_faces, levels)
    return TriangleBvh(vertices, faces, boxes, children, block_vertices, block_faces, tuple(levels))


@pytest.mark.parametrize("build", [build_bvh, _morton_tree])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 4, 5, 33, 400])
def test_rays_equal_brute_force(build, dtype, count):
    """Fails when a box loses a triangle, a nearer child is skipped, or weights belong to other corners."""
    vertices, faces = _triangle_soup(count, dtype)
    origins, directions = _rays(800, dtype)
    bvh = build(vertices, faces)
    hits = closest_hit(bvh, origins, directions, 0.05, 0.6)
    t, face, barycentric = reference.closest_hit(bvh.tensors, origins, directions, 0.05, 0.6)
    # Rays that graze an edge or a limit of t up to rounding may be decided either way: 2 of 800 in float32 at most.
    same = hits.face == face
    assert (~same).sum() <= (2 if dtype == torch.float32 else 0)
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-10}
    torch.testing.assert_close(hits.t[same], t[same], **tolerance)
    torch.testing.assert_close(hits.barycentric[same], barycentric[same], **tolerance)
    assert torch.equal(any_hit(bvh, origins, directions, 0.05, 0.6), hits.face >= 0)


@pytest.mark.parametrize(("origins", "directions"), [(1, 1), (40, 7), (0, 3), (5, 0)])
def test_fan_is_every_pair(origins, directions):
    """Fails when origins and directions are paired otherwise, by the kernel or the reference."""
    bvh = build_bvh(*_triangle_soup(60, torch.float64))
    starts, ways = _rays(origins, torch.float64)[0], _rays(directions, torch.float64)[1]
    expected = [[bool(any_hit(bvh, s[None], w[None], 0.05, 0.6)) for w in ways] for s in starts]
    for found in (
        any_hit_fan(bvh, starts, ways, 0.05, 0.6),
        reference.any_hit_fan(bvh.tensors, starts, ways, 0.05, 0.6),
    ):
        assert found.shape == (origins, directions)
        assert found.tolist() == expected


@pytest.mark.parametrize("build", [build_bvh, _morton_tree])
@pytest.mark.parametrize("count", [1, 4, 5, 33, 300])
def test_closest_point_equals_brute_force(build, count):
    """Fails when a subtree is pruned that holds the nearest triangle, or the nearest feature is misjudged."""
    vertices, faces = _triangle_soup(count, torch.float64)
    points = _rays(700, torch.float64)[0]
    nearest = closest_point(build(vertices, faces), points)
    distance, _, _ = reference.closest_point([vertices, faces], points)
    torch.testing.assert_close(nearest.distance, distance)
    weights = torch.cat([1 - nearest.barycentric.sum(-1, keepdim=True), nearest.barycentric], -1)
    assert (weights > -1e-12).all()
    reached = (weights[..., None] * vertices[faces[nearest.face]]).sum(1)
    torch.testing.assert_close((reached - points).norm(dim=-1), distance)


def test_brute_force_equals_trimesh():
    """The oracle itself: fails when its edge and corner cases are wrong."""
    vertices, faces = _triangle_soup(60, torch.float64)
    points = _rays(200, torch.float64)[0]
    mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    pairs = torch.cartesian_prod(torch.arange(200), torch.arange(60))
    corners = mesh.triangles[pairs[:, 1].numpy()]
    nearest = trimesh.triangles.closest_point(corners, points[pairs[:, 0]].numpy())
    expected = (torch.tensor(nearest) - points[pairs[:, 0]]).norm(dim=-1).reshape(200, 60).amin(1)
    torch.testing.assert_close(reference.closest_point([vertices, faces], points)[0], expected)


def test_rays_meet_the_sphere():
    """Closed form: fails when t is not in units of the direction's length or the wrong side counts."""
    vertices, faces = _sphere()
    bvh, sagitta = build_bvh(vertices, faces), _sagitta(vertices, faces)
    origins, directions = _rays(2000, torch.float64)
    a, b, c = directions.square().sum(-1), (origins * directions).sum(-1), origins.square().sum(-1) - 1
    root = (b * b - a * c).clamp(min=0).sqrt()
    near = torch.where(-b - root > 0, (-b - root) / a, (-b + root) / a)
    meets = (b * b - a * c > 0) & (near > 0)
    # Where ray and sphere meet at an angle, the faces lie at most the sagitta over the cosine nearer to the centre.
    cosine = ((origins + near[:, None] * directions) * directions).sum(-1).abs() / a.sqrt()
    clear = (cosine > 0.3) & ((origins.norm(dim=-1) - 1).abs() > 10 * sagitta)
    hits = closest_hit(bvh, origins, directions, 0.0, math.inf)
    assert clear.sum() > 500
    assert torch.equal(hits.t.isfinite()[clear], meets[clear])
    error = ((hits.t - near) * a.sqrt())[clear & meets].abs()
    assert error.max() < sagitta / 0.3 * 1.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_ray_slips_through_edges_and_corners(dtype):
    """Fails when both triangles of an edge, or all around a vertex, reject a ray that runs exactly through it."""
    vertices, faces = _sphere(2, dtype)
    edges = (vertices[faces] + vertices[faces.roll(1, 1)]).reshape(-1, 3) / 2
    targets = torch.cat([vertices, edges])
    for origin in ((0.0, 0.0, 0.0), (0.1, 0.2, -0.3), (0.31, -0.4, 0.05)):
        origins = torch.tensor(origin, dtype=dtype).expand_as(targets)
        # seen from far away the triangles are small against the coordinates
        for shift in (0.0, 30.0):
            bvh = build_bvh(vertices + shift, faces)
            assert any_hit(bvh, origins + shift, targets - origins, 1e-3, math.inf).all()


def test_axis_parallel_rays_on_lattice_lines():
    """Fails when a zero component times infinity makes a box disappear."""
    line = torch.arange(9.0)
    x, y = torch.meshgrid(line, line, indexing="ij")
    vertices = torch.stack([x, y, torch.zeros_like(x)], -1).reshape(-1, 3)
    corner = (torch.arange(8)[:, None] * 9 + torch.arange(8)).reshape(-1, 1)
    faces = torch.cat([corner + torch.tensor([0, 9, 10]), corner + torch.tensor([0, 10, 1])])
    bvh = build_bvh(vertices, faces)
    for sign in (1.0, -1.0):
        for zero in (0.0, -0.0):
            origins = vertices + torch.tensor([0, 0, -3.0 * sign])
            directions = torch.tensor([zero, zero, sign]).expand_as(origins)
            assert any_hit(bvh, origins, directions, 0.0, math.inf).all()
            assert not any_hit(bvh, origins + torch.tensor([9.0, 0, 0]), directions, 0.0, math.inf).any()


def test_ray_from_the_surface():
    """Fails when t_min is ignored: an outward ray hits its own triangle, an inward ray must reach the other side."""
    vertices, faces = _sphere(3, torch.float32)
    bvh = build_bvh(vertices, faces)
    on_surface = vertices[faces].mean(1)
    outwards = torch.nn.functional.normalize(on_surface, dim=-1)
    assert not any_hit(bvh, on_surface, outwards, 1e-3, math.inf).any()
    inwards = closest_hit(bvh, on_surface, -outwards, 1e-3, math.inf)
    assert ((inwards.t > 1.95) & (inwards.t < 2.0)).all()
    assert not any_hit(bvh, on_surface, -outwards, 1e-3, 1.9).any(), "t_max is ignored"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_rays_hit_nothing(bad):
    """Fails when NaN comparisons let a ray through, or a zero direction divides."""
    bvh = build_bvh(*_sphere(1, torch.float32))
    origins, directions = torch.zeros(7, 3), torch.eye(3)[:1].repeat(7, 1)
    for axis in range(3):
        origins[axis, axis] = bad
        directions[3 + axis, axis] = bad
    directions[6] = 0
    assert not any_hit(bvh, origins, directions, 0.0, math.inf).any()
    hits = closest_hit(bvh, origins, directions, 0.0, math.inf)
    assert hits.t.isinf().all()
    assert (hits.face == -1).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_points_are_near_nothing(bad):
    """Fails when a broken point is said to lie at a finite distance, or spoils the next."""
    points = torch.zeros(3, 3)
    points[1, 2] = bad
    distance = closest_point(build_bvh(*_sphere(2, torch.float32)), points).distance
    assert distance.isinf().tolist() == [False, True, False]


def test_degenerate_triangles_are_harmless():
    """Fails when triangles without area, or with NaN corners, are hit or hide others."""
    vertices, faces = _sphere(2)
    vertices = torch.cat([vertices, torch.full((1, 3), torch.nan, dtype=torch.float64)])
    point, nan = vertices.new_tensor([[0.0, 0.0, 0.5]]), len(vertices) - 1
    vertices = torch.cat([vertices, point, 2 * point, 3 * point])
    bad = torch.tensor([[nan + 1] * 3, [nan + 1, nan + 2, nan + 3], [nan, 0, 1], [0, 0, 5]])
    bvh = build_bvh(vertices, torch.cat([bad, faces]))
    plain = build_bvh(vertices, faces)
    origins, directions = _rays(500, torch.float64)
    directions[:100] = point * (1 + 2 * torch.rand(100, 1, dtype=torch.float64)) - origins[:100]
    hits, expected = (closest_hit(b, origins, directions, 0.0, math.inf) for b in (bvh, plain))
    torch.testing.assert_close(hits.t, expected.t)
    # A collapsed triangle is still a segment or a point that something can be near to.
    nearest = closest_point(bvh, torch.tensor([[0.01, 0.0, 0.5], [0.0, 0.02, 1.25]], dtype=torch.float64))
    torch.testing.assert_close(nearest.distance, torch.tensor([0.01, 0.02], dtype=torch.float64))


@pytest.mark.parametrize("build", [build_bvh, _morton_tree])
def test_without_triangles(build):
    """An empty mesh is a valid tree that nothing meets."""
    bvh = build(torch.rand(3, 3), torch.empty(0, 3, dtype=torch.int64))
    origins, directions = _rays(10, torch.float32)
    assert not any_hit(bvh, origins, directions, 0.0, math.inf).any()
    assert (closest_hit(bvh, origins, directions, 0.0, math.inf).face == -1).all()
    assert closest_point(bvh, origins).distance.isinf().all()
    assert signed_distance(bvh, origins).isinf().all()
    assert refit_bvh(bvh, bvh.vertices).node_boxes.shape == bvh.node_boxes.shape


def test_without_rays():
    """No rays give empty answers of the right types."""
    bvh, nothing = build_bvh(*_sphere(1, torch.float32)), torch.empty(0, 3)
    assert any_hit(bvh, nothing, nothing, 0.0, 1.0).dtype == torch.bool
    hits = closest_hit(bvh, nothing, nothing, 0.0, 1.0)
    assert hits.barycentric.shape == (0, 2)
    assert hits.face.dtype == torch.int64
    assert signed_distance(bvh, nothing).shape == (0,)


@pytest.mark.parametrize("build", [build_bvh, _morton_tree])
def test_refit_equals_rebuild(build):
    """Fails when a level is refitted before its children, or a block keeps old corners."""
    vertices, faces = _sphere(2)
    bent = vertices * vertices.new_tensor([1.0, 2.0, 0.3])
    bent[:, 0] += 0.5 * (3 * vertices[:, 1]).sin()
    refitted, rebuilt = refit_bvh(build(vertices, faces), bent), build_bvh(bent, faces)
    origins, directions = _rays(1000, torch.float64)
    answers = [closest_hit(b, origins, directions, 0.0, math.inf) for b in (refitted, rebuilt)]
    torch.testing.assert_close(answers[0].t, answers[1].t)
    distances = [closest_point(b, origins).distance for b in (refitted, rebuilt)]
    torch.testing.assert_close(*distances)
    signs = [signed_distance(b, origins) for b in (refitted, rebuilt)]
    torch.testing.assert_close(*signs)


def test_tree_invariants():
    """Fails when a triangle is lost or doubled, levels are not contiguous, or a box does not contain its triangles."""
    vertices, faces = _triangle_soup(777, torch.float32)
    bvh = build_bvh(vertices, faces)
    listed = bvh.block_faces[bvh.block_faces >= 0].long()
    assert torch.equal(listed.sort().values, torch.arange(777))
    offsets = bvh.level_offsets
    for level, (first, last) in enumerate(zip(offsets[:-1], offsets[1:], strict=True)):
        inner = bvh.node_children[first:last]
        inner = inner[inner >= 0].long()
        if level + 2 < len(offsets):
            assert torch.equal(inner.sort().values, torch.arange(last, offsets[level + 2]))
        else:
            assert inner.numel() == 0
    boxes, block_vertices = reference.refit_bvh(vertices, faces, bvh.node_children, bvh.block_faces, list(offsets))
    torch.testing.assert_close(bvh.node_boxes, boxes, rtol=0, atol=0)
    torch.testing.assert_close(bvh.block_vertices, block_vertices, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("scale", [0.0, 0.9, 0.99])
def test_depth_is_bounded(scale):
    """Fails when coincident or geometrically shrinking triangles make a chain deeper than the traversal's stack."""
    sizes = scale ** torch.arange(3000, dtype=torch.float64)
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], dtype=torch.float64)
    vertices = (sizes[:, None, None] * (corners + 1)).reshape(-1, 3)
    bvh = build_bvh(vertices, torch.arange(9000).reshape(-1, 3))
    assert len(bvh.level_offsets) - 1 <= LARGEST_DEPTH
    origins = vertices[::300] + torch.tensor([0.1, 0.2, -1.0], dtype=torch.float64)
    directions = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64).expand_as(origins)
    expected = reference.any_hit(bvh.tensors, origins, directions, 0.0, math.inf)
    assert torch.equal(any_hit(bvh, origins, directions, 0.0, math.inf), expected)


def test_signed_distance_to_sphere():
    """Closed form: fails when the sign or a region of the nearest triangle is wrong."""
    vertices, faces = _sphere()
    points = 1.5 * torch.randn(3000, 3, dtype=torch.float64)
    found = signed_distance(build_bvh(vertices, faces), points)
    error = found - (points.norm(dim=-1) - 1)
    assert error.min() > -1e-12
    assert error.max() < _sagitta(vertices, faces) * 1.5


def test_signed_distance_to_torus():
    """Closed form for a mesh with a hole."""
    mesh = trimesh.creation.torus(1.0, 0.35, major_sections=64, minor_sections=32)
    vertices, faces = torch.tensor(mesh.vertices), torch.tensor(mesh.faces)
    points = torch.rand(1000, 3, dtype=torch.float64) * 3 - 1.5
    ring = torch.stack([points[:, :2].norm(dim=-1) - 1.0, points[:, 2]], -1)
    error = signed_distance(build_bvh(vertices, faces), points) - (ring.norm(dim=-1) - 0.35)
    # sagitta of the tube's sections, 1.7e-3, and of the ring's at its outer edge, 1.6e-3
    assert error.abs().max() < 3.5e-3


def test_sign_beside_sharp_edges():
    """Fails with face normals alone: beside a sharp edge two faces are equally near and disagree about the side."""
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0.5, 0.05, 0.02], [0.5, 0.0, 1.0]], dtype=torch.float64)
    faces = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])
    corners = vertices[faces]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    points = torch.rand(5000, 3, dtype=torch.float64) * vertices.new_tensor(
        [2.0, 0.3, 2.0]
    ) - 0.5 * vertices.new_tensor([1.0, 0.25, 1.0])
    heights = ((points[:, None] - corners[:, 0]) * normals).sum(-1)
    inside = (heights < 0).all(-1)
    assert inside.sum() > 20
    assert torch.equal(signed_distance(build_bvh(vertices, faces), points) < 0, inside)


def test_pseudo_normals_of_a_cube():
    """Closed form: corner normals of a cube point along its diagonals however its squares are cut."""
    mesh = trimesh.creation.box((2.0, 2.0, 2.0))
    bvh = build_bvh(torch.tensor(mesh.vertices), torch.tensor(mesh.faces))
    corners = torch.nn.functional.normalize(bvh.pseudo_normals[:, 1:4], dim=-1)
    torch.testing.assert_close(corners, bvh.vertices[bvh.faces] / 3**0.5)


def test_wrong_input_is_refused():
    """Fails when shapes, precisions or vertex numbers that do not fit are read anyway."""
    vertices, faces = _sphere(1, torch.float32)
    bvh = build_bvh(vertices, faces)
    rays = torch.rand(5, 3)
    with pytest.raises(ValueError, match="faces"):
        build_bvh(vertices, faces[:, :2])
    with pytest.raises(IndexError):
        build_bvh(vertices, faces + len(vertices))
    with pytest.raises(ValueError, match="as many origins"):
        any_hit(bvh, rays, rays[:2], 0.0, 1.0)
    with pytest.raises(ValueError, match="float32"):
        closest_point(bvh, rays.double())
    with pytest.raises(ValueError, match="refit_bvh"):
        refit_bvh(bvh, vertices[1:])
