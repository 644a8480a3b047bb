"""What a training step compares with, resident on the device of the avatar."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from core.camera import Camera
from core.frames import Frame, FrameSet, world_to_opengl_normals
from core.metrics import bounding_box

logger = logging.getLogger(__name__)

Frames = FrameSet | Sequence[Frame]
WINDOW = 7
"""Pixels along each side of the windows of SSIM."""
MAPS = ("albedo", "normal", "roughness", "metallic")
HOST_BYTES = 4 << 30
"""Bytes of frames that are kept where training runs on the CPU; on a GPU it is half of its free memory."""


@dataclass(frozen=True)
class Observation:
    """One frame, with what the losses derive from it alone; derived once and kept."""

    frame: Frame
    """Image and mask."""
    maps: Frame | None
    """The teacher's maps of the same frame."""
    is_distilled: bool
    """Whether the image itself is a teacher's render."""
    box: tuple[slice, slice]
    """Rows and columns around the mask."""
    view_axes: Tensor
    """[3, 3] takes world normals, as rows, to the OpenGL camera axes of the maps."""

    @cached_property
    def pixel_size(self) -> Tensor:
        """[] metres that a pixel shows at the body's distance."""
        camera = self.frame.camera
        depth = camera.camera_from_world[2, :3] @ self.frame.pose.transl + camera.camera_from_world[2, 3]
        return depth / camera.intrinsics[0, 0]

    @cached_property
    def edges(self) -> tuple[Tensor, Tensor]:
        """exp(-mean |difference of neighbouring pixels|) inside the mask, down [H - 1, W] and right [H, W - 1]."""
        image, mask = _image_and_mask(self.frame)
        down, right = (
            torch.exp(-image.diff(dim=dim).abs().mean(-1)) * mask.narrow(dim, 0, size) * mask.narrow(dim, 1, size)
            for dim, size in ((0, mask.shape[0] - 1), (1, mask.shape[1] - 1))
        )
        return down, right

    @cached_property
    def inside(self) -> Tensor:
        """[H, W] weights that sum to 1 over the mask; all zero where it is empty."""
        return _share(_image_and_mask(self.frame)[1] > 0.5)

    @cached_property
    def inside_with_normal(self) -> Tensor:
        """[H, W] the same where the teacher's map has a normal."""
        assert self.maps is not None
        assert self.maps.normal is not None
        return _share((_image_and_mask(self.frame)[1] > 0.5) & (self.maps.normal.square().sum(-1) > 0.25))

    @cached_property
    def windows(self) -> Tensor:
        """[H - 6, W - 6] weights that sum to 1 over the SSIM windows within the box around the mask."""
        mask = _image_and_mask(self.frame)[1]
        weights = mask.new_zeros(mask.shape[0] - WINDOW + 1, mask.shape[1] - WINDOW + 1)
        first = [min(side.start, size - 1) for side, size in zip(self.box, weights.shape)]
        last = [max(side.stop - WINDOW, start) for side, start in zip(self.box, first)]
        weights[first[0] : last[0] + 1, first[1] : last[1] + 1] = 1
        return weights / weights.sum()

    def derived(self) -> tuple[Tensor | None, ...]:
        """What is derived from the images: edges, inside, windows, and inside_with_normal where there are normals."""
        has_normals = self.maps is not None and self.maps.normal is not None
        windows = self.windows if min(self.inside.shape) >= WINDOW else None
        return *self.edges, self.inside, windows, self.inside_with_normal if has_normals else None

    def keep(self, derived: Sequence[Tensor | None]) -> None:
        """Take :meth:`derived` of another observation for one's own."""
        down, right, inside, windows, with_normal = derived
        vars(self).update(edges=(down, right), inside=inside, windows=windows, inside_with_normal=with_normal)


class ResidentFrames:
    """Frames on one device. Each is copied once and kept while memory lasts, so that no step waits for the host."""

    def __init__(
        self, frames: Frames, maps: Frames | None, device: torch.device, *, distilled: bool, budget: int | None = None
    ) -> None:
        """Set up.

        Args:
            frames: with image and mask; distilled ones are their own maps.
            maps: the teacher's maps of ``frames``, in the same order.
            device: where to keep them.
            distilled: whether the images are the teacher's renders.
            budget: bytes that may be kept.
        """
        self.frames, self.maps, self.device, self.distilled = frames, maps, device, distilled
        self.room = _spare_bytes(device) if budget is None else budget
        self._kept: dict[int, Observation] = {}
        self._cameras: dict[tuple, Camera] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> Observation:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        made = self._read(index)
        size = _bytes_of(made.frame) + _bytes_of(made.maps)
        if size <= self.room:
            self.room -= size
            self._kept[index] = made
        elif self.room >= 0:
            logger.warning("%d of %d frames fit into memory, the others are read anew", len(self._kept), len(self))
            self.room = -1
        return made

    def preload(self) -> None:
        """Read all frames that fit now, instead of when they are first drawn."""
        for index in range(len(self)):
            if self.room >= 0:
                self[index]

    def _read(self, index: int) -> Observation:
        frame = self.frames[index]
        maps = frame if self.distilled else self.maps[index] if self.maps is not None else None
        if frame.image is None or frame.mask is None:
            raise ValueError(f"frame {frame.name}: training needs an image and a mask")
        return Observation(
            frame=self._moved(frame, ("image", "mask")),
            maps=None if maps is None else self._moved(maps, MAPS),
            is_distilled=self.distilled,
            box=bounding_box(frame.mask),
            view_axes=world_to_opengl_normals(torch.eye(3).to(frame.camera.intrinsics), frame.camera).to(self.device),
        )

    def _moved(self, frame: Frame, images: tuple[str, ...]) -> Frame:
        """``frame`` with ``images`` only, on the device; equal cameras become one object, which keeps its rays."""
        key = (frame.camera.width, frame.camera.height, *frame.camera.intrinsics.reshape(-1).tolist(),
               *frame.camera.camera_from_world.reshape(-1).tolist())  # fmt: skip
        if key not in self._cameras:
            self._cameras[key] = frame.camera.to(self.device)
        there: dict[str, Any] = {name: _to(getattr(frame, name), self.device) for name in images}
        return Frame(frame.index, frame.name, self._cameras[key], frame.pose.to(self.device), **there)


def _image_and_mask(frame: Frame) -> tuple[Tensor, Tensor]:
    assert frame.image is not None
    assert frame.mask is not None
    return frame.image, frame.mask


def _to(tensor: Tensor | None, device: torch.device) -> Tensor | None:
    return None if tensor is None else tensor.to(device)


def _share(selected: Tensor) -> Tensor:
    weight = selected.to(torch.float32)
    return weight / weight.sum().clamp_min(1)


def _bytes_of(frame: Frame | None) -> int:
    tensors = [] if frame is None else [getattr(frame, name) for name in ("image", "mask", *MAPS)]
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def _spare_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else HOST_BYTES
