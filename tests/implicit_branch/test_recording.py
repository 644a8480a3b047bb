"""When steps are recorded and what a replay hands on, with a stand-in for CUDA graphs that computes again in place."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from implicit_branch import recording
from implicit_branch.recording import Losses, StepRecorder


class InPlace:
    """Behaves as a CUDA graph: a replay writes new results into the recorded tensors."""

    made = 0
    training: "Training"

    def __init__(self) -> None:
        InPlace.made += 1

    def register_generator_state(self, generator: torch.Generator) -> None:
        """Nothing to do."""

    def capture_begin(self, **_) -> None:
        """Refuses where the training is to fail."""
        if self.training.fails:
            self.training.spoilt = self.training.recorder.generator
            raise RuntimeError("operation not permitted when stream is capturing")

    def capture_end(self) -> None:
        """Nothing to do: what is recorded has been computed once."""

    def replay(self) -> None:
        """See the class."""
        self.training.write()


class Training:
    """The sum of (w + noise - target)^2, whose target changes in place."""

    def __init__(self, monkeypatch) -> None:
        stream = SimpleNamespace(wait_stream=lambda other: None)
        cuda = SimpleNamespace(
            CUDAGraph=InPlace, Stream=lambda device: stream, current_stream=lambda: stream,
            stream=lambda stream: nullcontext(), synchronize=lambda: None,
        )  # fmt: skip
        monkeypatch.setattr(recording.torch, "cuda", cuda)
        monkeypatch.setattr(recording, "GraphPool", lambda device: SimpleNamespace(stream=stream, handle=None))
        self.weight, self.target = nn.Parameter(torch.ones(3)), torch.zeros(3)
        self.unused = nn.Parameter(torch.ones(1))
        self.recorder = StepRecorder([self.weight, self.unused], torch.device("cpu"), enabled=True)
        self.fails, self.spoilt, InPlace.training = False, None, self

    def write(self) -> None:
        """What a replay does."""
        made = self.recorder._recording
        losses = self.losses(self.recorder.generator)
        made.losses.total.copy_(losses.total.detach())
        made.gradients[0].copy_(torch.autograd.grad(losses.total, self.weight)[0])

    def losses(self, generator: torch.Generator) -> Losses:
        """What is recorded."""
        assert generator is not self.spoilt, "a generator whose recording has failed"
        noise = torch.rand(3, generator=generator)
        total = (self.weight + noise - self.target).square().sum()
        return Losses({"total": total}, total, None)

    def step(self, seed: int, key: str = "a") -> tuple[Tensor, Tensor]:
        """Loss and gradient, in the order that Lightning has."""
        self.recorder.generator.manual_seed(seed)
        found = self.recorder.run(key, self.losses)
        self.weight.grad = self.unused.grad = None
        if found.total.requires_grad:
            found.total.backward()
        else:
            self.recorder.give_gradients()
        assert self.unused.grad is None
        return found.total.detach().clone(), self.weight.grad.clone()

    def expected(self, seed: int) -> tuple[Tensor, Tensor]:
        """The same without a recorder."""
        total = self.losses(torch.Generator().manual_seed(seed)).total
        return total.detach(), torch.autograd.grad(total, self.weight)[0]


@pytest.fixture
def training(monkeypatch) -> Training:
    """Nothing recorded yet."""
    InPlace.made = 0
    return Training(monkeypatch)


def test_every_step_has_its_own_numbers(training):
    """Fails when the step that is recorded draws after the recording's own draws, or gradients are an older step's."""
    for seed in range(8):
        training.target += 0.1
        torch.testing.assert_close(training.step(seed), training.expected(seed))
    assert InPlace.made == 1


def test_another_kind_is_recorded_anew(training):
    """Fails when a replay serves steps of other shapes, or a kind that does not last is recorded."""
    for seed in range(4):
        training.step(seed)
    for key in ("b", "c", "b"):
        torch.testing.assert_close(training.step(9, key), training.expected(9))
    assert InPlace.made == 1
    for seed in range(4):
        torch.testing.assert_close(training.step(seed, "b"), training.expected(seed))
    assert InPlace.made == 2
    training.recorder.forget()
    torch.testing.assert_close(training.step(5, "b"), training.expected(5))
    assert training.recorder._recording is None


def test_what_cannot_be_recorded_runs_as_usual(training, caplog):
    """Fails when a step that waits for the device ends the training instead of running plainly from then on."""
    training.fails = True
    for seed in range(6):
        torch.testing.assert_close(training.step(seed), training.expected(seed))
    assert caplog.text.count("not recorded") == 1
