"""Training steps as CUDA graphs: what has the same shapes step after step is launched as one."""

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from core.cuda_graphs import GraphPool, beside, first_cause, recording

_log = logging.getLogger(__name__)

STEADY_STEPS = 2
"""Steps of one kind that run as usual before the next is recorded: by then constants and list lengths are there."""


class Losses(NamedTuple):
    """What a step computes."""

    terms: dict[str, Tensor]
    """By name."""
    total: Tensor
    """Their weighted sum."""
    lengths: Tensor | None
    """[K] how long its lists should have been."""


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    losses: Losses
    gradients: list[Tensor | None]


class StepRecorder:
    """Runs the computation of steps; where ``enabled``, records it with its backward pass and replays the recording.

    A recording reads and writes the same memory every time. What changes between steps must be in tensors that are
    changed in place, or in the step's key: a step of another key is recorded anew. Random numbers come from
    ``generator``, which must be seeded before every step.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], device: torch.device, *, enabled: bool) -> None:
        self.generator = torch.Generator(device)
        self._parameters, self._enabled = parameters, enabled
        self._key: Hashable = None
        self._steady = 0
        self._recording: _Recording | None = None
        self._pool: GraphPool | None = None

    def run(self, key: Hashable, compute: Callable[[torch.Generator], Losses]) -> Losses:
        """The losses of a step: to be differentiated, or without a graph, and then :meth:`give_gradients` has them."""
        if not self._enabled:
            return compute(self.generator)
        if key != self._key:
            self._key, self._steady, self._recording = key, 0, None
        self._steady += 1
        if self._recording is None and self._steady > STEADY_STEPS:
            self._recording = self._record(compute)
        if self._recording is None:
            return compute(self.generator)
        self._recording.graph.replay()
        return self._recording.losses

    def give_gradients(self) -> None:
        """Set the parameters' ``grad`` to those of the step that was replayed."""
        if self._recording is not None:
            for parameter, gradient in zip(self._parameters, self._recording.gradients, strict=True):
                parameter.grad = gradient

    def forget(self) -> None:
        """Drop the recording: memory that it reads is going to be replaced."""
        self._key, self._recording = None, None

    def _record(self, compute: Callable[[torch.Generator], Losses]) -> _Recording | None:
        """Record a step without running it; None, and never again, where it cannot be recorded."""
        seed, graph = self.generator.initial_seed(), torch.cuda.CUDAGraph()
        pool = self._pool = self._pool or GraphPool(self.generator.device)
        graph.register_generator_state(self.generator)
        try:
            with beside(pool.stream):
                self._differentiated(compute)
            with recording(graph, pool):
                losses = self._differentiated(compute)
        except RuntimeError as error:
            _log.warning("training steps are not recorded as CUDA graphs: %s", first_cause(error))
            self._enabled = False
            # The old one still waits for its recording to end.
            self.generator = torch.Generator(self.generator.device)
            return None
        finally:
            self.generator.manual_seed(seed)
        return _Recording(graph, losses, [parameter.grad for parameter in self._parameters])

    def _differentiated(self, compute: Callable[[torch.Generator], Losses]) -> Losses:
        for parameter in self._parameters:
            parameter.grad = None
        losses = compute(self.generator)
        losses.total.backward()
        terms = {name: value.detach() for name, value in losses.terms.items()}
        return Losses(terms, losses.total.detach(), losses.lengths)
