"""The surface: a signed distance over canonical space."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from implicit_branch.fields.encoding import HashEncoding
from implicit_branch.fields.mlp import SoftplusMlp


class SurfaceSample(NamedTuple):
    """The surface field at canonical points."""

    sdf: Tensor
    """[N] metres, negative inside."""
    gradient: Tensor
    """[N, 3] gradient of the distance, canonical space, not normalised."""
    features: Tensor
    """[N, F] geometry feature; channel 0 is the distance."""


class SdfField(nn.Module):
    """Hash grid and a one-layer softplus network (35 to 64 to 13 in the published size)."""

    def __init__(
        self,
        *,
        xyz_encoding: dict,
        feature_dim: int = 13,
        n_neurons: int = 64,
        n_hidden_layers: int = 1,
        weight_norm: bool = True,
        sphere_init_radius: float = 0.5,
    ) -> None:
        super().__init__()
        self.encoding = HashEncoding(**xyz_encoding)
        self.network = SoftplusMlp(self.encoding.features, feature_dim, hidden=n_neurons, layers=n_hidden_layers)
        with torch.no_grad():
            self.network.initialise_as_sphere(sphere_init_radius)
        if weight_norm:
            self.network.normalise_weights()
        self.feature_dim = feature_dim

    def distance(self, points: Tensor) -> Tensor:
        """Signed distance [N] in metres at canonical ``points`` [N, 3]."""
        return self.network(self.encoding(points))[:, 0]

    def features(self, points: Tensor) -> Tensor:
        """Geometry feature [N, F] at canonical ``points`` [N, 3]."""
        return self.network(self.encoding(points))

    def forward(self, points: Tensor) -> SurfaceSample:
        """Distance, gradient and feature at canonical ``points`` [N, 3]; all differentiable in the parameters."""
        encoded, pull_back = self.encoding.with_pull_back(points)
        outputs, gradient = self.network.with_gradient(encoded)
        return SurfaceSample(outputs[:, 0], pull_back(gradient), outputs)
