"""Optional modules by name: from a configuration group or a checkpoint to an object."""

import importlib
from collections.abc import Mapping
from typing import Any

from core.errors import InputError

PACKAGE = "explicit_branch."


def build(component: Mapping[str, Any], **extra: Any) -> Any:
    """Instantiate ``component`` = {``_target_``: dotted class of this package, keyword arguments}.

    Args:
        component: plain values only, so that a checkpoint can hold it.
        extra: keyword arguments that the caller supplies (the body, the number of frames).

    Raises:
        InputError: the target lies outside this package (a checkpoint must not name arbitrary code), does not exist, or
            does not take the arguments.
    """
    arguments = dict(component)
    target = str(arguments.pop("_target_", ""))
    module, _, name = target.rpartition(".")
    if not target.startswith(PACKAGE):
        raise _unusable(target, "a class outside explicit_branch")
    try:
        constructor = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise _unusable(target, "no such class") from error
    try:
        return constructor(**arguments, **extra)
    except TypeError as error:
        raise _unusable(target, f"arguments that do not fit ({error})") from error


def _unusable(target: str, found: str) -> InputError:
    return InputError(
        target or "component without _target_",
        found=found,
        expected="_target_: a class of explicit_branch, and its keyword arguments",
        next_step="Choose an option of the group (configs/explicit_branch), or train the student again.",
    )
