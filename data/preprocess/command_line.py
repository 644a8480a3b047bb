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
