"""Which frame an iteration sees: one shuffled mix of real and distillation frames, a function of the iteration."""

from functools import lru_cache

import torch

BLOCK = 100
"""Draws that hold exactly the wanted share of each set, in random order."""


class FrameSampler:
    """Draws real frames with probability ``real_fraction``, else distillation frames, each set in shuffled passes.

    The draw depends on seed and iteration alone, so a resumed run sees what an uninterrupted one would have seen.
    """

    def __init__(self, real: int, distilled: int, *, real_fraction: float, seed: int) -> None:
        """Args: real, distilled: lengths of the two sets; an empty set is never drawn."""
        if real + distilled == 0:
            raise ValueError("FrameSampler: at least one frame expected, found none")
        self.counts = (real, distilled)
        self.seed = seed
        share = real_fraction if real and distilled else float(real > 0)
        self.block = [position >= round(BLOCK * share) for position in range(BLOCK)]

    def draw(self, iteration: int) -> tuple[bool, int]:
        """Whether ``iteration`` sees a distillation frame, and which index of its set."""
        block, offset = divmod(iteration, BLOCK)
        order = [self.block[position] for position in _permutation(BLOCK, block, self.seed * 3)]
        is_distilled = order[offset]
        position = block * order.count(is_distilled) + order[:offset].count(is_distilled)
        count = self.counts[is_distilled]
        passes, index = divmod(position, count)
        return is_distilled, _permutation(count, passes, self.seed * 3 + 1 + is_distilled)[index]


@lru_cache(maxsize=16)
def _permutation(count: int, index: int, stream: int) -> list[int]:
    generator = torch.Generator().manual_seed(stream * 1_000_003 + index)
    return torch.randperm(count, generator=generator).tolist()
