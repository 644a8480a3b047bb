"""A frame on the GPU in one operator: pose and camera to a shaded sRGB picture, without a word to the host.

It computes what skinning, ``project_surfels``, ``query_probes`` or ``lobe_visibility``, split-sum shading and
``rasterize_surfels`` compute one after another; that composition is its reference. Everything that changes from frame
to frame is one tensor, so a CUDA graph of the operator can be replayed for any pose, camera and turn of the light.
"""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from gs_ir._library import define
from gs_ir.cubemap import PrefilteredLight
from gs_ir.directional import baked_directions
from gs_ir.light_cells import LightCells
from gs_ir.probes import ProbeVolumes
from gs_ir.reference.posing import NORMAL_RULES

VIEW_NUMBERS = 109
"""Length of ``pack_view``'s result."""
RADIANCE = slice(0, 3)


def _unavailable(*_, **__) -> tuple[Tensor, ...]:
    raise RuntimeError(
        "draw_frame: CUDA tensors and a library with CUDA kernels are needed; run `make native` on a GPU"
    )


# shadows: masks of probes and surfels, directions and energies of the light's cells, directions baked; or none.
define(
    "draw_frame",
    "(Tensor[] surfels, Tensor[] skeleton, Tensor view, Tensor[] volumes, float cell, Tensor[] shadows, "
    "Tensor[] light, Tensor table, int[] rules, int width, int height, int capacity) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _unavailable,
)


@dataclass(frozen=True)
class RestSurfels:
    """N surfels in canonical space, float32 on the GPU."""

    centers: Tensor
    """[N, 3] metres."""
    tangents_u: Tensor
    """[N, 3] metres: axis times standard deviation."""
    tangents_v: Tensor
    """[N, 3]."""
    weights: Tensor
    """[N, 24] skinning weights."""
    opacities: Tensor
    """[N]."""
    material: Tensor
    """[N, 5] linear albedo, roughness, metallic."""
    own_visibility: Tensor
    """[N] ambient visibility that the surfel's own part leaves; 1 where nothing is occluded."""
    part: Tensor
    """[N] int64."""


@dataclass(frozen=True)
class RestSkeleton:
    """Joints at rest."""

    joints: Tensor
    """[24, 3] metres."""
    rest_from_canonical: Tensor
    """[24, 3, 4]."""
    parents: Tensor
    """[24] int32, -1 for the root."""
    driving: Tensor
    """[K] int32: the joint that moves each part, K at most 16."""


@dataclass(frozen=True)
class FrameShadows:
    """What makes shadows follow the light: visibility along its directions, in place of the ambient one."""

    own_masks: Tensor
    """[N, 2] int64, see :func:`gs_ir.directional.own_masks`."""
    cells: LightCells
    """In the light's own frame; the view turns them."""


@dataclass(frozen=True)
class FrameRules:
    """How a frame is shaded and composited; see the renderer's options of the same names."""

    normals: str = "visible"
    lagarde: bool = False
    multi_bounce: bool = False
    dominant: bool = True
    deferred: bool = False
    published_compositing: bool = False
    area_opacity: bool = True
    buffer: bool = False
    """Also return depth and the blended properties."""

    @property
    def flags(self) -> list[int]:
        """For the operator."""
        rest = [int(getattr(self, field.name)) for field in fields(self)[1:]]
        return [NORMAL_RULES.index(self.normals), *rest]


@dataclass(frozen=True)
class FrameImages:
    """What a frame leaves."""

    image: Tensor
    """[H, W, 3] sRGB over the background."""
    alpha: Tensor
    """[H, W]."""
    depth: Tensor | None
    """[H, W] premultiplied, along the camera's axis, where asked for."""
    values: Tensor | None
    """[H, W, C] premultiplied where asked for: radiance unless deferred, albedo, roughness, metallic, normal,
    visibility, and with ``FrameShadows`` the shares of diffuse and specular light (rgb each) that arrive."""
    instances: Tensor
    """[1] int32, pairs of a surfel and a tile; equal to ``capacity`` if some found no place."""


def pack_pose(axis_angles: Tensor, transl: Tensor) -> Tensor:
    """The view's first 75 numbers: ``axis_angles`` [24, 3], ``transl`` [3]."""
    return torch.cat([axis_angles.reshape(-1), transl.reshape(-1)]).float()


def pack_camera(
    intrinsics: Tensor, camera_from_world: Tensor, light: PrefilteredLight, background: float, gain: Tensor | None
) -> Tensor:
    """The view's other numbers, on the camera's device: [3, 3], [4, 4], the light's turn, grey background, gain [3]."""
    turn = torch.eye(3) if light.light_from_world is None else light.light_from_world
    gain = torch.ones(3) if gain is None else gain
    pieces = [intrinsics, camera_from_world[:3], turn, torch.tensor([background]), gain]
    return torch.cat([x.to(intrinsics.device).reshape(-1).float() for x in pieces])


def light_tensors(light: PrefilteredLight) -> list[Tensor]:
    """The light as the operator reads it: bordered texels, first texel, resolution and roughness of each level."""
    texels = light.bordered()
    resolutions = torch.tensor([m.shape[1] for m in light.mips], dtype=torch.int32)
    sizes = 6 * (resolutions + 2) ** 2
    first = (sizes.cumsum(0) - sizes).int()
    levels = [first, resolutions, torch.tensor(light.roughness, dtype=torch.float32)]
    return [texels, *(x.to(texels.device) for x in levels)]


def _shadow_tensors(probes: ProbeVolumes | None, shadows: FrameShadows | None) -> list[Tensor]:
    if probes is None or shadows is None:
        return []
    if probes.masks is None:
        raise ValueError("draw_frame: probes with masks expected, found none; bake them again")
    cells = shadows.cells
    return [probes.masks, shadows.own_masks, cells.directions, cells.energy, baked_directions(cells.directions)]


def draw_frame(
    surfels: RestSurfels,
    skeleton: RestSkeleton,
    view: Tensor,
    *,
    probes: ProbeVolumes | None,
    shadows: FrameShadows | None = None,
    light: list[Tensor],
    table: Tensor,
    rules: FrameRules,
    width: int,
    height: int,
    capacity: int,
) -> FrameImages:
    """Draw one frame.

    Args:
        surfels: the avatar.
        skeleton: how it moves.
        view: [109] float32, ``pack_pose`` and ``pack_camera``.
        probes: occlusion of other parts; None: they occlude nothing.
        shadows: needs ``probes`` with masks; ``RestSurfels.own_visibility`` is then left out.
        light: ``light_tensors``.
        table: [R, R, 2] split-sum table.
        rules: how to shade.
        width: pixels, below 32768.
        height: pixels.
        capacity: see ``rasterize_surfels``; 0 waits for the GPU and cannot be captured in a graph.

    Raises:
        ValueError: ``shadows`` with probes that have no masks.
        RuntimeError: the tensors are not on a GPU, or the library has no CUDA kernels.
    """
    image, alpha, depth, values, instances = torch.ops.gs_ir.draw_frame(
        [getattr(surfels, f.name) for f in fields(surfels)],
        [skeleton.joints, skeleton.rest_from_canonical, skeleton.parents, skeleton.driving],
        view,
        [] if probes is None else probes.tensors,
        1.0 if probes is None else probes.cell,
        _shadow_tensors(probes, shadows),
        light,
        table,
        rules.flags,
        width,
        height,
        capacity,
    )
    if not rules.buffer:
        return FrameImages(image, alpha, None, None, instances)
    return FrameImages(image, alpha, depth, values, instances)
