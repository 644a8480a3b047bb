"""How a training is going: pictures against captured frames, and distance from the teacher's surface."""

from collections.abc import Sequence

import torch

from core.frames import Frame
from core.metrics import mask_iou, psnr
from core.protocols import CanonicalField
from explicit_branch.distillation.points import surface_deviation
from explicit_branch.rendering.renderer import Renderer
from gs_ir.cubemap import PrefilteredLight


@torch.no_grad()
def validate(
    renderer: Renderer, frames: Sequence[Frame], light: PrefilteredLight, teacher: CanonicalField | None
) -> dict[str, float]:
    """Means over ``frames`` (with image and mask), seen through the finished modules without per-frame corrections.

    Returns:
        ``colour_psnr`` and ``pbr_psnr`` in dB inside the mask, ``mask_iou``; with a teacher ``surface_mm`` and
        ``normal_degrees`` of the surfels.
    """
    rows = []
    for frame in frames:
        render = renderer.render(frame.pose, frame.camera, light, gbuffer=False, colour=True)
        assert frame.image is not None
        assert frame.mask is not None
        assert render.image is not None
        assert render.colour is not None
        rows.append(torch.stack([
            psnr(render.colour, frame.image, frame.mask),
            psnr(render.image, frame.image, frame.mask),
            mask_iou(render.alpha, frame.mask),
        ]))  # fmt: skip
    means = torch.stack(rows).mean(0).tolist()
    values = dict(zip(("colour_psnr", "pbr_psnr", "mask_iou"), means, strict=True))
    return values | (surface_deviation(renderer.avatar.surfels, teacher) if teacher is not None else {})
