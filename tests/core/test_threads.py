"""Work done by several threads looks as if it were done in a loop."""

import threading

import pytest
import torch

from core.threads import map_in_threads


def test_results_keep_their_order_and_come_from_several_threads(monkeypatch):
    """Fails when results arrive in the order of completion, or one thread does everything."""
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    together = threading.Barrier(4, timeout=10)

    def work(item: int) -> int:
        together.wait()
        return item * item

    assert map_in_threads(work, range(8)) == [item * item for item in range(8)]
    assert map_in_threads(work, []) == []


def test_first_error_is_raised_and_the_rest_is_not_begun(monkeypatch):
    """Fails when a later item's error hides an earlier one's, or hundreds of files are read after it."""
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    begun = []
    second_failed = threading.Event()

    def work(item: int) -> None:
        begun.append(item)
        if item == 0:
            second_failed.wait(10)
        if item == 1:
            second_failed.set()
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        map_in_threads(work, range(1000))
    assert sorted(begun) == [0, 1]


def test_each_thread_computes_alone():
    """Fails when PyTorch's threads multiply with ours, or are not given back."""
    before = torch.get_num_threads()
    assert set(map_in_threads(lambda _: torch.get_num_threads(), range(4))) == {1}
    assert torch.get_num_threads() == before
