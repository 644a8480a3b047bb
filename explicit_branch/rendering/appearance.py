"""Appearance heads: the colour pathway that memorises the training light. Not used for relighting."""

import math
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from core.rotation import axis_angle_to_matrix
from core.spherical_harmonics import eval_basis_cubic
from core.transfer import upload
from core.vectors import unit
from explicit_branch.deformation.deformation import PosedSurfels
from explicit_branch.deformation.networks import mlp


@dataclass(frozen=True)
class View:
    """When and at which stage of training the surfels are seen."""

    frame_index: int | None = None
    """Row of per-frame latents; None for frames outside the training set."""
    generator: torch.Generator | None = None
    """Given while training: source of the view jitter."""


class AppearanceHead(nn.Module):
    """Maps surfel features to colours in sRGB space, compared directly with images."""

    feature_dim: int
    """Length of the surfels' colour feature."""
    non_rigid_dim: int = 0
    """Length of the feature expected from the non-rigid module."""

    @abstractmethod
    def forward(self, features: Tensor, posed: PosedSurfels, view: View) -> Tensor:
        """Colours [N, 3] of ``features`` [N, F]."""


class ReflectionHead(AppearanceHead):
    """Feature, world normal and SH of the reflected view direction through 64-64 (the published default)."""

    def __init__(
        self, *, frames: int, feature_dim: int = 32, width: int = 64, depth: int = 2, sh_degree: int = 3
    ) -> None:
        super().__init__()
        del frames
        self.feature_dim, self.sh_degree = feature_dim, sh_degree
        self.network = mlp(feature_dim + 3 + (sh_degree + 1) ** 2 - 1, 3, width=width, depth=depth)

    def forward(self, features: Tensor, posed: PosedSurfels, view: View) -> Tensor:
        normals = posed.normals
        reflected = torch.addcmul(-posed.to_viewer, normals, posed.cosine, value=2)
        harmonics = eval_basis_cubic(reflected, self.sh_degree)[:, 1:]
        return self.network(torch.cat([features, normals, harmonics], -1)).sigmoid()


class CanonicalViewHead(AppearanceHead):
    """Feature, latents and SH of the canonical view direction, which is jittered while training (3DGS-Avatar)."""

    JITTER = math.radians(45)

    def __init__(
        self,
        *,
        frames: int,
        feature_dim: int = 32,
        non_rigid_dim: int = 16,
        latent_dim: int = 16,
        width: int = 64,
        depth: int = 2,
        sh_degree: int = 3,
    ) -> None:
        super().__init__()
        self.feature_dim, self.non_rigid_dim, self.sh_degree = feature_dim, non_rigid_dim, sh_degree
        self.latents = nn.Embedding(max(frames, 1), latent_dim)
        inputs = feature_dim + non_rigid_dim + latent_dim + (sh_degree + 1) ** 2 - 1
        self.network = mlp(inputs, 3, width=width, depth=depth)

    def forward(self, features: Tensor, posed: PosedSurfels, view: View) -> Tensor:
        directions = canonical_view_directions(posed)
        if view.generator is not None:
            angles = (torch.rand(3, generator=view.generator) * 2 - 1) * self.JITTER
            directions = directions @ upload(axis_angle_to_matrix(angles), directions)
        harmonics = eval_basis_cubic(directions, self.sh_degree)[:, 1:]
        count = features.shape[0]
        non_rigid = posed.offsets.feature if posed.offsets is not None else None
        if non_rigid is None:
            non_rigid = features.new_zeros(count, self.non_rigid_dim)
        # Frames outside the training set take the mean latent.
        table = self.latents.weight
        latent = table.mean(0) if view.frame_index is None else table[view.frame_index]
        return self.network(torch.cat([features, non_rigid, latent.expand(count, -1), harmonics], -1)).sigmoid()


class SphericalHarmonicsHead(AppearanceHead):
    """Classic SH colours of the canonical view direction (3DGS); the feature holds 3 (degree + 1)^2 coefficients."""

    def __init__(self, *, frames: int, sh_degree: int = 3) -> None:
        super().__init__()
        del frames
        self.sh_degree = sh_degree
        self.feature_dim = 3 * (sh_degree + 1) ** 2

    def forward(self, features: Tensor, posed: PosedSurfels, view: View) -> Tensor:
        basis = eval_basis_cubic(canonical_view_directions(posed), self.sh_degree)
        coefficients = features.reshape(features.shape[0], -1, 3)
        return ((basis[..., None] * coefficients).sum(1) + 0.5).clamp_min(0)


def canonical_view_directions(posed: PosedSurfels) -> Tensor:
    """Unit directions [N, 3] from the camera to each surfel, turned back into the canonical pose."""
    linear = posed.world_from_canonical[:, :, :3]
    return unit(-(linear.transpose(1, 2) @ posed.to_viewer[..., None]).squeeze(-1))
