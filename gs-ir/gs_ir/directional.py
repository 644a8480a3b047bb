"""Directional occlusion: which directions of the light a posed body leaves open, so that shadows follow the light.

A probe keeps one bit for each of 127 directions of its part's frame: whether the part alone leaves it open. Under a
pose the bits of all probes are brought into the order of the light's directions once, each taken from the nearest
direction baked; a point then mixes the bits of the eight probes around it, and multiplies over the parts.
"""

import torch
from torch import Tensor

from gs_ir._library import define
from gs_ir.probes import OTHER_SHIFT, OWN_SHIFT, ProbeVolumes
from gs_ir.reference import directional as reference
from gs_ir.sphere import fibonacci_directions

DIRECTIONS = reference.DIRECTIONS
"""Directions of a mask of 128 bits; the last bit marks a probe inside its part."""
SHARES = 7
"""What :func:`lobe_visibility` returns for each point."""

# volumes: turned masks, offsets, origins, shapes. surface: points, normals, canonical points, canonical normals, own
# part. light: directions, energies. lobes: directions, roughness. metres: cell, and how far the query point moves along
# its normal in other parts and in its own.
define(
    "turn_masks",
    "(Tensor masks, Tensor offsets, Tensor part_from_world, Tensor directions, Tensor baked) -> Tensor",
    reference.turn_masks,
)
define(
    "directional_visibility",
    "(Tensor[] volumes, Tensor[] surface, Tensor part_from_world, Tensor directions, float[] metres) -> Tensor",
    reference.directional_visibility,
)
define(
    "lobe_visibility",
    "(Tensor[] volumes, Tensor[] surface, Tensor part_from_world, Tensor[] light, Tensor[] lobes, float[] metres)"
    " -> Tensor",
    reference.lobe_visibility,
)


@torch.library.register_fake("gs_ir::turn_masks")
def _(masks, offsets, part_from_world, directions, baked) -> Tensor:
    return torch.empty_like(masks)


@torch.library.register_fake("gs_ir::directional_visibility")
def _(volumes, surface, part_from_world, directions, metres) -> Tensor:
    return surface[0].new_empty(surface[0].shape[0], DIRECTIONS)


@torch.library.register_fake("gs_ir::lobe_visibility")
def _(volumes, surface, part_from_world, light, lobes, metres) -> Tensor:
    return surface[0].new_empty(surface[0].shape[0], SHARES)


def baked_directions(like: Tensor) -> Tensor:
    """The directions [127, 3] of a mask's bits in its part's frame, with dtype and device of ``like``."""
    return fibonacci_directions(DIRECTIONS, like.dtype, like.device)


def pack_masks(opened: Tensor, inside: Tensor) -> Tensor:
    """Masks [P, 2] (int64) from ``opened`` [P, 127] and ``inside`` [P] (bool)."""
    return reference.pack_masks(torch.cat([opened, inside[:, None]], 1))


def unpack_masks(masks: Tensor) -> tuple[Tensor, Tensor]:
    """``opened`` [P, 127] and ``inside`` [P] (bool) of ``masks`` [P, 2]."""
    bits = reference.unpack_masks(masks)
    return bits[:, :DIRECTIONS], bits[:, DIRECTIONS]


def directional_visibility(
    volumes: ProbeVolumes,
    points: Tensor,
    normals: Tensor,
    *,
    own_part: Tensor,
    points_canonical: Tensor,
    normals_canonical: Tensor,
    part_from_world: Tensor,
    directions: Tensor,
) -> Tensor:
    """Visibility along each of the light's directions under a pose. No gradient.

    The probes around a point are weighted as for ambient visibility (:mod:`gs_ir.probes`), in steps of 1/255.

    Args:
        volumes: probes with masks.
        points: [N, 3] world, metres.
        normals: [N, 3] unit, world.
        own_part: [N] int64, the part each point belongs to (-1: none); its occlusion is looked up in canonical space.
        points_canonical: [N, 3] canonical, metres.
        normals_canonical: [N, 3] unit, canonical. Only directions above this plane are blocked by the own part.
        part_from_world: [K, 3, 4] rigid transforms from world to canonical space, one per part.
        directions: [127, 3] unit, world.

    Returns:
        [N, 127] in [0, 1]; 1 = open.

    Raises:
        ValueError: the probes have no masks, or there are not 127 directions.
    """
    surface = _surface(points, normals, points_canonical, normals_canonical, own_part)
    pose, directions = _like(points, part_from_world), _like(points, directions)
    turned = _turned(volumes, pose, directions)
    return torch.ops.gs_ir.directional_visibility(turned, surface, pose, directions, _metres(volumes))


def lobe_visibility(
    volumes: ProbeVolumes,
    points: Tensor,
    normals: Tensor,
    *,
    own_part: Tensor,
    points_canonical: Tensor,
    normals_canonical: Tensor,
    part_from_world: Tensor,
    light: tuple[Tensor, Tensor],
    lobe_directions: Tensor,
    roughness: Tensor,
) -> Tensor:
    """Shares of the light that reach a point's diffuse and specular lobes under a pose. No gradient.

    With energies L_k, visibilities V_k and weights w_k of the light's directions the share is
    sum L_k V_k w_k / sum L_k w_k: w is the cosine c for the diffuse lobe and c / (1 + h (a - 1))^2 for the specular
    one, with h the squared cosine of half the angle to the lobe's direction and a = max(alpha^2, 4 / 127) of GGX.

    Args:
        volumes, points, ..., part_from_world: as for :func:`directional_visibility`.
        light: directions [127, 3], unit, world, and the energy [127, 3] that arrives from around each.
        lobe_directions: [N, 3] unit, world, of the specular lobes.
        roughness: [N] perceptual; ``alpha = roughness**2``.

    Returns:
        [N, 7] in [0, 1]: the share of a uniform sky (ambient visibility), of diffuse light (rgb), of specular light
        (rgb). 1 where no light arrives.

    Raises:
        ValueError: the probes have no masks, or there are not 127 directions.
    """
    surface = _surface(points, normals, points_canonical, normals_canonical, own_part)
    pose, directions, energies = (_like(points, x) for x in (part_from_world, *light))
    lobes = [_like(points, lobe_directions), _like(points, roughness)]
    turned = _turned(volumes, pose, directions)
    return torch.ops.gs_ir.lobe_visibility(turned, surface, pose, [directions, energies], lobes, _metres(volumes))


def _turned(volumes: ProbeVolumes, part_from_world: Tensor, directions: Tensor) -> list[Tensor]:
    """What the operators take: masks in the order of ``directions``, offsets, origins, shapes."""
    if volumes.masks is None:
        raise ValueError("directional occlusion: probes with masks expected, found none; bake them again")
    if directions.shape != (DIRECTIONS, 3):
        raise ValueError(f"directional occlusion: directions [127, 3] expected, found {tuple(directions.shape)}")
    baked = baked_directions(directions)
    masks = torch.ops.gs_ir.turn_masks(volumes.masks, volumes.offsets, part_from_world, directions, baked)
    return [masks, volumes.offsets, volumes.origins, volumes.shapes]


def _surface(
    points: Tensor, normals: Tensor, canonical: Tensor, normals_canonical: Tensor, own: Tensor
) -> list[Tensor]:
    return [_like(points, x) for x in (points, normals, canonical, normals_canonical)] + [own.contiguous()]


def _metres(volumes: ProbeVolumes) -> list[float]:
    return [volumes.cell, OTHER_SHIFT, OWN_SHIFT]


def _like(points: Tensor, value: Tensor) -> Tensor:
    return value.detach().to(points.dtype).contiguous()
