"""Starting shapes of the signed-distance field."""

import torch
from torch import Tensor

from body_models import CanonicalBody
from gs_ir.bvh import build_bvh, signed_distance
from implicit_branch.fields.sdf import SdfField

NEAR = 0.06
"""Metres: standard deviation of the points that are drawn around the body."""


POOL = 16
"""Batches' worth of points whose distances are computed, once."""


def fit_to_mesh(
    geometry: SdfField, vertices: Tensor, faces: Tensor, *, steps: int, points: int = 4096, rate: float = 5e-3
) -> float:
    """Regress ``geometry`` to the signed distance of a closed mesh.

    Three quarters of the points lie around the surface, the rest anywhere in the field's box. Distance and (eikonal)
    gradient length are fitted with Adam; the result starts training close to a body instead of a ball.

    Args:
        geometry: the field, changed in place.
        vertices: [V, 3] canonical, metres.
        faces: [F, 3].
        steps: optimiser steps.
        points: points per step.
        rate: learning rate, decayed to a tenth.

    Returns:
        mean absolute error in metres of the last step.
    """
    generator = torch.Generator(device=vertices.device).manual_seed(0)
    bvh = build_bvh(vertices, faces)
    optimiser = torch.optim.Adam(geometry.parameters(), rate, betas=(0.9, 0.99), eps=1e-15, fused=True)
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.1 ** (step / steps))
    pool = _points(vertices, faces, geometry.encoding.box, POOL * points, generator)
    distances = signed_distance(bvh, pool)
    error = vertices.new_zeros(())
    for _ in range(steps):
        batch = torch.randint(len(pool), (points,), generator=generator, device=vertices.device)
        where, target = pool[batch], distances[batch]
        sample = geometry(where)
        # Far away the sign and the rough size are enough; near the surface millimetres matter.
        error = ((sample.sdf - target).abs() / (1 + 10 * target.abs())).mean()
        eikonal = (sample.gradient.norm(dim=-1) - 1).square().mean()
        optimiser.zero_grad()
        (error + 0.02 * eikonal).backward()
        optimiser.step()
        decay.step()
    return float(error.detach())


def _points(vertices: Tensor, faces: Tensor, box: Tensor, count: int, generator: torch.Generator) -> Tensor:
    near = count * 3 // 4
    device = vertices.device
    chosen = faces[torch.randint(len(faces), (near,), generator=generator, device=device)]
    corners = torch.rand(near, 3, generator=generator, device=device) + 1e-6
    surface = (vertices[chosen] * (corners / corners.sum(1, keepdim=True))[..., None]).sum(1)
    spread = NEAR * torch.rand(near, 1, generator=generator, device=device)
    surface = surface + spread * torch.randn(near, 3, generator=generator, device=device)
    anywhere = box[0] + torch.rand(count - near, 3, generator=generator, device=device) * (box[1] - box[0])
    return torch.cat([surface, anywhere])


def offset_vertices(body: CanonicalBody, distance: float) -> Tensor:
    """The body's vertices [V, 3] moved out by ``distance`` metres."""
    return body.vertices + distance * body.normals
