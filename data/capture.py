"""One frame of a capture from its files: undistorted, resampled, white outside the mask."""

import logging
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from core.errors import InputError
from core.files import read_array
from core.frames import BodyPose, Frame
from core.images import read_image, resize_image
from core.metrics import valid_rectangle
from data.camera_files import StoredCameras

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrameFiles:
    """Files of one frame."""

    image: Path
    mask: Path
    albedo: Path | None = None
    normal: Path | None = None
    roughness: Path | None = None
    metallic: Path | None = None
    bounds: Path | None = None
    hdri: Path | None = None


@dataclass(frozen=True)
class CaptureReader:
    """Reads frames of one capture at a given size."""

    cameras: StoredCameras
    width: int
    height: int
    dilation: int | None = None
    """Kernel side of the mask dilation whose bounding box is the frame's valid region; None: every pixel is valid."""
    keep_background: bool = False
    """Leave pixels outside the mask as they are; else they become white."""
    labelled_masks: bool = False
    """Whether any value above 0 in a mask is the person (part labels), instead of more than half of the largest."""

    def read(self, position: int, number: int, files: FrameFiles, pose: BodyPose) -> Frame:
        """Read the frame at ``position`` of the dataset, ``number`` of the sequence (row of per-frame cameras).

        Raises:
            InputError: a file is missing or broken, of another size than the camera, or the mask is empty.
        """
        mask = self._mask(files.mask)
        image = self._resampled(files.image, read_image(files.image))
        if not self.keep_background:
            image = torch.where(mask[..., None] > 0.5, image, torch.ones_like(image))
        return Frame(
            index=position,
            name=f"{position:04d}",
            camera=self.cameras.camera(number).resized(self.width, self.height),
            pose=pose,
            image=image,
            mask=mask,
            albedo=None if files.albedo is None else self._resampled(files.albedo, read_image(files.albedo)),
            normal=None if files.normal is None else self._normal(files.normal, mask),
            roughness=self._grey(files.roughness),
            metallic=self._grey(files.metallic),
            valid=self._valid(files.bounds, mask),
            hdri=files.hdri,
        )

    def check_size(self, path: Path) -> None:
        """Compare the picture at ``path`` with the camera's size now, before the work starts.

        Raises:
            InputError: they differ.
        """
        self._check(path, read_image(path))

    def _mask(self, path: Path) -> Tensor:
        values = read_mask(path)
        coverage = self._resampled(path, (values > 0).float() if self.labelled_masks else values)
        mask = (coverage > 0.5).float()
        if not bool(mask.any()):
            raise InputError(
                path,
                found="a mask without foreground",
                expected="a person in every frame",
                next_step="Leave this frame out of the range, or repair its mask.",
            )
        return mask

    def _valid(self, bounds: Path | None, mask: Tensor) -> Tensor | None:
        if bounds is not None:
            region = self._resampled(bounds, (read_mask(bounds) > 0).float()) > 0.5
            return region if bool(region.any()) else None
        return None if self.dilation is None else valid_rectangle(mask, self.dilation)

    def _normal(self, path: Path, mask: Tensor) -> Tensor:
        vectors = self._resampled(path, read_image(path)) * 2 - 1
        present = (vectors.norm(dim=-1) > 0.1) & (mask > 0.5)
        return functional.normalize(vectors, dim=-1) * present[..., None]

    def _grey(self, path: Path | None) -> Tensor | None:
        return None if path is None else self._resampled(path, read_image(path, channels=1))

    def _resampled(self, path: Path, pixels: Tensor) -> Tensor:
        self._check(path, pixels)
        if self.cameras.distortion is not None:
            k = self.cameras.intrinsics[0].copy()
            k[:2, 2] -= 0.5  # OpenCV counts pixel centres from 0, we from 0.5
            pixels = torch.from_numpy(cv2.undistort(pixels.numpy(), k, self.cameras.distortion))
        return resize_image(pixels, self.width, self.height)

    def _check(self, path: Path, pixels: Tensor) -> None:
        height, width = pixels.shape[:2]
        if (width, height) != (self.cameras.width, self.cameras.height):
            raise InputError(
                path,
                found=f"{width} x {height} pixels",
                expected=f"{self.cameras.width} x {self.cameras.height}, the size in {self.cameras.source}",
                next_step="Give the camera of these images, or the images of this camera.",
            )


def read_mask(path: Path) -> Tensor:
    """A mask [H, W] in [0, 1] from .npy (0/1, or 0..255 with a warning) or a picture.

    Raises:
        InputError: missing, broken, or of another shape or range.
    """
    if path.suffix != ".npy":
        return read_image(path, channels=1)
    values = read_array(path, "Write the mask again.")
    values = values[..., 0] if values.ndim == 3 else values
    if values.ndim != 2 or values.dtype.kind not in "buif" or not np.isfinite(values).all() or values.min() < 0:
        raise InputError(
            path,
            found=f"{values.dtype} of shape {values.shape}",
            expected="(H, W) with values 0 and 1",
            next_step="Write the mask again.",
        )
    mask = torch.from_numpy(values.astype(np.float32))
    if float(mask.max()) > 1:
        logger.warning("%s: mask values up to %g; divided by 255", path, float(mask.max()))
        mask = (mask / 255).clamp(max=1)
    return mask
