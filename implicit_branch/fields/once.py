"""Values that several uses share."""

from collections.abc import Callable
from typing import Generic, TypeVar

import torch

Value = TypeVar("Value")


class Once(Generic[Value]):
    """What is computed when it is first asked for, with gradients even if that is where there are none."""

    def __init__(self, compute: Callable[[], Value]) -> None:
        self._compute = compute
        self._value: Value | None = None

    def get(self) -> Value:
        """The value."""
        if self._value is None:
            with torch.enable_grad():
                self._value = self._compute()
        return self._value
