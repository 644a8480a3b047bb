"""The assets that the project carries: three bodies, six light probes, a rendered subject and its motions."""

from pathlib import Path

SUBJECT = "subject_00"
GENDER = "male"
DISTILLATION_POSES = "turntable_and_varied"


def root() -> Path:
    """The folder of the embedded assets."""
    return Path(__file__).resolve().parent


def load_root() -> Path:
    """The embedded ``load/`` tree: ``rana``, ``peoplesnapshot``, ``animation``, ``distill_pose``."""
    return root() / "load"


def bodies() -> Path:
    """The folder of the bodies: SMPL's file format, not SMPL (see ``body_models.load_body``)."""
    return root() / "bodies"


def hdris() -> Path:
    """The folder of the light probes (``.hdr``, equirectangular, top row = up)."""
    return root() / "hdri"
