"""Training steps on a GPU: what the host waits for, and steps replayed as CUDA graphs against plain ones."""

import copy
import warnings
from dataclasses import replace

import pytest
import torch

import gs_ir
from core.frames import Frame
from implicit_branch.module import TeacherModule
from implicit_branch.teacher import Teacher
from tests.implicit_branch.test_training import _module, frames  # noqa: F401

MISSING = not torch.cuda.is_available() or not gs_ir.has_kernel("march", "CUDA")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(MISSING, reason="no CUDA device or kernels")]

STEPS = 100
WAITS = 2
"""Operations per step that the host may wait for."""
RADIANCE, SHADED = 20, 80
"""Steps of 100 before and after shading begins."""


@pytest.fixture(params=[RADIANCE, SHADED])
def step(request) -> int:
    """A step of either stage."""
    return request.param


def _on_gpu(frames: list[Frame], teacher: Teacher, *, graphs: bool) -> TeacherModule:  # noqa: F811
    module = _module(frames, copy.deepcopy(teacher), steps=STEPS).cuda()
    module.settings = replace(module.settings, cuda_graphs=graphs)
    module.on_fit_start()
    module.log = module.log_dict = lambda *_, **__: None
    return module


def _take(module: TeacherModule, step: int, monkeypatch) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Loss and gradients of a step."""
    monkeypatch.setattr(TeacherModule, "global_step", step)
    module.zero_grad()
    loss = module.training_step(None, 0)
    module.backward(loss)
    gradients = [None if p.grad is None else p.grad.clone() for p in module.teacher.parameters()]
    return loss.detach().clone(), gradients


def test_a_step_waits_for_nothing(frames, teacher, step, monkeypatch):  # noqa: F811
    """Fails when a step, once its lists have lengths, reads numbers back or copies them from pageable memory."""
    module = _on_gpu(frames, teacher, graphs=False)
    for _ in range(4):
        _take(module, step, monkeypatch)
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _take(module, step, monkeypatch)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    waits = [str(w.message) + f" {w.filename}:{w.lineno}" for w in caught if "synchronizing" in str(w.message)]
    assert len(waits) <= WAITS, waits


@pytest.mark.parametrize("refining", [False, True])
def test_replayed_steps_are_the_plain_ones(frames, teacher, step, refining, monkeypatch):  # noqa: F811
    """Fails when a recording keeps the pixels, random numbers, weights or parameters of the step it was made at.

    Sums in any order: gradients agree to about 1e-4 of the largest.
    """
    plain, recorded = (_on_gpu(frames, teacher, graphs=graphs) for graphs in (False, True))
    for module in (plain, recorded):
        module.teacher.residuals.enable = refining
        for _ in range(8):
            _take(module, step, monkeypatch)
    assert recorded._recorder is not None
    assert recorded._recorder._recording is not None
    for now in (step, step + 1):
        for module in (plain, recorded):
            with torch.no_grad():
                module.teacher.fields.density.beta += 1e-4
        losses, gradients = zip(*(_take(module, now, monkeypatch) for module in (plain, recorded)), strict=True)
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-6)
        for a, b in zip(*gradients, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(b, a, rtol=1e-2, atol=1e-3 * float(a.abs().max()) + 1e-9)


def test_a_changed_weight_needs_no_new_recording(frames, teacher, monkeypatch):  # noqa: F811
    """Fails when a ramped loss weight stays at its value in the recording."""
    module = _on_gpu(frames, teacher, graphs=True)
    for _ in range(8):
        before, _ = _take(module, RADIANCE, monkeypatch)
    recording = module._recorder._recording
    module.weights = type(module.weights)({name: 2 * weight for name, weight in module.weights.weights.items()})
    after, _ = _take(module, RADIANCE, monkeypatch)
    assert module._recorder._recording is recording
    torch.testing.assert_close(after, 2 * before, rtol=1e-3, atol=0)
