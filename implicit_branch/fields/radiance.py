"""The radiance field: outgoing linear radiance under the training light."""

import torch
from torch import Tensor, nn

from core.spherical_harmonics import eval_basis, eval_basis_cubic
from gs_ir.normals import reflected_harmonics
from implicit_branch.fields.encoding import HashEncoding
from implicit_branch.fields.mlp import relu_mlp, relu_mlp_of_parts


class RadianceField(nn.Module):
    """Appearance grid and a two-layer network on appearance, geometry, reflected view direction and normal.

    Direction and normal are world-space vectors: the body moves under a light that stands still, so shading has to
    depend on where the surface faces in the world.
    """

    def __init__(
        self,
        *,
        xyz_encoding: dict,
        geometry_features: int,
        sh_degree: int = 4,
        n_neurons: int = 64,
        n_hidden_layers: int = 2,
        half_precision: bool = False,
    ) -> None:
        """``half_precision``: on a GPU, tables rounded to half precision and fused kernels where the network fits."""
        super().__init__()
        self.encoding = HashEncoding(**xyz_encoding, half_precision=half_precision)
        self.half_precision = half_precision
        self.sh_bands = sh_degree
        inputs = self.encoding.features + geometry_features + sh_degree**2 + 3
        self.network = relu_mlp(inputs, 3, hidden=n_neurons, layers=n_hidden_layers)

    def appearance(self, points: Tensor) -> Tensor:
        """Appearance feature [N, F] at canonical ``points`` [N, 3]; shared with the materials."""
        return self.encoding(points)

    def forward(self, appearance: Tensor, geometry: Tensor, normal: Tensor, view_dir: Tensor) -> Tensor:
        """Linear radiance [N, 3] in (0, 1).

        Args:
            appearance: [N, F] of :meth:`appearance`.
            geometry: [N, G] geometry feature.
            normal: [N, 3] unit, world.
            view_dir: [N, 3] unit, world, from the surface to the eye.
        """
        parts = appearance, geometry, self._basis(normal, view_dir), normal
        return torch.sigmoid(relu_mlp_of_parts(self.network, parts, fused=self.half_precision))

    def _basis(self, normal: Tensor, view_dir: Tensor) -> Tensor:
        """[N, sh_bands**2] along the reflected direction."""
        if self.sh_bands == 4 and not torch.is_grad_enabled():
            return reflected_harmonics(normal, view_dir)
        reflected = torch.addcmul(-view_dir, normal, (normal * view_dir).sum(-1, keepdim=True), value=2)
        # Up to band 3 there is a way of few operators.
        return (eval_basis_cubic if self.sh_bands <= 4 else eval_basis)(reflected, self.sh_bands - 1)
