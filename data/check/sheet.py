"""The overlay sheet: body, mask outline and joints over the images, one tile a frame."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from body_models.skeleton import PARENTS
from core.frames import Frame
from core.images import resize_image, to_bytes
from data.check.body_view import BodyView

MASK_COLOUR, BODY_COLOUR = (40, 230, 40), (255, 120, 30)
BONE_COLOUR, TEXT_COLOUR, ALARM_COLOUR = (40, 220, 255), (230, 230, 230), (255, 90, 90)
"""RGB."""
BODY_STRENGTH = 0.45
"""Opacity of the body over the image."""
CAPTION = 24
"""Rows of a caption."""
GAP = 6


@dataclass(frozen=True)
class Tile:
    """One frame of the sheet."""

    picture: np.ndarray
    """[H, W, 3] uint8 RGB."""
    caption: str
    alarm: bool = False


def draw(frame: Frame, view: BodyView | None, height: int) -> np.ndarray:
    """The overlay [height, W, 3] of one frame, RGB.

    Args:
        frame: with or without image and mask.
        view: its body; None: only image and mask.
        height: of the picture.
    """
    width = max(1, round(height * frame.camera.width / frame.camera.height))
    grey = torch.full((height, width, 3), 0.35)
    image = grey if frame.image is None else _enlarged(frame.image, width, height)
    canvas = to_bytes(image)
    if view is not None:
        body = view.resized(width, height)
        shade = body.shaded()[..., None] / 255
        tinted = (1 - BODY_STRENGTH) * canvas + BODY_STRENGTH * shade * np.array(BODY_COLOUR)
        canvas = np.where(shade > 0, tinted, canvas).astype(np.uint8)
        _outline(canvas, body.silhouette, BODY_COLOUR)
        _skeleton(canvas, body.joints)
    if frame.mask is not None:
        _outline(canvas, _enlarged(frame.mask, width, height), MASK_COLOUR)
    return canvas


def assemble(tiles: list[Tile], title: str, columns: int = 4) -> Tensor:
    """All tiles [H, W, 3] in rows of ``columns`` below a title with the legend."""
    columns = min(columns, len(tiles))
    tall = max(tile.picture.shape[0] for tile in tiles) + CAPTION
    wide = max(tile.picture.shape[1] for tile in tiles)
    rows = -(-len(tiles) // columns)
    sheet = np.full((CAPTION + GAP + rows * (tall + GAP), max(columns * (wide + GAP) + GAP, 460), 3), 25, np.uint8)
    x = _write(sheet, title, (GAP, 0), TEXT_COLOUR)
    for text, colour in (("mask", MASK_COLOUR), ("body", BODY_COLOUR), ("joints", BONE_COLOUR)):
        x = _write(sheet, text, (x + 12, 0), colour)
    for i, tile in enumerate(tiles):
        top, left = CAPTION + GAP + i // columns * (tall + GAP), GAP + i % columns * (wide + GAP)
        _write(sheet, tile.caption, (left, top), ALARM_COLOUR if tile.alarm else TEXT_COLOUR)
        height, width = tile.picture.shape[:2]
        sheet[top + CAPTION : top + CAPTION + height, left : left + width] = tile.picture
    return torch.from_numpy(sheet).float() / 255


def _enlarged(image: Tensor, width: int, height: int) -> Tensor:
    """Resampled; coarse pictures keep visible pixels, so that an offset of half a pixel can be seen."""
    if height < 2 * image.shape[0]:
        return resize_image(image, width, height)
    return torch.from_numpy(cv2.resize(image.numpy(), (width, height), interpolation=cv2.INTER_NEAREST))


def _outline(canvas: np.ndarray, region: Tensor, colour: tuple[int, int, int]) -> None:
    binary = (region.numpy() > 0.5).astype(np.uint8)
    contours, _ = cv2.findContours(binary, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, colour, 1)


def _skeleton(canvas: np.ndarray, joints: np.ndarray) -> None:
    limit = 4.0 * max(canvas.shape)
    at = [tuple(map(int, point)) for point in np.round((joints - 0.5).clip(-limit, limit) * 16)]
    for joint, parent in enumerate(PARENTS):
        if parent >= 0:
            cv2.line(canvas, at[parent], at[joint], BONE_COLOUR, 1, cv2.LINE_AA, shift=4)
        cv2.circle(canvas, at[joint], 32, BONE_COLOUR, -1, cv2.LINE_AA, shift=4)


def _write(canvas: np.ndarray, text: str, corner: tuple[int, int], colour: tuple[int, int, int]) -> int:
    """Write ``text`` below ``corner`` (x, y); returns the x where it ends."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.48
    cv2.putText(canvas, text, (corner[0], corner[1] + CAPTION - 7), font, scale, colour, 1, cv2.LINE_AA)
    return corner[0] + cv2.getTextSize(text, font, scale, 1)[0][0]
