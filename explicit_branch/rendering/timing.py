"""Times of a renderer's stages, on any device."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class StageTimer:
    """Collects milliseconds per stage: CUDA events where the work runs on a GPU, the wall clock elsewhere.

    Pass it as ``timer`` to ``Renderer.render``; time whole frames with ``timer("total")``. Events do not make the host
    wait; ``milliseconds`` does, once.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        self._spans: dict[str, list[tuple[Any, Any]]] = {}
        self._frame: dict[str, list[tuple[Any, Any]]] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = self._now()
        yield
        self._frame.setdefault(stage, []).append((start, self._now()))

    def end_frame(self, keep: bool = True) -> None:
        """Close a frame: its spans become one entry per stage, or are dropped (warm-up)."""
        for stage, spans in self._frame.items():
            if keep:
                self._spans.setdefault(stage, []).append(tuple(spans))  # type: ignore[arg-type]
        self._frame = {}

    def milliseconds(self) -> dict[str, list[float]]:
        """Milliseconds of each kept frame by stage; a stage entered twice in a frame counts both."""
        if self.on_gpu:
            torch.cuda.synchronize()
        return {
            stage: [sum(self._elapsed(start, end) for start, end in frame) for frame in frames]  # type: ignore[misc]
            for stage, frames in self._spans.items()
        }

    def _now(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _elapsed(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) if self.on_gpu else 1000 * (end - start)


def summary(milliseconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """``median_ms``, ``p90_ms`` and ``mean_ms`` per stage."""
    out = {}
    for stage, values in milliseconds.items():
        times = torch.tensor(values, dtype=torch.float64)
        out[stage] = {
            "median_ms": float(times.quantile(0.5)),
            "p90_ms": float(times.quantile(0.9)),
            "mean_ms": float(times.mean()),
        }
    return out
