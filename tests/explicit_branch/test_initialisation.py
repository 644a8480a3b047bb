"""Where surfels start."""

import torch

from explicit_branch.initialisation import sample_box, sample_mesh, spacing, surfels_on


def test_mesh_sampling_is_uniform_by_area():
    """Fails when faces are picked uniformly instead of by area, or points bunch inside a face."""
    vertices = torch.tensor([[0.0, 0, 0], [4, 0, 0], [0, 1, 0], [4, 1, 0], [9, 0, 5], [9, 0.1, 5], [9, 0, 5.1]])
    faces = torch.tensor([[0, 1, 2], [1, 3, 2], [4, 5, 6]])
    cloud = sample_mesh(vertices, faces, 20000, torch.Generator().manual_seed(0))
    plane = cloud.points[cloud.points[:, 2] < 1]
    counts = torch.histogramdd(plane[:, :2], bins=[8, 4], range=[0.0, 4, 0, 1]).hist
    expected = len(plane) / 32
    assert float(((counts - expected) ** 2 / expected).sum()) < 31 + 4 * 62**0.5
    assert abs(len(plane) / 20000 - 4 / 4.005) < 1e-3
    assert bool((cloud.normals[cloud.points[:, 2] < 1] - torch.tensor([0.0, 0, 1])).abs().max() < 1e-5)


def test_spacing_of_a_lattice():
    """Fails when a point counts itself as its neighbour."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(5.0)] * 3, indexing="ij"), -1).reshape(-1, 3) * 0.1
    torch.testing.assert_close(spacing(grid), torch.full((125,), 0.1))


def test_surfels_lie_in_the_surface_with_the_teachers_materials(body, teacher):
    """Fails when surfels start with random tilt or constant materials, as the published ones do."""
    cloud = sample_mesh(body.vertices, body.faces, 500, torch.Generator().manual_seed(0))
    surfels = surfels_on(cloud, feature_dim=32, teacher=teacher)
    sample = teacher.query_canonical(surfels.positions.detach())
    cosine = (surfels.rotations[:, :, 2] * sample.normal).sum(-1)
    assert float(cosine.mean().detach()) > 0.999
    assert float(sample.sdf.abs().mean()) < 1e-4
    torch.testing.assert_close(surfels.material.albedo[0].detach(), torch.tensor([0.5, 0.3, 0.2]), atol=1e-3, rtol=0)


def test_box_sampling_fills_the_box():
    """Fails when random initialisation leaves the canonical box."""
    box = torch.tensor([[-1.0, 0, 2], [1, 3, 4]])
    cloud = sample_box(box, 4000, torch.Generator().manual_seed(0))
    assert bool(((cloud.points >= box[0]) & (cloud.points <= box[1])).all())
    torch.testing.assert_close(cloud.points.mean(0), box.mean(0), atol=0.06, rtol=0)
