"""The surfel set: oriented 2D Gaussian discs with materials, in canonical space (2DGS, Huang et al. 2024)."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from core.rotation import quaternion_to_matrix

ALBEDO_RANGE = (0.03, 0.80)
ROUGHNESS_RANGE = (0.09, 0.99)
METALLIC_RANGE = (0.0, 1.0)
"""The teacher's ranges, so that materials transfer as they are."""

SHAPES = {
    "positions": (3,), "log_scales": (2,), "quaternions": (4,), "opacity_logits": (), "features": (-1,),
    "albedo_logits": (3,), "roughness_logits": (), "metallic_logits": (),
}  # fmt: skip
"""Raw attributes and their trailing shapes (-1: any)."""


@dataclass(frozen=True)
class SurfaceMaterial:
    """Materials of N surfels."""

    albedo: Tensor
    """[N, 3] linear."""
    roughness: Tensor
    """[N] perceptual; ``ggx_alpha = roughness**2``."""
    metallic: Tensor
    """[N]."""

    @property
    def stacked(self) -> Tensor:
        """[N, 5] albedo, roughness, metallic."""
        return torch.cat([self.albedo, self.roughness[:, None], self.metallic[:, None]], 1)

    def scaled(self, albedo_gain: Tensor | None) -> "SurfaceMaterial":
        """The material with its albedo multiplied by a gain [3] (None: unchanged)."""
        if albedo_gain is None:
            return self
        return SurfaceMaterial(self.albedo * albedo_gain, self.roughness, self.metallic)


class Surfels(nn.Module):
    """N surfels as raw (unconstrained) parameters; the properties give the physical values."""

    positions: nn.Parameter
    """[N, 3] metres, canonical space."""
    log_scales: nn.Parameter
    """[N, 2] log of the two standard deviations in metres."""
    quaternions: nn.Parameter
    """[N, 4] wxyz, not normalised; columns 0 and 1 of the rotation are the tangents, column 2 the normal."""
    opacity_logits: nn.Parameter
    """[N]."""
    features: nn.Parameter
    """[N, F] input of the appearance head."""
    albedo_logits: nn.Parameter
    """[N, 3]."""
    roughness_logits: nn.Parameter
    """[N]."""
    metallic_logits: nn.Parameter
    """[N]."""

    def __init__(self, raw: dict[str, Tensor]) -> None:
        super().__init__()
        if set(raw) != set(SHAPES):
            raise ValueError(f"Surfels: attributes {sorted(SHAPES)} expected, found {sorted(raw)}")
        for name in SHAPES:
            setattr(self, name, nn.Parameter(raw[name].clone()))

    def __len__(self) -> int:
        return self.positions.shape[0]

    def raw(self) -> dict[str, Tensor]:
        """Detached raw attributes by name."""
        return {name: getattr(self, name).detach() for name in SHAPES}

    @property
    def scales(self) -> Tensor:
        """[N, 2] standard deviations in metres."""
        return self.log_scales.exp()

    @property
    def opacities(self) -> Tensor:
        """[N] in (0, 1)."""
        return self.opacity_logits.sigmoid()

    @property
    def rotations(self) -> Tensor:
        """[N, 3, 3] canonical frames: tangent u, tangent v, normal."""
        return quaternion_to_matrix(self.quaternions)

    @property
    def material(self) -> SurfaceMaterial:
        """Materials in the teacher's ranges."""
        logits = torch.cat([self.albedo_logits, self.roughness_logits[:, None], self.metallic_logits[:, None]], 1)
        low, extent = _material_range(logits.dtype, logits.device)
        albedo, roughness, metallic = torch.addcmul(low, extent, logits.sigmoid()).split([3, 1, 1], 1)
        return SurfaceMaterial(albedo, roughness.squeeze(1), metallic.squeeze(1))


def raw_attributes(
    positions: Tensor,
    quaternions: Tensor,
    scales: Tensor,
    *,
    opacity: float,
    feature_dim: int,
    material: SurfaceMaterial | None = None,
) -> dict[str, Tensor]:
    """Raw attributes of new surfels.

    Args:
        positions: [N, 3] metres.
        quaternions: [N, 4] wxyz.
        scales: [N] or [N, 2] standard deviations in metres.
        opacity: initial opacity in (0, 1).
        feature_dim: length F of the colour feature, which starts at zero.
        material: physical values; None starts all logits at 1, as the published system does.
    """
    count = positions.shape[0]
    if material is None:
        albedo, roughness, metallic = (positions.new_ones(shape) for shape in ((count, 3), (count,), (count,)))
    else:
        albedo = _from_range(material.albedo, ALBEDO_RANGE)
        roughness = _from_range(material.roughness, ROUGHNESS_RANGE)
        metallic = _from_range(material.metallic, METALLIC_RANGE)
    scales = scales[:, None].expand(count, 2) if scales.ndim == 1 else scales
    return {
        "positions": positions,
        "log_scales": scales.log(),
        "quaternions": quaternions,
        "opacity_logits": positions.new_full((count,), math.log(opacity / (1 - opacity))),
        "features": positions.new_zeros(count, feature_dim),
        "albedo_logits": albedo,
        "roughness_logits": roughness,
        "metallic_logits": metallic,
    }


@lru_cache(maxsize=8)
def _material_range(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Lowest value and extent, both [5], of albedo, roughness and metallic; kept for each device."""
    ranges = [*[ALBEDO_RANGE] * 3, ROUGHNESS_RANGE, METALLIC_RANGE]
    with torch.inference_mode(False):
        low, high = torch.tensor(ranges, dtype=dtype).T.contiguous().to(device)
        return low, high - low


def _from_range(values: Tensor, bounds: tuple[float, float]) -> Tensor:
    # A margin keeps the logits where the sigmoid still has a useful slope.
    return torch.logit((values - bounds[0]) / (bounds[1] - bounds[0]), eps=0.02)
