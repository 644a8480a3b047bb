"""Packages that only the generator needs."""

import importlib
from types import ModuleType

from core.errors import InputError

_PURPOSE = {"anny": "to make bodies and clothes", "mitsuba": "to render"}


def require(name: str) -> ModuleType:
    """Import an optional package.

    Raises:
        InputError: it is not installed; names the command that installs it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            name,
            found=f"that it cannot be imported ({error})",
            expected=f"the optional package {name}, {_PURPOSE.get(name, 'which this step needs')}",
            next_step=f"Install it with: pip install {name}   (the embedded subject needs neither anny nor mitsuba)",
        ) from error
