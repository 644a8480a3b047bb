"""Counts the operators that a function runs: on a GPU each is at least one launch."""

from collections import Counter
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode

NO_LAUNCH = ("detach", "alias", "empty", "_reshape_alias", "_unsafe_view", "lift_fresh")
"""First letters of operators that compute nothing, beside the views."""
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "index by mask")


class OperatorCount(TorchDispatchMode):
    """Counts by name, forward and backward alike."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[-1]
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if name.startswith("index") and _has_mask(args):
            name = "index by mask"
        if not is_view and not name.startswith(NO_LAUNCH):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))

    @property
    def waits(self) -> dict[str, int]:
        """Operators whose result the host needs: a GPU would have to finish all earlier work."""
        return {name: count for name, count in self.counts.items() if name.startswith(WAITS)}


def operators(function: Callable[[], object], repeats: int = 1) -> dict[str, float]:
    """Operators per call by name, most frequent first."""
    with OperatorCount() as mode:
        for _ in range(repeats):
            function()
    return {name: count / repeats for name, count in mode.counts.most_common()}


def _has_mask(args: tuple) -> bool:
    indices = args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()
    return any(isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in indices)
