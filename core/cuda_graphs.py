"""Recording of CUDA graphs."""

import gc
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def beside(stream: Any) -> Iterator[None]:
    """Launch on ``stream`` (torch.cuda.Stream) what is inside, after what comes before and before what comes after.

    PyTorch asks for one such run of what is recorded next: what backward passes keep belongs to a stream.
    """
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream().wait_stream(stream)


class GraphPool:
    """A stream to record on, and memory that recordings share: what dropped ones held serves the next.

    Libraries keep memory for every stream that they were used on, hence one. When all recordings of a pool are gone, it
    cannot be recorded into again, hence one that stays.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream: Any = torch.cuda.Stream(device)
        self.handle: Any = torch.cuda.graph_pool_handle()
        self._first = torch.cuda.CUDAGraph()
        with recording(self._first, self):
            self._held = torch.zeros(1, device=device)


@contextmanager
def recording(graph: Any, pool: GraphPool | None = None) -> Iterator[None]:
    """Record into ``graph`` (torch.cuda.CUDAGraph) what is launched inside, with memory of ``pool`` or its own.

    Python's garbage collector rests meanwhile: to free another graph or its memory would end the recording. Unlike
    ``torch.cuda.graph`` this neither collects garbage before nor empties the cache of memory, which a training that
    records again and again would spend most of its time on.
    """
    collects = gc.isenabled()
    gc.disable()
    torch.cuda.synchronize()
    try:
        with torch.cuda.stream(torch.cuda.Stream() if pool is None else pool.stream):
            graph.capture_begin(**({} if pool is None else {"pool": pool.handle}))
            try:
                yield
            finally:
                graph.capture_end()
    finally:
        if collects:
            gc.enable()


def first_cause(error: BaseException) -> str:
    """The first line of the error that came first, and where: a recording that is broken off ends with another one."""
    while error.__context__ is not None:
        error = error.__context__
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = "".join(f" ({frame.filename}:{frame.lineno})" for frame in place)
    return str(error).partition("\n")[0] + where
