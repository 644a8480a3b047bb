"""Which frame an iteration sees: one shuffled mix of real and distillation frames, a function of the iteration."""

import torch


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
        # A block of 100 iterations holds exactly the wanted share, in random order.
        self.block = torch.arange(100) >= round(100 * share)

    def draw(self, iteration: int) -> tuple[bool, int]:
        """Whether ``iteration`` sees a distillation frame, and which index of its set."""
        block, offset = divmod(iteration, len(self.block))
        order = self.block[self._permutation(len(self.block), block, stream=0)]
        is_distilled = bool(order[offset])
        per_block = int((order == is_distilled).sum())
        position = block * per_block + int((order[:offset] == is_distilled).sum())
        count = self.counts[is_distilled]
        passes, index = divmod(position, count)
        return is_distilled, int(self._permutation(count, passes, stream=1 + is_distilled)[index])

    def _permutation(self, count: int, index: int, stream: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed((self.seed * 3 + stream) * 1_000_003 + index)
        return torch.randperm(count, generator=generator)
