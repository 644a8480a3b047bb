"""Directional occlusion: which directions of the light a posed body leaves open, so that shadows follow the light.

A probe keeps one bit for each of 127 directions of its part's frame: whether the part alone leaves it open. Under a
pose the bits of all probes are brought into the order of the light's directions once, each taken from the nearest
direction baked; a point then mixes the bits of the eight probes around it, and multiplies over the other parts. What
its own part hides is finer than a lattice and does not depend on the pose: it is kept in masks along the surface.
"""

import torch
from torch import Tensor

from gs_ir._library import define
from gs_ir.nearest import nearest_neighbours
from gs_ir.probes import OTHER_SHIFT, ProbeVolumes
from gs_ir.reference import directional as reference
from gs_ir.sphere import fibonacci_directions

DIRECTIONS = reference.DIRECTIONS
"""Directions of a mask of 128 bits; the last bit marks a probe inside its part."""
SHARES = 7
"""What :func:`lobe_visibility` returns for each point."""

# volumes: turned masks, offsets, origins, shapes, tables. surface: points, normals, own part, own masks. light:
# directions, energies. lobes: directions, roughness. metres: cell, and how far the query point moves along its normal.
define(
    "direction_tables",
    "(Tensor part_from_world, Tensor directions, Tensor baked) -> Tensor",
    reference.direction_tables,
)
define("turn_masks", "(Tensor masks, Tensor offsets, Tensor tables) -> Tensor", reference.turn_masks)
define(
    "directional_visibility",
    "(Tensor[] volumes, Tensor[] surface, Tensor part_from_world, float[] metres) -> Tensor",
    reference.directional_visibility,
)
define(
    "lobe_visibility",
    "(Tensor[] volumes, Tensor[] surface, Tensor part_from_world, Tensor[] light, Tensor[] lobes, float[] metres)"
    " -> Tensor",
    reference.lobe_visibility,
)


@torch.library.register_fake("gs_ir::direction_tables")
def _(part_from_world, directions, baked) -> Tensor:
    return directions.new_empty((part_from_world.shape[0], DIRECTIONS + 1), dtype=torch.uint8)


@torch.library.register_fake("gs_ir::turn_masks")
def _(masks, offsets, tables) -> Tensor:
    return torch.empty_like(masks)


@torch.library.register_fake("gs_ir::directional_visibility")
def _(volumes, surface, part_from_world, metres) -> Tensor:
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


def own_masks(volumes: ProbeVolumes, points: Tensor) -> Tensor:
    """Masks [N, 2] of what their own part leaves open at canonical ``points`` [N, 3]: those of the nearest place baked.

    They do not depend on the pose, so they can be kept. No gradient.

    Raises:
        ValueError: the probes have no masks.
    """
    if volumes.surface_points is None or volumes.surface_masks is None:
        raise ValueError("directional occlusion: probes with masks expected, found none; bake them again")
    _, nearest = nearest_neighbours(points.detach().to(volumes.surface_points.dtype), volumes.surface_points, 1)
    return volumes.surface_masks[nearest[:, 0]]


def directional_visibility(
    volumes: ProbeVolumes,
    points: Tensor,
    normals: Tensor,
    *,
    own_part: Tensor,
    own_masks: Tensor,
    part_from_world: Tensor,
    directions: Tensor,
) -> Tensor:
    """Visibility along each of the light's directions under a pose. No gradient.

    The probes around a point are weighted as for ambient visibility (:mod:`gs_ir.probes`), in steps of 1/255.

    Args:
        volumes: probes with masks.
        points: [N, 3] world, metres.
        normals: [N, 3] unit, world.
        own_part: [N] int64, the part each point belongs to (-1: none); its probes are left out.
        own_masks: [N, 2] int64, what the own part leaves open, from :func:`own_masks`.
        part_from_world: [K, 3, 4] rigid transforms from world to canonical space, one per part.
        directions: [127, 3] unit, world.

    Returns:
        [N, 127] in [0, 1]; 1 = open.

    Raises:
        ValueError: the probes have no masks, or there are not 127 directions.
    """
    surface = [_like(points, points), _like(points, normals), own_part.contiguous(), own_masks.contiguous()]
    pose, directions = _like(points, part_from_world), _like(points, directions)
    turned = _turned(volumes, pose, directions)
    return torch.ops.gs_ir.directional_visibility(turned, surface, pose, [volumes.cell, OTHER_SHIFT])


def lobe_visibility(
    volumes: ProbeVolumes,
    points: Tensor,
    normals: Tensor,
    *,
    own_part: Tensor,
    own_masks: Tensor,
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
    surface = [_like(points, points), _like(points, normals), own_part.contiguous(), own_masks.contiguous()]
    pose, directions, energies = (_like(points, x) for x in (part_from_world, *light))
    lobes = [_like(points, lobe_directions), _like(points, roughness)]
    turned = _turned(volumes, pose, directions)
    return torch.ops.gs_ir.lobe_visibility(
        turned, surface, pose, [directions, energies], lobes, [volumes.cell, OTHER_SHIFT]
    )


def _turned(volumes: ProbeVolumes, part_from_world: Tensor, directions: Tensor) -> list[Tensor]:
    """What the operators take: masks in the order of ``directions``, offsets, origins, shapes, tables."""
    if volumes.masks is None:
        raise ValueError("directional occlusion: probes with masks expected, found none; bake them again")
    if directions.shape != (DIRECTIONS, 3):
        raise ValueError(f"directional occlusion: directions [127, 3] expected, found {tuple(directions.shape)}")
    tables = torch.ops.gs_ir.direction_tables(part_from_world, directions, baked_directions(directions))
    masks = torch.ops.gs_ir.turn_masks(volumes.masks, volumes.offsets, tables)
    return [masks, volumes.offsets, volumes.origins, volumes.shapes, tables]


def _like(points: Tensor, value: Tensor) -> Tensor:
    return value.detach().to(points.dtype).contiguous()
