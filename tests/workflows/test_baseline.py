"""The naive baseline: irradiance against its closed form, and a silhouette that covers the subject."""

import math

import torch

from body_models import load_body
from body_models.canonical import CanonicalBody
from core.metrics import mask_iou
from data import embedded
from data.frame_range import FrameRange
from data.rana import RanaFrames
from workflows.baseline import PaintedBody, _irradiance


def test_irradiance_of_a_constant_environment_is_pi():
    """Fails when the solid angles of the downsampled environment do not sum to the sphere."""
    normals = torch.nn.functional.normalize(torch.randn(32, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    value = _irradiance(normals, torch.ones(128, 256, 3))
    torch.testing.assert_close(value, torch.full((32, 3), math.pi), rtol=4e-3, atol=0)  # worst seen 1.9e-3


def test_painted_body_covers_the_subject():
    """Fails when camera, pose or translation of the embedded subject are misread."""
    frames = RanaFrames(
        root=embedded.load_root() / "rana",
        subject=embedded.SUBJECT,
        gender=embedded.GENDER,
        frames=FrameRange(0, 24, 8),
    )
    body = CanonicalBody(load_body(None, embedded.GENDER), frames.betas)
    painted = PaintedBody(body, frames)
    image = painted.render(frames[0], torch.full((8, 16, 3), 0.5))
    covered = (image < 0.999).any(-1).float()
    assert mask_iou(covered, frames[0].mask) > 0.8  # the body lacks hair and the width of the clothes
