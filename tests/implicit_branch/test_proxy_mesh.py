"""Mesh extraction and tracing of the posed mesh."""

import pytest
import torch

from core.errors import InputError
from core.frames import BodyPose
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
        hits = tracer.first_hit(torch.zeros_like(target), target / depth[:, None], frame, near=0.0, far=100.0)
        assert (hits.t <= depth + 1e-3).all()
        assert ((hits.t - depth).abs() < 1e-3).float().mean() > 0.3
