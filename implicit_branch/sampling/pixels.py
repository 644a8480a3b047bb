"""Which pixels a training step looks at."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from core.errors import InputError


class PixelSampler:
    """Draws pixels of several frames from lists of candidates, a fixed share from each list, with replacement."""

    def __init__(self, candidates: Sequence[Sequence[Tensor]], shares: Sequence[float], num_sample: int) -> None:
        """Set up.

        Args:
            candidates: for each kind of pixel, for each frame, flat pixel indices (int64, row-major).
            shares: fraction of ``num_sample`` of each kind; the last kind takes what rounding leaves.
            num_sample: pixels drawn in total over the frames of a step.
        """
        self.num_sample, self.shares = num_sample, list(shares)
        self._flat = torch.cat([pixels for kind in candidates for pixels in kind])
        counts = torch.tensor([[len(pixels) for pixels in kind] for kind in candidates])
        first = (counts.flatten().cumsum(0) - counts.flatten()).reshape(counts.shape)
        self._lists = torch.stack([counts, first], -1).transpose(0, 1)
        """[F, kinds, 2] how many candidates, and the first of them among all."""
        self._columns: dict[int, Tensor] = {}

    def to(self, device: torch.device | str) -> "PixelSampler":
        """Move the candidate lists."""
        self._flat, self._lists, self._columns = self._flat.to(device), self._lists.to(device), {}
        return self

    def draw(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """Flat pixel indices [B, n] of dataset rows ``frames`` [B], n = num_sample / B."""
        kinds = self._kinds(max(1, self.num_sample // frames.shape[0]))
        counts, first = self._lists[frames[:, None], kinds].unbind(-1)
        uniforms = torch.rand(counts.shape, generator=generator, device=frames.device)
        return self._flat[first + (uniforms * counts).long().minimum(counts - 1)]

    def _kinds(self, per_frame: int) -> Tensor:
        """[per_frame] which list each pixel of a frame comes from."""
        if per_frame not in self._columns:
            counts = [int(per_frame * share) for share in self.shares[:-1]]
            counts.append(per_frame - sum(counts))
            kinds = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
            self._columns[per_frame] = kinds.to(self._flat.device)
        return self._columns[per_frame]


def edge_sampler(
    masks: Tensor, *, num_sample: int = 4096, ratio_mask: float = 0.6, ratio_edge: float = 0.3, kernel_size: int = 16
) -> PixelSampler:
    """Foreground, a band around the silhouette, and uniform pixels of ``masks`` [F, H, W].

    The band is what dilation and erosion with a square of ``kernel_size`` pixels disagree on, in both directions.
    """
    foreground = _foreground(masks)
    bands = [torch.from_numpy(_band(mask.cpu().numpy() > 0.5, kernel_size)) for mask in masks]
    bands = [band if len(band) else inside for band, inside in zip(bands, foreground, strict=True)]
    shares = (ratio_mask, ratio_edge, 1 - ratio_mask - ratio_edge)
    return PixelSampler((foreground, bands, _everything(masks)), shares, num_sample)


def balanced_sampler(masks: Tensor, *, num_sample: int = 4096) -> PixelSampler:
    """Half foreground, half background of ``masks`` [F, H, W]."""
    background = [(mask.reshape(-1) <= 0.5).nonzero()[:, 0].cpu() for mask in masks]
    everything = _everything(masks)
    background = [b if len(b) else every for b, every in zip(background, everything, strict=True)]
    return PixelSampler((_foreground(masks), background), (0.5, 0.5), num_sample)


def uniform_sampler(masks: Tensor, *, num_sample: int = 4096) -> PixelSampler:
    """All pixels of ``masks`` [F, H, W] alike."""
    return PixelSampler((_everything(masks),), (1.0,), num_sample)


class PatchSampler:
    """Square patches, centred on foreground with probability ``ratio_mask``."""

    def __init__(
        self, masks: Tensor, *, num_patch: int = 4, patch_size: int = 32, ratio_mask: float = 1.0, dilate: int = 0
    ) -> None:
        """Set up for ``masks`` [F, H, W]; the foreground grows by ``dilate`` pixels first."""
        if dilate:
            square = np.ones((2 * dilate + 1,) * 2, np.uint8)
            grown = [cv2.dilate((m.cpu().numpy() > 0.5).astype(np.uint8), square) for m in masks]
            masks = torch.from_numpy(np.stack(grown)).float()
        shares = (ratio_mask, 1 - ratio_mask)
        self._centres = PixelSampler((_foreground(masks), _everything(masks)), shares, num_patch)
        self.height, self.width = masks.shape[1:]
        self.size = min(patch_size, self.height, self.width)
        self.num_sample = num_patch * self.size**2

    def to(self, device: torch.device | str) -> "PatchSampler":
        """Move the candidate lists."""
        self._centres.to(device)
        return self

    def draw(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """Flat pixel indices [B, patches * size**2] of dataset rows ``frames`` [B], patch by patch."""
        centres = self._centres.draw(frames, generator)
        half = self.size // 2
        top = (centres // self.width - half).clamp(0, self.height - self.size)
        left = (centres % self.width - half).clamp(0, self.width - self.size)
        offset = torch.arange(self.size, device=frames.device)
        rows, columns = top[..., None, None] + offset[:, None], left[..., None, None] + offset
        return (rows * self.width + columns).reshape(frames.shape[0], -1)


SAMPLERS = {"edge": edge_sampler, "balanced": balanced_sampler, "uniform": uniform_sampler, "patch": PatchSampler}


def _foreground(masks: Tensor) -> list[Tensor]:
    lists = [(mask.reshape(-1) > 0.5).nonzero()[:, 0].cpu() for mask in masks]
    empty = [k for k, pixels in enumerate(lists) if not len(pixels)]
    if empty:
        raise InputError(f"mask of frame {empty[0]}", found="no foreground", expected="a person",
                         next_step="Leave the frame out with the dataset's frame range.")  # fmt: skip
    return lists


def _everything(masks: Tensor) -> list[Tensor]:
    return [torch.arange(masks.shape[1] * masks.shape[2])] * len(masks)


def _band(mask: np.ndarray, kernel_size: int) -> np.ndarray:
    square = np.ones((kernel_size, kernel_size), np.uint8)
    grown, shrunk = cv2.dilate(mask.astype(np.uint8), square), cv2.erode(mask.astype(np.uint8), square)
    return np.flatnonzero(grown != shrunk).astype(np.int64)
