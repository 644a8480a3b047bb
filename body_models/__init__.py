"""SMPL-format bodies: safe loading, skinning, the nine parts and the canonical poses."""

from body_models.body import BodyModel, load_body
from body_models.canonical import CANONICAL_POSES, CanonicalBody, canonical_pose

__all__ = ["CANONICAL_POSES", "BodyModel", "CanonicalBody", "canonical_pose", "load_body"]
