"""Pose-dependent offsets of surfels in canonical space, before skinning (3DGS-Avatar, Qian et al. 2024)."""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from body_models.canonical import CanonicalBody
from explicit_branch.deformation.networks import PoseEncoder, SkipMlp, frequency_encoding, mlp
from gs_ir.hash_grid import HashGridLayout, encode

OFFSETS = 9
"""Position 3, log scale 2, quaternion 4."""


@dataclass(frozen=True)
class Offsets:
    """Additive changes of raw surfel attributes."""

    position: Tensor
    """[N, 3] metres."""
    log_scale: Tensor
    """[N, 2]."""
    quaternion: Tensor
    """[N, 4] added to the raw quaternion."""
    feature: Tensor | None
    """[N, D] for the appearance head; None where D = 0."""

    def penalties(self) -> dict[str, Tensor]:
        """Mean squared size of the offsets, by the name of their weight."""
        return {"nr_xyz": self.position.square().mean(), "nr_scale": self.log_scale.square().mean(),
                "nr_rot": self.quaternion.square().mean()}  # fmt: skip


class NonRigid(nn.Module):
    """Maps canonical points and a pose to ``Offsets``; None while it is switched off."""

    @abstractmethod
    def forward(self, points: Tensor, axis_angles: Tensor, iteration: float) -> Offsets | None:
        """Offsets at ``points`` [N, 3] under the pose ``axis_angles`` [24, 3] at a training ``iteration``."""


class Rigid(NonRigid):
    """No offsets (`identity`)."""

    def __init__(self, *, body: CanonicalBody) -> None:
        super().__init__()
        del body

    def forward(self, points: Tensor, axis_angles: Tensor, iteration: float) -> None:
        return None


class PosedOffsets(NonRigid):
    """A network on an encoding of the box-normalised point and the pose code; subclasses choose both."""

    box: Tensor

    def __init__(self, *, body: CanonicalBody, delay: int, feature_dim: int) -> None:
        super().__init__()
        self.delay, self.feature_dim = delay, feature_dim
        self.pose_encoder = PoseEncoder(joints=body.joints, parents=[int(parent) for parent in body.body.parents])
        self.register_buffer("box", body.box, persistent=False)

    @abstractmethod
    def encode(self, normalised: Tensor, iteration: float) -> Tensor:
        """Encoding [N, E] of points [N, 3] in [0, 1] at a training iteration."""

    @abstractmethod
    def decode(self, inputs: Tensor) -> Tensor:
        """Network output [N, 9 + D] from encoding and pose code [N, E + 144]."""

    def forward(self, points: Tensor, axis_angles: Tensor, iteration: float) -> Offsets | None:
        if iteration < self.delay:
            return None
        normalised = (points.detach() - self.box[0]) / (self.box[1] - self.box[0])
        code = self.pose_encoder(axis_angles).expand(points.shape[0], -1)
        output = self.decode(torch.cat([self.encode(normalised, iteration), code], -1))
        position, log_scale, quaternion, feature = output.split([3, 2, 4, self.feature_dim], -1)
        return Offsets(position, log_scale, quaternion, feature if self.feature_dim else None)


class OffsetNetwork(PosedOffsets):
    """Eight layers of 256 on a frequency encoding (`mlp`); `hannw_mlp` opens the frequencies until ``full_band_at``."""

    def __init__(
        self,
        *,
        body: CanonicalBody,
        delay: int = 3000,
        feature_dim: int = 0,
        width: int = 256,
        depth: int = 8,
        skip: int = 4,
        frequencies: int = 6,
        full_band_at: int | None = None,
    ) -> None:
        super().__init__(body=body, delay=delay, feature_dim=feature_dim)
        self.frequencies, self.full_band_at = frequencies, full_band_at
        inputs = 3 + 6 * frequencies + self.pose_encoder.outputs
        self.network = SkipMlp(inputs, OFFSETS + feature_dim, width=width, depth=depth, skip=skip)

    def encode(self, normalised: Tensor, iteration: float) -> Tensor:
        band = None
        if self.full_band_at is not None:
            band = self.frequencies * (iteration - self.delay) / max(self.full_band_at - self.delay, 1)
        return frequency_encoding(2 * normalised - 1, self.frequencies, band)

    def decode(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)


class OffsetHashGrid(PosedOffsets):
    """Three layers of 128 on a multiresolution hash grid (`hashgrid`)."""

    def __init__(
        self,
        *,
        body: CanonicalBody,
        delay: int = 3000,
        feature_dim: int = 0,
        width: int = 128,
        depth: int = 3,
        log2_size: int = 16,
        growth: float = 1.382,
    ) -> None:
        super().__init__(body=body, delay=delay, feature_dim=feature_dim)
        self.layout = HashGridLayout(log2_size=log2_size, growth=growth)
        self.table = nn.Parameter(torch.empty(self.layout.entries, self.layout.features).uniform_(-1e-4, 1e-4))
        inputs = self.layout.levels * self.layout.features + self.pose_encoder.outputs
        self.network = mlp(inputs, OFFSETS + feature_dim, width=width, depth=depth, small_output=True)

    def encode(self, normalised: Tensor, iteration: float) -> Tensor:
        return encode(normalised.clamp(0, 1), self.table, self.layout)

    def decode(self, inputs: Tensor) -> Tensor:
        return self.network(inputs)
