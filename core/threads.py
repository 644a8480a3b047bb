"""Work that waits for files or runs outside Python's lock, done by a few threads."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

MOST = 16
Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """``[function(item) for item in items]`` by as many threads as there are cores (16 at most).

    Results keep their order; after an error nothing more is begun, and of several the first item's is raised.
    ``function`` must not rely on other calls being over.
    """
    failed = threading.Event()

    def work(item: Item) -> Result:
        # Items are begun in order: one that is left out comes after the one that failed, whose error is raised.
        if failed.is_set():
            raise CancelledError
        try:
            return function(item)
        except BaseException:
            failed.set()
            raise

    with _one_torch_thread(), ThreadPoolExecutor(min(MOST, os.cpu_count() or 1)) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            failed.set()


@contextmanager
def _one_torch_thread() -> Iterator[None]:
    """Otherwise every thread would bring PyTorch's own threads along, more than there are cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
