"""The material field: albedo, roughness and metallic over canonical space."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from implicit_branch.fields.mlp import LipschitzMlp

ALBEDO_RANGE = (0.03, 0.80)
"""Reflectances of real surfaces; the upper end also fixes the scale between albedo and light."""
ROUGHNESS_RANGE = (0.09, 0.99)
FEATURES = ("hybrid", "geometry", "radiance")


class Material(NamedTuple):
    """Surface properties at points."""

    albedo: Tensor
    """[N, 3] linear."""
    roughness: Tensor
    """[N] perceptual."""
    metallic: Tensor
    """[N]."""


class MaterialField(nn.Module):
    """Network on the appearance and/or geometry feature with sigmoid outputs mapped into physical ranges."""

    def __init__(
        self,
        *,
        appearance_features: int,
        geometry_features: int,
        material_feature: str = "hybrid",
        n_neurons: int = 64,
        n_hidden_layers: int = 2,
        initial_roughness: float = 0.55,
        initial_metallic: float = 0.05,
        half_precision: bool = False,
    ) -> None:
        """``half_precision``: on a GPU, fused kernels where the network fits."""
        super().__init__()
        self.half_precision = half_precision
        if material_feature not in FEATURES:
            raise ValueError(f"material_feature: found {material_feature!r}, expected one of {FEATURES}")
        self.uses_appearance = material_feature != "geometry"
        self.uses_geometry = material_feature != "radiance"
        inputs = self.uses_appearance * appearance_features + self.uses_geometry * geometry_features
        self.network = LipschitzMlp(inputs, 5, hidden=n_neurons, layers=n_hidden_layers)
        with torch.no_grad():
            self._start_at(initial_roughness, initial_metallic)

    def _start_at(self, roughness: float, metallic: float) -> None:
        # Cloth and skin: the bias starts where most surfaces are, and the last layer's weights are small.
        last = self.network.layers[-1]
        last.weight.mul_(0.1)
        low, high = ROUGHNESS_RANGE
        last.bias[3] = torch.logit(torch.tensor((roughness - low) / (high - low)))
        last.bias[4] = torch.logit(torch.tensor(metallic))

    def forward(self, appearance: Tensor, geometry: Tensor) -> Material:
        """Material at N points: albedo [N, 3] linear, roughness [N] perceptual, metallic [N]."""
        parts = [appearance] * self.uses_appearance + [geometry] * self.uses_geometry
        raw = torch.sigmoid(self.network(*parts, fused=self.half_precision))
        albedo = ALBEDO_RANGE[0] + (ALBEDO_RANGE[1] - ALBEDO_RANGE[0]) * raw[:, :3]
        roughness = ROUGHNESS_RANGE[0] + (ROUGHNESS_RANGE[1] - ROUGHNESS_RANGE[0]) * raw[:, 3]
        return Material(albedo, roughness, raw[:, 4])
