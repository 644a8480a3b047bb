"""The renderer's fast path on a GPU: the whole frame in one operator, replayed as a CUDA graph."""

import logging
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from body_models.parts import DRIVING_JOINTS
from body_models.skeleton import PARENTS
from core.camera import Camera
from core.cuda_graphs import beside, recording
from core.frames import BodyPose
from explicit_branch.avatar import Avatar
from explicit_branch.deformation.non_rigid import Rigid
from explicit_branch.rendering.changes import same, versions
from explicit_branch.rendering.directional import require_masks
from explicit_branch.rendering.shading import ShadingOptions
from gs_ir import has_kernel
from gs_ir.cubemap import PrefilteredLight
from gs_ir.directional import own_masks
from gs_ir.frame import (
    VIEW_NUMBERS,
    FrameImages,
    FrameRules,
    FrameShadows,
    RestSkeleton,
    RestSurfels,
    draw_frame,
    light_tensors,
    pack_camera,
    pack_pose,
)
from gs_ir.probes import ProbeVolumes, query_own_probes
from gs_ir.shading import split_sum

POSE_NUMBERS = 75
SPARE_CAPACITY = 2
"""Tile lists hold this many times the pairs of the first frame; a frame that fills them is reported, and they grow."""
GRAPHS_KEPT = 8

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrameKind:
    """What a graph is captured for."""

    width: int
    height: int
    deferred: bool
    buffer: bool


@dataclass
class _Graph:
    graph: Any
    images: FrameImages
    written: Tensor
    """[1] int32 in pinned memory: pairs that the last finished frame listed."""
    capacity: int


class RealTimeFrames:
    """Draws frames of one avatar; what does not change between frames is prepared once.

    Changed surfels or probes are noticed and prepared again; a new light is copied into place; another picture size or
    shading captures another graph.
    """

    def __init__(self, avatar: Avatar, *, occlusion: str, compositing: str, options: ShadingOptions) -> None:
        self.avatar, self.occlusion, self.compositing, self.options = avatar, occlusion, compositing, options
        self._graphs: dict[FrameKind, _Graph] = {}
        self._light: list[Tensor] = []
        self._shadows: FrameShadows | None = None
        self._prepared_for: tuple | None = None
        self._light_source: PrefilteredLight | None = None
        self._camera_key: tuple | None = None

    def serves(self, camera: Camera) -> bool:
        """Whether frames of ``camera`` can be drawn so: a GPU with kernels, and nothing learned moves the surfels."""
        avatar = self.avatar
        return (
            avatar.surfels.positions.is_cuda
            and not torch.is_grad_enabled()
            and has_kernel("draw_frame", "CUDA")
            and isinstance(avatar.deformation.non_rigid, Rigid)
            and avatar.record.raster_rules.supersampling(camera) == 1
        )

    def draw(
        self,
        pose: BodyPose,
        camera: Camera,
        light: PrefilteredLight,
        *,
        deferred: bool,
        buffer: bool,
        background: float,
        albedo_gain: Tensor | None,
    ) -> FrameImages:
        """One frame; the images are the caller's own."""
        self._prepare_avatar()
        self._prepare_light(light)
        self._view[:POSE_NUMBERS].copy_(pack_pose(pose.axis_angles, pose.transl), non_blocking=True)
        self._prepare_camera(camera, light, background, albedo_gain)
        kind = FrameKind(camera.width, camera.height, deferred, buffer)
        graph = self._graphs.get(kind) or self._capture(kind)
        if int(graph.written) >= graph.capacity:
            _log.warning("a frame had more than %d pairs of surfel and tile and lacks some: lists grow", graph.capacity)
            graph = self._capture(kind)
        graph.graph.replay()
        return _copied(graph.images)

    def _prepare_avatar(self) -> None:
        avatar = self.avatar
        state = (avatar.probes, *versions(*avatar.surfels.parameters()))
        if same(state, self._prepared_for):
            return
        with torch.inference_mode(False), torch.no_grad():
            self._surfels, self._probes = rest_surfels(avatar, self.occlusion)
            self._own_masks = self._surfel_masks()
            self._skeleton = rest_skeleton(avatar)
            self._view = torch.zeros(VIEW_NUMBERS, device=avatar.surfels.positions.device)
        self._prepared_for, self._camera_key, self._light_source = state, None, None
        self._graphs.clear()

    def _surfel_masks(self) -> Tensor | None:
        """What each surfel's own part leaves open, where shadows have directions."""
        if self._probes is None or self.occlusion != "directional":
            return None
        require_masks(self._probes)
        return own_masks(self._probes, self.avatar.surfels.positions)

    def _prepare_light(self, light: PrefilteredLight) -> None:
        source = self._light_source
        if source is not None and source.mips is light.mips:
            return
        with torch.inference_mode(False), torch.no_grad():
            fresh = light_tensors(light)
            if source is not None and source.roughness == light.roughness and fresh[0].shape == self._light[0].shape:
                self._light[0].copy_(fresh[0])
                if self._shadows is not None:
                    self._shadows.cells.copy_(light.own_cells())
            else:
                self._light = [x.clone() for x in fresh]
                masks = self._own_masks
                self._shadows = None if masks is None else FrameShadows(masks, light.own_cells().clone())
                self._graphs.clear()
        self._light_source = light

    def _prepare_camera(
        self, camera: Camera, light: PrefilteredLight, background: float, albedo_gain: Tensor | None
    ) -> None:
        tensors = (camera.intrinsics, camera.camera_from_world, light.light_from_world, albedo_gain)
        key = (background, *versions(*tensors))
        if same(key, self._camera_key):
            return
        numbers = pack_camera(camera.intrinsics, camera.camera_from_world, light, background, albedo_gain)
        self._view[POSE_NUMBERS:].copy_(numbers, non_blocking=True)
        self._camera_key = key

    def _capture(self, kind: FrameKind) -> _Graph:
        """Draw once to learn the number of pairs, then record the frame with room to spare."""
        if len(self._graphs) >= GRAPHS_KEPT:
            self._graphs.pop(next(iter(self._graphs)))
        with torch.inference_mode(False), torch.no_grad():
            capacity = SPARE_CAPACITY * max(int(self._frame(kind, 0).instances), 1024)
            with beside(torch.cuda.Stream()):
                self._frame(kind, capacity)
            written = torch.zeros(1, dtype=torch.int32, pin_memory=True)
            graph = torch.cuda.CUDAGraph()
            with recording(graph):
                images = self._frame(kind, capacity)
                written.copy_(images.instances, non_blocking=True)
        self._graphs[kind] = _Graph(graph, images, written, capacity)
        return self._graphs[kind]

    def _frame(self, kind: FrameKind, capacity: int) -> FrameImages:
        lobes = self.options.lobes
        rules = FrameRules(
            normals=self.options.normals,
            lagarde=lobes.lagarde,
            multi_bounce=lobes.multi_bounce,
            dominant=lobes.dominant,
            deferred=kind.deferred,
            published_compositing=self.compositing == "published",
            area_opacity=self.avatar.record.raster_rules.opacity_rule == "area",
            buffer=kind.buffer,
        )
        return draw_frame(
            self._surfels,
            self._skeleton,
            self._view,
            probes=self._probes,
            shadows=self._shadows,
            light=self._light,
            table=split_sum(self._view.dtype, self._view.device),
            rules=rules,
            width=kind.width,
            height=kind.height,
            capacity=capacity,
        )


def rest_surfels(avatar: Avatar, occlusion: str) -> tuple[RestSurfels, ProbeVolumes | None]:
    """The avatar's surfels with everything that no pose changes, and the probes of other parts where they count."""
    surfels, deformation = avatar.surfels, avatar.deformation
    frames, scales = surfels.rotations, surfels.scales
    part = deformation.parts(surfels)
    own, others = torch.ones_like(surfels.opacities), None
    if avatar.probes is not None and occlusion != "none":
        own = query_own_probes(avatar.probes.volumes, surfels.positions, frames[:, :, 2], part)
        others = avatar.probes.volumes if occlusion in ("ambient", "directional") else None
    rest = RestSurfels(
        centers=surfels.positions,
        tangents_u=frames[:, :, 0] * scales[:, :1],
        tangents_v=frames[:, :, 1] * scales[:, 1:],
        weights=deformation.skinning_weights(surfels.positions),
        opacities=surfels.opacities,
        material=surfels.material.stacked,
        own_visibility=own,
        part=part,
    )
    return RestSurfels(**{name: value.detach().contiguous() for name, value in vars(rest).items()}), others


def rest_skeleton(avatar: Avatar) -> RestSkeleton:
    """The joints that move the avatar."""
    body = avatar.body
    device = body.rest_joints.device
    return RestSkeleton(
        joints=body.rest_joints.contiguous(),
        rest_from_canonical=body.rest_from_canonical[:, :3].contiguous(),
        parents=torch.tensor(PARENTS, dtype=torch.int32, device=device),
        driving=torch.tensor(DRIVING_JOINTS, dtype=torch.int32, device=device),
    )


def _copied(images: FrameImages) -> FrameImages:
    """The images apart from the graph's memory, which the next frame overwrites."""
    depth, values = (None if x is None else x.clone() for x in (images.depth, images.values))
    return replace(images, image=images.image.clone(), alpha=images.alpha.clone(), depth=depth, values=values)
