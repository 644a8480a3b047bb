"""The training frames as tensors: what a step reads."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.ndimage import binary_erosion, generate_binary_structure, iterate_structure
from torch import Tensor

from core.color import composite, linear_to_srgb, srgb_to_linear
from core.errors import InputError
from core.frames import BodyPose, Frame, FrameSet
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
        loaded = list(frames)
        _check(loaded)
        self.height, self.width = loaded[0].camera.height, loaded[0].camera.width
        self.cameras = CameraTable([f.camera for f in loaded])
        self.pose = BodyPose(
            torch.stack([f.pose.global_orient for f in loaded]),
            torch.stack([f.pose.body_pose for f in loaded]),
            torch.stack([f.pose.transl for f in loaded]),
        )
        self.masks = torch.stack([f.mask for f in loaded if f.mask is not None])
        """[F, H, W] coverage; stays on the CPU."""
        pixels = [_as_bytes(_channels(f, silhouette_margin)) for f in loaded]
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
    bare = [f.name for f in frames if f.image is None or f.mask is None]
    if bare:
        raise InputError("training frames", found=f"no image or mask for {', '.join(bare[:8])}",
                         expected="an image and a mask per frame",
                         next_step="A motion has no images: choose a capture to train on.")  # fmt: skip


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
    inside = mask.cpu().numpy() > 0.5
    if margin == 0:
        return torch.ones_like(mask, dtype=torch.bool)
    # A cross, not a square: limbs of three pixels keep their middle.
    cross = iterate_structure(generate_binary_structure(2, 1), margin)
    return torch.from_numpy(binary_erosion(inside, cross) | binary_erosion(~inside, cross, border_value=1))
