"""Recordings that share memory."""

import pytest
import torch

from core.cuda_graphs import GraphPool, first_cause, recording


def test_the_first_cause_is_told_with_its_place():
    """Fails when a recording that is broken off hides what broke it."""
    error = RuntimeError("second")
    try:
        raise RuntimeError("first\nwith details")
    except RuntimeError as first:
        error.__context__ = first
    assert first_cause(error).startswith("first (")
    assert "test_cuda_graphs.py:" in first_cause(error)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_memory_of_dropped_recordings_serves_the_next():
    """Fails when a pool whose recordings are gone cannot be recorded into, or grows with each of them."""
    pool, values = GraphPool(torch.device("cuda")), torch.arange(2**20, device="cuda").float()
    reserved = []
    for turn in range(4):
        graph = torch.cuda.CUDAGraph()
        with recording(graph, pool):
            doubled = 2 * values + turn
        graph.replay()
        torch.testing.assert_close(doubled, 2 * values + turn)
        reserved.append(torch.cuda.memory_reserved())
        del graph, doubled
    assert reserved[3] == reserved[1]
