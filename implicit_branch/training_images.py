"""The training frames as tensors: what a step reads."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from scipy.ndimage import generate_binary_structure, iterate_structure
from torch import Tensor

from core.color import composite, linear_to_srgb, srgb_to_linear
from core.errors import InputError
from core.frames import BodyPose, Frame, FrameSet
from core.threads import map_in_threads
from implicit_branch.sampling.rays import CameraTable, RayBundle

SILHOUETTE_WEIGHT = 0.1


@dataclass(frozen=True)
class PixelBatch:
    """B frames, n pixels each; the frame changes fastest, so that any first part holds pixels of all frames."""

    rays: RayBundle
    """B * n world rays."""
    image: Tensor
    """[B * n, 3] linear premultiplied foreground."""
    mask: Tensor
    """[B * n] coverage."""
    trusted: Tensor
    """[B * n] weight of the colour: 1 where it is the body's alone, little on the silhouette's pixels."""

    def first(self, count: int) -> "PixelBatch":
        """The first ``count`` pixels."""
        return PixelBatch(self.rays[:count], self.image[:count], self.mask[:count], self.trusted[:count])

    def target(self, background: Tensor) -> Tensor:
        """[B * n, 3] sRGB over a linear ``background`` [3]; composited in linear light."""
        return linear_to_srgb(composite(self.image, self.mask, background))


class TrainingImages:
    """All frames of a dataset, resident on one device: in bytes where they came as bytes."""

    def __init__(self, frames: FrameSet | Sequence[Frame], *, silhouette_margin: int = 1) -> None:
        """Read every frame.

        Args:
            frames: with images and masks of one size.
            silhouette_margin: pixels on either side of the mask's edge whose colour mixes with the background.
                They count little for the colour; but where a limb is so thin that it has no others, they teach it.

        Raises:
            InputError: no frames, sizes that differ, or a frame without image or mask.
        """
        loaded = map_in_threads(lambda row: _reduced(frames[row], silhouette_margin), range(len(frames)))
        kept = [frame for frame, _ in loaded]
        _check(kept)
        self.height, self.width = kept[0].camera.height, kept[0].camera.width
        self.cameras = CameraTable([f.camera for f in kept])
        self.pose = BodyPose(
            torch.stack([f.pose.global_orient for f in kept]),
            torch.stack([f.pose.body_pose for f in kept]),
            torch.stack([f.pose.transl for f in kept]),
        )
        self.masks = torch.stack([f.mask for f in kept if f.mask is not None])
        """[F, H, W] coverage; stays on the CPU."""
        pixels = [channels for _, channels in loaded]
        if any(p.dtype != torch.uint8 for p in pixels):
            pixels = [p / 255 if p.dtype == torch.uint8 else p for p in pixels]
        # [F * H * W, 5]: image over white, mask, and whether the colour is the body's alone
        self._pixels = torch.cat(pixels)
        self._linear_of_byte = srgb_to_linear(torch.arange(256) / 255)

    def __len__(self) -> int:
        return len(self.masks)

    @property
    def trusted(self) -> Tensor:
        """[F, H * W] weight of the colours, see :class:`PixelBatch`."""
        return self._decoded(self._pixels)[2].reshape(len(self), -1)

    def to(self, device: torch.device | str) -> "TrainingImages":
        """Move everything to ``device``."""
        self.cameras.to(device)
        self.pose = self.pose.to(device)
        self._pixels, self._linear_of_byte = self._pixels.to(device), self._linear_of_byte.to(device)
        return self

    def batch(self, frames: Tensor, pixels: Tensor, index: Tensor) -> PixelBatch:
        """Flat ``pixels`` [B, n] of dataset rows ``frames`` [B], which the posed space counts as ``index`` [B]."""
        origins, directions = self.cameras.rays(frames, pixels)
        rows, pixels = frames.repeat(pixels.shape[1]), pixels.T.reshape(-1)
        rays = RayBundle(
            origins.transpose(0, 1).reshape(-1, 3),
            directions.transpose(0, 1).reshape(-1, 3),
            index.repeat(len(rows) // len(index)),
        )
        return PixelBatch(rays, *self._decoded(self._pixels[rows * (self.height * self.width) + pixels]))

    def _decoded(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Image [N, 3], mask [N] and weight of the colour [N] of stored ``pixels`` [N, 5]."""
        if pixels.dtype == torch.uint8:
            linear, pixels = self._linear_of_byte[pixels[:, :3].long()], pixels / 255
        else:
            linear = srgb_to_linear(pixels[:, :3])
        mask, trusted = pixels[:, 3], pixels[:, 4]
        # Frames come over white: take the white away, so that any background can go there.
        covered = (linear + (mask - 1)[:, None]).clamp_min(0)
        return covered, mask, SILHOUETTE_WEIGHT + (1 - SILHOUETTE_WEIGHT) * trusted


def _check(frames: list[Frame]) -> None:
    if not frames:
        raise InputError("training frames", found="none", expected="at least one",
                         next_step="Check the dataset's folder and frame range.")  # fmt: skip
    sizes = {(f.camera.height, f.camera.width) for f in frames}
    if len(sizes) > 1:
        raise InputError("training frames", found=f"image sizes {sorted(sizes)}", expected="one size",
                         next_step="Resize the images, or train on one camera's frames.")  # fmt: skip
    bare = [f.name for f in frames if f.mask is None]
    if bare:
        raise InputError("training frames", found=f"no image or mask for {', '.join(bare[:8])}",
                         expected="an image and a mask per frame",
                         next_step="A motion has no images: choose a capture to train on.")  # fmt: skip


def _reduced(frame: Frame, silhouette_margin: int) -> tuple[Frame, Tensor]:
    """A frame without the maps that nothing is trained on, and its pixels [H * W, 5] in bytes if they came as such.

    A frame that lacks image or mask lacks both, and its pixels are none: that is reported for all frames at once.
    """
    kept = Frame(frame.index, frame.name, frame.camera, frame.pose)
    if frame.image is None or frame.mask is None:
        return kept, torch.zeros(0, 5)
    return replace(kept, mask=frame.mask), _as_bytes(_channels(frame, silhouette_margin))


def _channels(frame: Frame, silhouette_margin: int) -> Tensor:
    """[H * W, 5] image, mask and 1 where the colour can be trusted."""
    assert frame.image is not None
    assert frame.mask is not None
    trusted = _away_from_edge(frame.mask, silhouette_margin).to(frame.image)
    return torch.cat([frame.image, frame.mask[..., None], trusted[..., None]], -1).flatten(0, 1)


def _as_bytes(values: Tensor) -> Tensor:
    """``values`` in [0, 1] as bytes if that is what they were, else as they are."""
    scaled = values * 255
    return scaled.round().to(torch.uint8) if (scaled - scaled.round()).abs().max() < 1e-3 else values


def _away_from_edge(mask: Tensor, margin: int) -> Tensor:
    """Whether pixels are farther than ``margin`` from the edge of ``mask`` [H, W]."""
    if margin == 0:
        return torch.ones_like(mask, dtype=torch.bool)
    inside = (mask.cpu().numpy() > 0.5).astype(np.uint8)
    # A diamond, not a square: limbs of three pixels keep their middle.
    diamond = iterate_structure(generate_binary_structure(2, 1), margin).astype(np.uint8)
    # What lies beyond the image is background.
    eroded = cv2.erode(inside, diamond, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return torch.from_numpy(eroded + cv2.erode(1 - inside, diamond, borderType=cv2.BORDER_CONSTANT, borderValue=1) > 0)
