"""Skinning weights of canonical points: from the body model's vertices, from a learned field, or none at all."""

from abc import abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from body_models.canonical import CanonicalBody
from core.transfer import upload
from explicit_branch.deformation.networks import mlp
from gs_ir.nearest import nearest_neighbours


class SkinningWeights(nn.Module):
    """Maps canonical points [N, 3] to weights [N, 24] that sum to 1."""

    trainable: bool = False
    """Whether the weights have parameters; fixed ones are cached between refreshes."""

    @abstractmethod
    def forward(self, points: Tensor) -> Tensor:
        """Weights [N, 24] of ``points`` [N, 3] in canonical space, metres."""

    def regularisation(self, generator: torch.Generator) -> Tensor | None:
        """A scalar that keeps learned weights near the body model's; None where there is nothing to learn."""
        return None


class NearestVertices(SkinningWeights):
    """Mean of the weights of the nearest body vertices, weighted by exp(-d^2) (`smpl_knn`; K = 1 is `smpl_nn`).

    At the distances met on a body (centimetres) the exponentials differ by less than 1e-3, so this is nearly the plain
    average of K vertices.
    """

    vertices: Tensor
    vertex_weights: Tensor

    def __init__(self, *, body: CanonicalBody, neighbours: int = 7) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.register_buffer("vertices", body.vertices, persistent=False)
        self.register_buffer("vertex_weights", body.weights, persistent=False)

    @torch.no_grad()
    def forward(self, points: Tensor) -> Tensor:
        squared, indices = nearest_neighbours(points, self.vertices, self.neighbours)
        weights = torch.exp(-squared.clamp(0, 4))
        weights = weights / weights.sum(-1, keepdim=True)
        return torch.einsum("nk,nkj->nj", weights, self.vertex_weights[indices])


class RootOnly(SkinningWeights):
    """No articulation: every point follows the root joint (`identity`)."""

    def __init__(self, *, body: CanonicalBody) -> None:
        super().__init__()
        self.joints = body.weights.shape[1]

    def forward(self, points: Tensor) -> Tensor:
        weights = points.new_zeros(points.shape[0], self.joints)
        weights[:, 0] = 1
        return weights


class SkinningNetwork(SkinningWeights):
    """Weights from a small network on box-normalised points (`skinning_field`), softmax over the kinematic tree.

    The tree form (SNARF, Chen et al. 2021): every joint hands a part of its own weight on to its children, so distant
    joints cannot share a point. The 25th logit is the root's share.
    """

    trainable = True
    vertices: Tensor
    vertex_weights: Tensor
    faces: Tensor
    box: Tensor

    def __init__(
        self,
        *,
        body: CanonicalBody,
        width: int = 128,
        depth: int = 4,
        soft_blend: float = 20.0,
        n_reg_pts: int = 1024,
    ) -> None:
        super().__init__()
        self.soft_blend, self.samples = soft_blend, n_reg_pts
        self.parents = [int(parent) for parent in body.body.parents]
        self.network = mlp(3, len(self.parents) + 1, width=width, depth=depth)
        self.register_buffer("vertices", body.vertices, persistent=False)
        self.register_buffer("vertex_weights", body.weights, persistent=False)
        self.register_buffer("faces", body.faces, persistent=False)
        self.register_buffer("box", body.box, persistent=False)

    def forward(self, points: Tensor) -> Tensor:
        normalised = 2 * (points - self.box[0]) / (self.box[1] - self.box[0]) - 1
        return hierarchical_softmax(self.network(normalised) * self.soft_blend, self.parents)

    def regularisation(self, generator: torch.Generator) -> Tensor:
        """Mean squared difference to the body's weights at random points of its faces."""
        picked = torch.randint(len(self.faces), (self.samples,), generator=generator)
        corners = self.faces[upload(picked, self.vertices)]
        barycentric = upload(torch.rand(self.samples, 3, generator=generator), self.vertices).log().neg()
        barycentric = (barycentric / barycentric.sum(-1, keepdim=True))[..., None]
        points = (self.vertices[corners] * barycentric).sum(1)
        target = (self.vertex_weights[corners] * barycentric).sum(1)
        return functional.mse_loss(self(points), target)


def hierarchical_softmax(logits: Tensor, parents: list[int]) -> Tensor:
    """Weights [N, J] that sum to 1 from logits [N, J + 1] by splitting each joint's share among its children.

    Joint j keeps ``1 - p_j`` of the share it is given and passes ``p_j = sigmoid(logit_j)`` on; siblings divide it by a
    softmax of their own logits. The last logit is the gate of the root.
    """
    joints = len(parents)
    children: list[list[int]] = [[c for c in range(joints) if parents[c] == j] for j in range(joints)]
    share: list[Tensor] = [torch.ones_like(logits[:, 0])] * joints
    kept: list[Tensor] = [share[0]] * joints
    for joint in range(joints):  # parents precede children in the SMPL skeleton
        if not children[joint]:
            kept[joint] = share[joint]
            continue
        gate = torch.sigmoid(logits[:, joint if joint else joints])
        kept[joint] = share[joint] * (1 - gate)
        split = torch.softmax(logits[:, children[joint]], -1)
        for column, child in enumerate(children[joint]):
            share[child] = share[joint] * gate * split[:, column]
    return torch.stack(kept, -1)
