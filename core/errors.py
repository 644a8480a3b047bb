"""The one error that bad input raises."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path


class InputError(ValueError):
    """Input that cannot be used: names the file, what was found, what was expected, and the next step."""

    def __init__(self, source: str | Path, *, found: str, expected: str, next_step: str) -> None:
        self.source, self.found, self.expected, self.next_step = str(source), found, expected, next_step
        super().__init__(f"{source}: found {found}, expected {expected}. {next_step}")

    def __reduce__(self) -> tuple:
        """Pickled as its arguments, so that it can cross to another process."""
        parts = {"found": self.found, "expected": self.expected, "next_step": self.next_step}
        return partial(InputError, **parts), (self.source,)


def list_some(names: Iterable, limit: int = 8) -> str:
    """The first ``limit`` of ``names`` as text, and how many more there are."""
    names = [str(n) for n in names]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more if names else "nothing"
