"""Skinning weights: known points of the body, learned fields, and the kinematic tree."""

import pytest
import torch

from explicit_branch.deformation.rigid import NearestVertices, RootOnly, SkinningNetwork, hierarchical_softmax


def posed(points, weights, body, pose):
    """Linear blend skinning of canonical points, written out."""
    transforms = torch.einsum("nj,jab->nab", weights, body.bone_transforms(pose))
    return (transforms[:, :3, :3] @ points[..., None]).squeeze(-1) + transforms[:, :3, 3]


def test_body_vertices_land_on_the_posed_body(body, pose_of):
    """Fails when canonical and posed body disagree, or a vertex is not its own nearest (acceptance test 3)."""
    pose, truth = pose_of(0.7), body.pose_vertices(pose_of(0.7))
    exact = posed(body.vertices, NearestVertices(body=body, neighbours=1)(body.vertices), body, pose)
    assert float((exact - truth).norm(dim=-1).max()) < 1e-5
    averaged = posed(body.vertices, NearestVertices(body=body)(body.vertices), body, pose)
    assert float((averaged - truth).norm(dim=-1).mean()) < 3e-3


def test_average_is_nearly_plain(body):
    """Fails when exp(-d^2) uses another unit: at centimetres it must not prefer the nearest vertex."""
    points = body.vertices[::500] + 0.01
    distances = torch.cdist(points, body.vertices)
    plain = body.weights[distances.topk(7, largest=False).indices].mean(1)
    torch.testing.assert_close(NearestVertices(body=body)(points), plain, atol=2e-3, rtol=0)


def test_root_only_follows_the_pelvis(body):
    """Fails when `identity` articulates."""
    weights = RootOnly(body=body)(body.vertices[:5])
    assert bool((weights[:, 0] == 1).all())
    assert float(weights.sum()) == 5


def test_hierarchical_softmax_is_a_partition_along_the_tree(body):
    """Fails when shares are lost, or a closed gate still hands weight to a subtree."""
    parents = [int(p) for p in body.body.parents]
    torch.manual_seed(0)
    logits = torch.randn(9, 25)
    weights = hierarchical_softmax(logits, parents)
    torch.testing.assert_close(weights.sum(-1), torch.ones(9))
    logits[:, 16] = -100  # the left shoulder keeps everything: nothing reaches elbow, wrist, hand
    assert float(hierarchical_softmax(logits, parents)[:, [18, 20, 22]].max()) < 1e-6


@pytest.mark.parametrize("steps", [150])
def test_skinning_network_learns_the_body(body, steps):
    """Fails when the regulariser does not reach the network."""
    torch.manual_seed(0)
    network = SkinningNetwork(body=body, width=32, depth=2)
    adam = torch.optim.Adam(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    first = float(network.regularisation(generator).detach())
    for _ in range(steps):
        loss = network.regularisation(generator)
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert float(loss.detach()) < 0.3 * first
