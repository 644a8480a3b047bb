"""The surface: a signed distance over canonical space."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gs_ir.field import field_fits, field_values
from gs_ir.mlp import MAX_SDF_INPUTS, sdf_mlp
from implicit_branch.fields.encoding import HashEncoding, NativeGrid
from implicit_branch.fields.mlp import SoftplusMlp, fusible


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
        half_precision: bool = False,
    ) -> None:
        """``half_precision``: on a GPU, tables rounded to half precision and fused kernels where the network fits."""
        super().__init__()
        self.encoding = HashEncoding(**xyz_encoding, half_precision=half_precision)
        self.half_precision = half_precision
        self.network = SoftplusMlp(self.encoding.features, feature_dim, hidden=n_neurons, layers=n_hidden_layers)
        with torch.no_grad():
            self.network.initialise_as_sphere(sphere_init_radius)
        if weight_norm:
            self.network.normalise_weights()
        self.feature_dim = feature_dim

    def distance(self, points: Tensor) -> Tensor:
        """Signed distance [N] in metres at canonical ``points`` [N, 3]."""
        return self._values(points, outputs=1)[:, 0]

    def features(self, points: Tensor) -> Tensor:
        """Geometry feature [N, F] at canonical ``points`` [N, 3]."""
        return self._values(points, outputs=self.feature_dim)

    def forward(self, points: Tensor) -> SurfaceSample:
        """Distance, gradient and feature at canonical ``points`` [N, 3]; all differentiable in the parameters."""
        grid, layers = self.encoding.grid, self._fused_layers(points)
        if layers is not None and isinstance(grid, NativeGrid):
            features, jacobian = grid.with_jacobian(self.encoding.unit(points), self.encoding.active_levels)
            # Coordinates in [-1, 1] move twice as fast as those in the unit cube.
            outputs, gradient = sdf_mlp(self.encoding.signed_unit(points), features, jacobian, layers, scale=2.0)
            return SurfaceSample(outputs[:, 0], gradient * self.encoding.unit_scale, outputs)
        encoded, pull_back = self.encoding.with_pull_back(points)
        outputs, gradient = self.network.with_gradient(encoded)
        return SurfaceSample(outputs[:, 0], pull_back(gradient), outputs)

    def _values(self, points: Tensor, *, outputs: int) -> Tensor:
        """The first ``outputs`` outputs [N, outputs]."""
        grid = self.encoding.grid
        layers = None if torch.is_grad_enabled() else self._fused_layers(points)
        if layers is None or not isinstance(grid, NativeGrid) or not field_fits(grid.layout, layers):
            return self.network(self.encoding(points))[:, :outputs]
        first = [*layers[:-2], *(x[:outputs] for x in layers[-2:])]
        where, active = self.encoding.unit(points), self.encoding.active_levels
        return field_values(
            where, grid.table, grid.layout, first, smooth=True, active_levels=active, compact=grid.compact()
        )

    def _fused_layers(self, points: Tensor) -> list[Tensor] | None:
        """The network's weights and biases where the fused kernels take them."""
        if not self.half_precision:
            return None
        layers = self.network.tensors()
        one_hidden_layer = len(layers) == 4 and layers[0].shape[1] <= MAX_SDF_INPUTS
        return layers if one_hidden_layer and fusible(layers, points, parts=2) else None
