"""What all converters' command lines share."""

import argparse
import logging
import os
from collections.abc import Callable, Sequence

from core.errors import InputError

logger = logging.getLogger(__name__)

Convert = Callable[[argparse.Namespace], None]


def run(parser: argparse.ArgumentParser, convert: Convert, arguments: Sequence[str] | None) -> int:
    """Parse ``arguments`` (None: the command line's) and convert; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = parser.parse_args(arguments)
    try:
        convert(options)
    except InputError as error:
        logger.error("%s", error)
        return 1
    except KeyboardInterrupt:
        logger.error("Stopped. Finished frames are kept: the same command goes on from here.")
        return 130
    return 0


def new_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """A parser whose help is the module's docstring, examples included."""
    raw = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(f"python -m {module}", description=description, formatter_class=raw)


def add_workers(parser: argparse.ArgumentParser) -> None:
    """The ``--workers`` option."""
    default = min(8, os.cpu_count() or 1)
    parser.add_argument("--workers", type=positive, default=default, help=f"threads (default here: {default})")


def positive(text: str) -> int:
    """An integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def positive_number(text: str) -> float:
    """A finite number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def angle(text: str) -> float:
    """Degrees between 0 and 180."""
    value = float(text)
    if not 0 < value < 180:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 180 degrees")
    return value
