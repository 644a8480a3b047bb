"""Random surfels under random bones before a camera, for the tests of ``gs_ir.posing``."""

import torch
from torch import Tensor

from gs_ir.posing import PosingRules, SeenSurfels, pose_surfels
from gs_ir.reference import posing as reference

JOINTS = 5
ATTRIBUTES = 4
"""First inputs, which get gradients."""
RULES = [
    PosingRules(normals, area_opacity, samples)
    for normals, area_opacity, samples in [("visible", True, 1), ("published", True, 2), ("given", False, 1)]
]


def inputs(count: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, ...]:
    """Arguments of the operator. Discs of a tenth of a pixel to ten pixels, front and back, away from every kink."""
    generator = torch.Generator().manual_seed(seed)
    made = _draw(8 * count + 8, generator)
    kept = _smooth(made).nonzero()[:count, 0]
    assert len(kept) == count
    attributes = [x[kept] for x in made[:5]]
    return tuple(x.to(dtype).contiguous() for x in (*attributes, *made[5:]))


def native(*tensors: Tensor, rules: PosingRules) -> tuple[Tensor, ...]:
    """The operator's nine outputs."""
    return outputs_of(
        pose_surfels(
            *tensors[:4],
            weights=tensors[4],
            bones=tensors[5],
            camera_from_world=tensors[6],
            intrinsics=tensors[7],
            rules=rules,
        )
    )


def by_reference(*tensors: Tensor, rules: PosingRules) -> tuple[Tensor, ...]:
    """The reference's nine outputs."""
    return reference.pose_surfels(
        *tensors,
        normals=reference.NORMAL_RULES.index(rules.normals),
        area_opacity=rules.area_opacity,
        samples=float(rules.samples**2),
    )


def outputs_of(seen: SeenSurfels) -> tuple[Tensor, ...]:
    """The tensors of ``seen`` in order."""
    return tuple(vars(seen).values())


def _draw(count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = normal(count, JOINTS).mul(3).softmax(-1)
    weights = torch.where(weights < 0.01, 0, weights)
    turn = torch.linalg.qr(normal(3, 3)).Q
    turn = turn * torch.linalg.det(turn)
    camera = torch.eye(4, dtype=torch.float64)
    camera[:3, :3], camera[:3, 3] = turn, torch.tensor([0.1, -0.2, 3.0])
    bones = torch.cat([torch.linalg.qr(normal(JOINTS, 3, 3)).Q, 0.3 * normal(JOINTS, 3, 1)], -1)
    focal = torch.tensor([[90.0, 0, 32], [0, 80, 30], [0, 0, 1]], dtype=torch.float64)
    log_scales = torch.log(torch.tensor(0.03)) + normal(count, 2)
    return 0.5 * normal(count, 3), log_scales, 2 * normal(count, 4), normal(count), weights, bones, camera, focal


def _smooth(tensors: tuple[Tensor, ...]) -> Tensor:
    """Whether [N] each surfel is away from kinks: grazing views, a disc as large as the filter, faded out just now."""
    seen = by_reference(*tensors, rules=PosingRules())
    cosine = seen[7][:, 0]
    fade = (cosine / 0.1 + 1).clamp(1e-3, 1)
    coverage = seen[8] / tensors[3].sigmoid() / fade  # at most 1; four times as large with four samples a pixel
    kinks = [cosine.abs() < 0.02, (cosine + 0.1).abs() < 0.02, (cosine + 0.3).abs() < 0.02]
    kinks += [(coverage > 0.9) & (coverage < 1 - 1e-9), (4 * coverage - 1).abs() < 0.1]
    return ~torch.stack(kinks).any(0)
