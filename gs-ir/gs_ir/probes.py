"""Occlusion probes: lattices of ambient visibility around body parts, and their product under a pose.

A probe stores 9 spherical-harmonic coefficients of visibility convolved with the cosine lobe over pi; its value along
a normal is the cosine-weighted share of the sky that one part leaves open.
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from gs_ir._library import define
from gs_ir.reference import probes as reference

ROW = 16
"""Halves from one probe to the next where kernels read them: a probe lies in one 32-byte sector."""
OTHER_SHIFT = 1e-4
OWN_SHIFT = 1e-3
"""Metres that the query point moves along its normal before the lookup (student of the reference: 0.1 and 1 mm)."""

# volumes: coefficients, offsets, origins, shapes. surface: points, normals, own part.
define(
    "own_visibility",
    "(Tensor[] volumes, float cell, Tensor[] surface, float shift) -> Tensor",
    reference.own_visibility,
)
define(
    "other_visibility",
    "(Tensor[] volumes, float cell, Tensor[] surface, Tensor part_from_world, float shift, bool published) -> Tensor",
    reference.other_visibility,
)


@torch.library.register_fake("gs_ir::own_visibility")
def _(volumes, cell, surface, shift) -> Tensor:
    return surface[0].new_empty(surface[0].shape[0])


@torch.library.register_fake("gs_ir::other_visibility")
def _(volumes, cell, surface, part_from_world, shift, published) -> Tensor:
    return surface[0].new_empty(surface[0].shape[0])


@dataclass(frozen=True)
class ProbeVolumes:
    """One dense lattice of probes per part, all in canonical space."""

    coefficients: Tensor
    """[P, 9] float16, x running fastest within a part. A negative first coefficient marks a probe inside the part: its
    magnitude and the others describe the nearest place outside."""
    offsets: Tensor
    """[K + 1] int64: the probes of part k are ``offsets[k]`` to ``offsets[k + 1]``."""
    origins: Tensor
    """[K, 3] float32 metres: position of each lattice's first probe."""
    shapes: Tensor
    """[K, 3] int64: probes along x, y, z; at least 2 each."""
    cell: float
    """Metres between neighbouring probes."""
    masks: Tensor | None = None
    """[P, 2] int64: bit j of the first 127 is set where the part leaves direction j of its frame open
    (:func:`gs_ir.directional.baked_directions`), the last bit where the probe lies inside. None: not baked."""
    surface_points: Tensor | None = None
    """[S, 3] float32 canonical metres: places all over the surface; comes with ``masks``."""
    surface_masks: Tensor | None = None
    """[S, 2] int64: what each place's own part leaves open."""

    @property
    def parts(self) -> int:
        """Number of parts K."""
        return self.origins.shape[0]

    def to(self, device: torch.device | str) -> "ProbeVolumes":
        """The same volumes with their tensors on ``device``."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: x.to(device) if isinstance(x, Tensor) else x for k, x in tensors.items()}
        return replace(self, **moved)

    @cached_property
    def rows(self) -> Tensor:
        """``coefficients`` in rows of :data:`ROW`: [P, 9], not contiguous."""
        harmonics = self.coefficients.shape[1]
        return pad(self.coefficients, (0, ROW - harmonics))[:, :harmonics]

    @property
    def tensors(self) -> list[Tensor]:
        """What the operators take, in their order."""
        return [self.rows, self.offsets, self.origins, self.shapes]


def query_probes(
    volumes: ProbeVolumes,
    points: Tensor,
    normals: Tensor,
    *,
    own_part: Tensor,
    points_canonical: Tensor,
    normals_canonical: Tensor,
    part_from_world: Tensor,
    published: bool = False,
) -> Tensor:
    """Ambient visibility under a pose: the product over the parts. No gradient.

    Args:
        volumes: the probes.
        points: [N, 3] world, metres.
        normals: [N, 3] unit, world.
        own_part: [N] int64, the part each point belongs to (-1: none).
        points_canonical: [N, 3] canonical, metres.
        normals_canonical: [N, 3] unit, canonical.
        part_from_world: [K, 3, 4] rigid transforms from world to canonical space, one per part.
        published: see :func:`query_other_probes`.

    Returns:
        [N] in [0, 1]; 1 = open.
    """
    own = query_own_probes(volumes, points_canonical, normals_canonical, own_part)
    return own * query_other_probes(volumes, points, normals, own_part, part_from_world, published=published)


def query_own_probes(volumes: ProbeVolumes, points: Tensor, normals: Tensor, own_part: Tensor) -> Tensor:
    """Visibility [N] that each point's own part leaves, from canonical ``points`` and ``normals`` [N, 3]; no gradient.

    It does not depend on the pose, so it can be kept. Trilinear over the probes outside the part and in front of the
    tangent plane; over all probes where there is none.
    """
    surface = _surface(points, normals, own_part)
    return torch.ops.gs_ir.own_visibility(volumes.tensors, volumes.cell, surface, OWN_SHIFT)


def query_other_probes(
    volumes: ProbeVolumes,
    points: Tensor,
    normals: Tensor,
    own_part: Tensor,
    part_from_world: Tensor,
    *,
    published: bool = False,
) -> Tensor:
    """Product [N] of the visibilities that the other parts leave, from world ``points`` and ``normals``; no gradient.

    Trilinear over the probes outside the part and those inside it that lie in front of the tangent plane. Outside a
    part's box its occlusion fades with the inverse square of the distance to the box's centre.

    Args:
        volumes: the probes.
        points: [N, 3] world, metres.
        normals: [N, 3] unit, world.
        own_part: [N] int64, left out of the product (-1: none).
        part_from_world: [K, 3, 4] rigid transforms from world to canonical space.
        published: leave out every probe behind the tangent plane, the reference system's rule. The lattice of another
            part is smooth across the point's surface, and leaving out the far side puts the query too close.
    """
    transforms = part_from_world.detach().to(points.dtype).contiguous()
    surface = _surface(points, normals, own_part)
    return torch.ops.gs_ir.other_visibility(volumes.tensors, volumes.cell, surface, transforms, OTHER_SHIFT, published)


def _surface(points: Tensor, normals: Tensor, own_part: Tensor) -> list[Tensor]:
    return [points.detach().contiguous(), normals.detach().contiguous(), own_part.contiguous()]
