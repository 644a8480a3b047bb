"""Lists of expected length against exact ones, and how often a training step waits for the device."""

import copy
import logging
from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from core.frames import Frame
from gs_ir.marching import RaySamples
from implicit_branch.module import TeacherModule
from implicit_branch.rendering.volume import FieldSamples, first_rays
from implicit_branch.sampling.lists import EXACT, ExpectedLists, Lists
from implicit_branch.teacher import Teacher
from tests.implicit_branch.test_training import WEIGHTS, _module, frames  # noqa: F401

WAITING = ("aten._local_scalar_dense", "aten.nonzero.default", "aten.unique", "aten._unique", "aten.masked_select",
           "aten.lift_fresh", "aten.is_nonzero", "aten.equal")  # fmt: skip
"""Operators whose result the host waits for on a GPU, or that begin with a copy from the host."""


class CountedOperators(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.counts[str(function)] += 1
        return function(*args, **(kwargs or {}))

    @property
    def waits(self) -> dict[str, int]:
        """Those that wait."""
        return {name: n for name, n in self.counts.items() if name.startswith(WAITING)}


def _at(module: TeacherModule, step: float, lists: Lists) -> TeacherModule:
    """``module`` as it is at a reference step, with a proxy that is up to date."""
    module.teacher.refresh_proxy = lambda: False
    module._lists, module._rounds = lists, module.teacher.sampling.rounds
    module.teacher.advance(step)
    module.teacher.fields.zero_grad()
    return module


def _terms(module: TeacherModule, lists: Lists) -> dict[str, torch.Tensor]:
    lists.adapt()
    module._lists = lists
    terms = module._terms(WEIGHTS.keys(), torch.Generator().manual_seed(3))
    lists.read(lists.lengths())
    return terms


@pytest.fixture
def module(frames: list[Frame], teacher: Teacher) -> TeacherModule:  # noqa: F811
    """Half way through a training, where rays are shaded."""
    return _at(_module(frames, copy.deepcopy(teacher)), 20_000, EXACT)


def test_expected_lists_change_nothing(module):
    """Fails when unused rows reach a loss or a gradient, a used one is lost, or random numbers depend on the rows."""
    module.settings = replace(module.settings, curvature_samples=64)
    wanted = [p for p in module.teacher.parameters() if p.requires_grad]
    exact = _terms(module, EXACT)
    lists = ExpectedLists()
    for _ in range(2):
        _terms(module, lists)
    expected = _terms(module, lists)
    assert lists.rooms
    for name, value in exact.items():
        torch.testing.assert_close(expected[name], value, rtol=1e-4, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")
    found = [torch.autograd.grad(sum(terms.values()), wanted, allow_unused=True) for terms in (exact, expected)]
    for a, b in zip(*found, strict=True):
        if a is not None:
            torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-5 * float(a.abs().max()) + 1e-9)


@pytest.mark.parametrize("refining", [False, True])
def test_no_list_is_waited_for(module, refining):
    """Fails when a step reads a number back, or copies one from the host, once its lists have lengths: with poses that
    stand still and with such as are refined.
    """
    module.teacher.residuals.active = refining
    lists = ExpectedLists()
    for _ in range(2):
        _terms(module, lists)
    lists.adapt()
    with CountedOperators() as counted:
        terms = module._terms(WEIGHTS.keys(), torch.Generator().manual_seed(4))
        torch.stack(list(terms.values())).sum().backward()
    assert not counted.waits


def test_exact_lists_are_waited_for_once_each(module):
    """Fails when a mask is turned into indices more often than it must be: roots twice, new intervals of a round, kept
    ones, scattering points and hits, and the length of the shaded part.
    """
    _terms(module, EXACT)  # makes the constants
    with CountedOperators() as counted:
        module._terms(WEIGHTS.keys(), torch.Generator().manual_seed(4))
    assert sum(counted.waits.values()) <= 7


@pytest.mark.parametrize("room", [1, 5, 6, 11, 40])
def test_shaded_intervals_stay_inside_their_list(room):
    """Fails when a ray still refers to intervals behind the end of the list: the kernels would read there."""
    counts = torch.tensor([0, 6, 5, 0, 9])
    packed_info = torch.stack([counts.cumsum(0) - counts, counts], 1)
    rows = torch.repeat_interleave(torch.arange(5), counts)
    intervals = RaySamples(torch.zeros(20), torch.ones(20), rows, packed_info)
    columns = {name: torch.ones(20) for name in FieldSamples._fields if name != "intervals"}
    lists = ExpectedLists()
    lists._rooms = {"shaded intervals": room}
    first = first_rays(FieldSamples(intervals, **columns), 3, lists)
    assert len(first.weights) == min(room, 20)
    found = torch.cat([torch.arange(start, start + n) for start, n in first.intervals.packed_info.tolist()])
    torch.testing.assert_close(found, torch.arange(min(room, 11)))
    assert first.weights.sum() == min(room, 11)


def test_a_list_of_any_name_may_be_too_short(module):
    """Fails when entries behind the end of a list that overflowed are still referred to."""
    lists = ExpectedLists()
    for _ in range(3):
        _terms(module, lists)
    for name, room in lists.rooms:
        for short in (1, 7, room // 3):
            lists = ExpectedLists()
            lists._rooms = {name: short}
            terms = _terms(module, lists)
            assert all(torch.isfinite(value) for value in terms.values()), f"{name}: {short} of {room}"
            torch.stack(list(terms.values())).sum().backward()


def test_a_list_that_was_too_short_is_reported_and_grows(module, caplog):
    """Fails when samples are lost without a word, or the room stays too small."""
    lists = ExpectedLists()
    lists._rooms = {"kept intervals": 10, "intervals of round 0": 100}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert all(torch.isfinite(value) for value in _terms(module, lists).values())
    assert "kept intervals" in caplog.text
    assert dict(lists.rooms)["intervals of round 0"] > 100
    for _ in range(4):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            _terms(module, lists)
    assert not caplog.records
