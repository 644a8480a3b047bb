"""The posed body in an image: its outline, its joints, and how well it covers the mask."""

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
import torch
from torch import Tensor

from body_models import BodyModel
from body_models.skinning import posed_body
from core.camera import Camera
from core.frames import BodyPose
from core.metrics import bounding_box, mask_iou

NEAR = 0.05
"""Metres before the camera at which triangles are left out."""
FINE_HEIGHT = 1600
"""Rows, roughly, at which silhouettes are drawn."""
_SHIFT = 4
"""Fractional bits of OpenCV's coordinates."""


@dataclass(frozen=True)
class Agreement:
    """How a body and a mask lie to each other."""

    iou: float
    """Of the body's silhouette and the mask."""
    height_ratio: float
    """Height of the body's bounding box over the mask's; NaN if it is behind the camera."""
    offset: tuple[float, float]
    """From the centre of the mask's box to that of the body, right and down, in heights of the mask."""
    joints_inside: float
    """Share of the 24 joints that are projected into the mask."""


@dataclass(frozen=True)
class BodyView:
    """A body seen by a camera."""

    points: np.ndarray
    """[V, 2] vertices in pixels, the centre of the first pixel at (0.5, 0.5)."""
    local: np.ndarray
    """[V, 3] vertices in camera axes, metres."""
    joints: np.ndarray
    """[24, 2] pixels."""
    faces: np.ndarray
    """[F, 3]."""
    width: int
    height: int

    @staticmethod
    def of(body: BodyModel, betas: Tensor, pose: BodyPose, camera: Camera) -> "BodyView":
        """Pose ``body`` and project it."""
        vertices, joints = posed_body(body, betas, pose)
        (points, _), (centres, _) = camera.project(vertices), camera.project(joints)
        local = vertices @ camera.camera_from_world[:3, :3].T + camera.camera_from_world[:3, 3]
        projected, seen, at = (x.double().numpy() for x in (points, local, centres))
        return BodyView(projected, seen, at, body.faces.numpy(), camera.width, camera.height)

    def resized(self, width: int, height: int) -> "BodyView":
        """The same view in an image of another size."""
        scale = np.array([width / self.width, height / self.height])
        return BodyView(self.points * scale, self.local, self.joints * scale, self.faces, width, height)

    @cached_property
    def silhouette(self) -> Tensor:
        """[H, W] 1 where the body is."""
        # OpenCV fills every pixel that a triangle touches: drawn finely, this fringe gets thin.
        fine = 2 * int(FINE_HEIGHT / self.height / 2) + 1
        view = self.resized(fine * self.width, fine * self.height)
        canvas = np.zeros((view.height, view.width), np.uint8)
        for triangle in view._triangles:
            cv2.fillConvexPoly(canvas, triangle, 1, shift=_SHIFT)
        return torch.from_numpy(canvas[fine // 2 :: fine, fine // 2 :: fine]).float()

    def shaded(self) -> np.ndarray:
        """[H, W] uint8 grey picture of the body lit from the camera, 0 where it is not."""
        canvas = np.zeros((self.height, self.width), np.uint8)
        for triangle, grey in zip(self._triangles, self._grey):
            cv2.fillConvexPoly(canvas, triangle, int(grey), shift=_SHIFT)
        return canvas

    def agreement(self, mask: Tensor) -> Agreement:
        """Compare with ``mask`` [H, W] of the same size."""
        iou = float(mask_iou(self.silhouette, mask))
        columns, rows = (np.floor(self.joints[:, axis]).astype(int) for axis in (0, 1))
        in_image = (columns >= 0) & (columns < self.width) & (rows >= 0) & (rows < self.height)
        inside = mask.numpy()[rows.clip(0, self.height - 1), columns.clip(0, self.width - 1)] > 0.5
        share = float((inside & in_image).mean())
        seen = self.points[self.local[:, 2] > NEAR]
        if not len(seen):
            return Agreement(iou, float("nan"), (float("nan"), float("nan")), share)
        # The whole body counts, also where it leaves the image.
        low, high = seen.min(0), seen.max(0)
        rows_slice, columns_slice = bounding_box(mask)
        tall = rows_slice.stop - rows_slice.start
        centre = np.array([columns_slice.start + columns_slice.stop, rows_slice.start + rows_slice.stop]) / 2
        right, down = ((low + high) / 2 - centre) / tall
        return Agreement(iou, float(high[1] - low[1]) / tall, (float(right), float(down)), share)

    @cached_property
    def _drawn(self) -> np.ndarray:
        """Indices of the faces in front of the camera, far ones first."""
        depth = self.local[self.faces, 2]
        front = np.nonzero(depth.min(1) > NEAR)[0]
        return front[np.argsort(-depth[front].mean(1))]

    @cached_property
    def _triangles(self) -> np.ndarray:
        """[F, 3, 2] corners in OpenCV's fixed-point coordinates, whose pixel centres are integers."""
        limit = 4.0 * max(self.width, self.height)
        corners = (self.points[self.faces[self._drawn]] - 0.5).clip(-limit, limit)
        return np.round(corners * (1 << _SHIFT)).astype(np.int32)

    @cached_property
    def _grey(self) -> np.ndarray:
        """[F] brightness of the drawn faces: how squarely they face the camera."""
        corners = self.local[self.faces[self._drawn]]
        normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        view = corners.mean(1)
        lengths = np.linalg.norm(normal, axis=1) * np.linalg.norm(view, axis=1)
        return (90 + 165 * np.abs((normal * view).sum(1)) / np.maximum(lengths, 1e-12)).round()
