"""Noticing that tensors have been replaced or changed in place since something was derived from them."""

from typing import Any

from torch import Tensor


def versions(*tensors: Tensor | None) -> list[Any]:
    """The tensors, each followed by the number of its last change in place."""
    pairs = ((t, 0 if t is None or t.is_inference() else t._version) for t in tensors)
    return [item for pair in pairs for item in pair]


def same(key: tuple, other: tuple | None) -> bool:
    """Whether two keys hold the same objects, and equal numbers."""
    return other is not None and all(a is b or (isinstance(a, int | float) and a == b) for a, b in zip(key, other))
