"""Interpolation functions that the configuration tree uses."""

import math

from omegaconf import OmegaConf


def published_tag(subject: str) -> str:
    """Run name that the published commands use: ``subject_01`` is ``rana_s01``, others are themselves."""
    return subject.replace("subject_", "rana_s") if subject.startswith("subject_") else subject


def register() -> None:
    """Make ``${add:…}``, ``${mul:…}``, ``${div:…}``, ``${mod:…}`` and ``${published_tag:…}`` known.

    Calling twice is harmless.
    """
    OmegaConf.register_new_resolver("add", lambda *values: sum(values), replace=True)
    OmegaConf.register_new_resolver("mul", lambda *values: math.prod(values), replace=True)
    OmegaConf.register_new_resolver("div", lambda a, b: a / b, replace=True)
    OmegaConf.register_new_resolver("mod", lambda a, b: a % b, replace=True)
    OmegaConf.register_new_resolver("published_tag", published_tag, replace=True)
