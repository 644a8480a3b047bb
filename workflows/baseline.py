"""The naive baseline that the demo must beat: the posed body mesh, one colour a part, Lambert, no shadows."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from body_models.canonical import CanonicalBody
from body_models.parts import PART_NAMES, PART_OF_JOINT
from core.color import composite, linear_to_srgb, srgb_to_linear
from core.environment import uv_to_direction
from core.frames import Frame
from gs_ir.bvh import build_bvh, closest_hit

_LIGHT_SIZE = (32, 64)
"""Rows and columns that the environment is averaged to; irradiance needs no more (Ramamoorthi and Hanrahan 2001)."""


class PaintedBody:
    """A body mesh whose parts carry the mean colour that the training frames show there, light included."""

    def __init__(self, body: CanonicalBody, frames: Iterable[Frame]) -> None:
        """Args: body: the subject's canonical body. frames: training frames with image and mask."""
        self.body = body
        part_of_joint = torch.as_tensor(PART_OF_JOINT)
        self._part_of_face = part_of_joint[body.weights[body.faces].sum(1).argmax(-1)]
        total, count = torch.zeros(len(PART_NAMES), 3), torch.zeros(len(PART_NAMES))
        for frame in frames:
            if frame.mask is None or frame.image is None:
                continue
            part, _ = self._first_hits(frame)
            seen = (part >= 0) & (frame.mask > 0.5)
            total.index_add_(0, part[seen], srgb_to_linear(frame.image[seen]))
            count.index_add_(0, part[seen], torch.ones(int(seen.sum())))
        self.colors = total / count.clamp_min(1)[:, None]
        """[9, 3] linear."""

    def render(self, frame: Frame, environment: Tensor) -> Tensor:
        """The body in ``frame``'s pose and camera under ``environment`` [H, W, 3] (linear): sRGB [H, W, 3] on white."""
        part, normal = self._first_hits(frame)
        hit = part >= 0
        image = torch.zeros(*part.shape, 3)
        image[hit] = self.colors[part[hit]] * _irradiance(normal[hit], environment) / math.pi
        return linear_to_srgb(composite(image, hit.float(), 1.0)).clamp(0, 1)

    def _first_hits(self, frame: Frame) -> tuple[Tensor, Tensor]:
        """Part [H, W] (-1 where nothing is hit) and world normal [H, W, 3] seen by each pixel."""
        vertices = self.body.pose_vertices(frame.pose).reshape(-1, 3)
        origins, directions = (x.reshape(-1, 3).contiguous() for x in frame.camera.all_rays())
        hits = closest_hit(build_bvh(vertices, self.body.faces), origins, directions, 0.0, math.inf)
        corners = vertices[self.body.faces]
        normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        normals = torch.nn.functional.normalize(normals, dim=-1)
        part = torch.where(hits.face >= 0, self._part_of_face[hits.face.clamp_min(0)], -1)
        shape = (frame.camera.height, frame.camera.width)
        return part.reshape(shape), normals[hits.face.clamp_min(0)].reshape(*shape, 3)


def _irradiance(normals: Tensor, environment: Tensor) -> Tensor:
    """Irradiance [N, 3] at unit world ``normals`` [N, 3]: the cosine integral over a downsampled environment."""
    light = torch.nn.functional.adaptive_avg_pool2d(environment.movedim(-1, 0), _LIGHT_SIZE).movedim(0, -1)
    rows, columns = _LIGHT_SIZE
    v = (torch.arange(rows) + 0.5) / rows
    u = (torch.arange(columns) + 0.5) / columns
    directions = uv_to_direction(torch.stack(torch.meshgrid(u, v, indexing="xy"), -1)).reshape(-1, 3)
    edges = torch.cos(torch.arange(rows + 1) * math.pi / rows)
    solid_angle = ((edges[:-1] - edges[1:]) * 2 * math.pi / columns)[:, None].expand(rows, columns).reshape(-1, 1)
    return (normals @ directions.T).clamp_min(0) @ (light.reshape(-1, 3) * solid_angle)
