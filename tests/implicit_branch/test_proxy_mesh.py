"""Mesh extraction and tracing of the posed mesh."""

import pytest
import torch

from core.errors import InputError
from core.frames import BodyPose
from gs_ir.bvh import build_bvh, closest_hit, refit_bvh
from implicit_branch.deformation import forest
from implicit_branch.deformation.forest import replicate, shifts
from implicit_branch.deformation.proxy_mesh import ProxyTracer, extract_mesh
from implicit_branch.teacher import Teacher

BOX = torch.tensor([[-1.0, -0.8, -0.9], [1.1, 0.9, 0.7]])


def _ball(points: torch.Tensor) -> torch.Tensor:
    return (points - torch.tensor([0.1, 0.0, -0.1])).norm(dim=-1) - 0.5


def test_ball_has_its_radius_place_and_orientation():
    """Fails when axes are swapped, the grid is shifted by a cell, or triangles face inwards."""
    mesh = extract_mesh(_ball, BOX, 60)
    assert _ball(mesh.vertices).abs().max() < 2e-3
    corners = mesh.vertices[mesh.faces]
    volume = (corners[:, 0] * torch.linalg.cross(corners[:, 1], corners[:, 2])).sum() / 6
    assert float(volume) == pytest.approx(4 / 3 * torch.pi * 0.125, rel=0.02)


def test_only_cells_near_the_surface_are_evaluated():
    """Fails when the two-pass evaluation visits the whole fine lattice, or misses the surface."""
    visited = []
    mesh = extract_mesh(lambda p: visited.append(len(p)) or _ball(p), BOX, 120)
    assert sum(visited) < 0.35 * 120**3 * 0.81 * 0.76
    edges = torch.cat([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]]).sort(1).values
    _, counts = edges.unique(dim=0, return_counts=True)
    assert (counts == 2).all()


def test_floaters_are_dropped():
    """Fails when a speck away from the body stays in the proxy and casts shadows."""
    speck = torch.tensor([-0.8, -0.6, 0.5])
    mesh = extract_mesh(lambda p: torch.minimum(_ball(p), (p - speck).norm(dim=-1) - 0.04), BOX, 80)
    assert (mesh.vertices - speck).norm(dim=-1).min() > 0.2


def test_no_surface_is_reported():
    """Fails when an untrained field ends in an exception of the marching-cubes library."""
    with pytest.raises(InputError, match="surface"):
        extract_mesh(lambda p: torch.ones(len(p)), BOX, 20)


def test_tracer_follows_each_frame(teacher: Teacher, bent_pose: BodyPose):
    """Fails when a frame is traced with another frame's tree: rays to posed triangles must hit within a millimetre."""
    tracer: ProxyTracer = teacher.tracer(teacher.pose_space(bent_pose))
    for frame in (0, 1, 0):
        target = tracer.vertices[frame][tracer.mesh.faces[::311]].mean(1)
        depth = target.norm(dim=-1)
        index = torch.full((len(target),), frame)
        found = tracer.entry(torch.zeros_like(target), target / depth[:, None], index)
        assert (found <= depth + 1e-3).all()
        assert ((found - depth).abs() < 1e-3).float().mean() > 0.3


@pytest.mark.parametrize("copies", [1, 3, 20])
def test_copies_are_traced_as_each_alone(teacher: Teacher, copies: int):
    """Fails when a copy's nodes, triangles or place are another's: every frame against its own tree."""
    mesh = teacher.proxy
    generator = torch.Generator().manual_seed(0)
    world = mesh.vertices + 0.01 * torch.randn(copies, len(mesh.vertices), 3, generator=generator)
    tracer = ProxyTracer(mesh, world)
    frame = torch.randint(copies, (3000,), generator=generator)
    origins = mesh.vertices.mean(0) + 0.8 * torch.randn(3000, 3, generator=generator)
    directions = torch.nn.functional.normalize(torch.randn(3000, 3, generator=generator), dim=-1)
    hits = tracer.first_hit(origins, directions, frame, near=0.0, far=1.5)
    visible = tracer.visible(origins, directions, frame, near=0.0, far=1.5)
    assert (visible == (hits.face < 0)).all()
    for b in range(copies):
        own = frame == b
        expected = closest_hit(build_bvh(world[b], mesh.faces), origins[own], directions[own], 0.0, 1.5)
        met = expected.face >= 0
        # Rounding of the moved coordinates may turn hits at the rim of a triangle into misses.
        assert ((hits.face[own] >= 0) != met).float().mean() < 2e-3
        same = met & (hits.face[own] - b * len(mesh.faces) == expected.face)
        assert same.sum() >= 0.98 * met.sum()
        torch.testing.assert_close(hits.t[own][same], expected.t[same], atol=1e-4, rtol=0)


def test_a_tree_too_deep_to_copy_is_built_anew(teacher: Teacher, monkeypatch):
    """Fails when more levels than a traversal has room for are stacked, or the tree built instead differs."""
    tree = teacher.proxy.tree
    apart = (tree.vertices + shifts(2, tree.vertices)[:, None]).flatten(0, 1)
    copied = refit_bvh(replicate(tree, 2), apart)
    monkeypatch.setattr(forest, "DEEPEST", len(tree.level_offsets) - 1)
    built = replicate(tree, 2)
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(2000, 3, generator=generator), dim=-1)
    origins = apart[torch.randint(len(apart), (2000,), generator=generator)] - 0.5 * directions
    hits = [closest_hit(either, origins, directions, 0.0, 1.0) for either in (copied, built)]
    torch.testing.assert_close(hits[0].t, hits[1].t)
