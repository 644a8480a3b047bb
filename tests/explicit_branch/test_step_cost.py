"""What a training step costs beside its kernels: launches, and waiting for the device."""

import logging
from dataclasses import replace

import pytest
import torch

from benchmarks.operators import OperatorCount
from core.protocols import CanonicalSample
from explicit_branch.avatar import Avatar, avatar_from_state
from explicit_branch.rendering.tile_capacity import GRANULE, TileCapacity
from explicit_branch.settings import TrainingSettings
from explicit_branch.trainer import OutputSettings, Trainer, TrainingData

MOST_OPERATORS = 560
"""Per step, every loss but LPIPS; a rise is a rise of the time on a GPU, where launches dominate."""


class FlatField:
    """A teacher that knows one number of everything, on any device."""

    def query_canonical(self, points):
        zero = torch.zeros_like(points[:, 0])
        half = torch.full_like(points, 0.5)
        return CanonicalSample(zero, torch.nn.functional.one_hot(zero.long() + 2, 3).to(points), half, zero + 0.5, zero)

    def eval_light(self, directions):
        return (0.6 - 0.4 * directions[:, 1:2]).expand(-1, 3)


def trainer_in_full_swing(avatar: Avatar, frames, folder, warmup: int = 24) -> Trainer:
    """Past the start of every loss; nothing is densified, refreshed or logged for 1,000 steps."""
    real = [replace(f, albedo=None, normal=None, roughness=None, metallic=None, depth=None) for f in frames[:2]]
    data = TrainingData(real, maps=frames[:2], distillation=frames[2:], teacher=FlatField())
    settings = TrainingSettings(
        iterations=100_000, schedule_iterations=None, lambda_dssim=0.2, refresh_interval=100_000, light_from_iter=0,
        densify_from_iter=100_000, densify_until_iter=100_000,
    )  # fmt: skip
    trainer = Trainer(avatar, data, settings, OutputSettings(folder, progress=False), light_resolution=16)
    for observations in (trainer.captured, trainer.distilled):
        observations.preload()
    trainer.iteration = 20_000
    for _ in range(warmup):  # fills the caches of all frames, of forward and of deferred shading
        trainer.step(trainer.iteration)
    return trainer


def test_a_step_is_few_operators_and_waits_for_none(make_avatar, frames, tmp_path):
    """Fails when a step selects by a mask, reads a number back, or launches many small operators again."""
    trainer = trainer_in_full_swing(make_avatar(500), frames, tmp_path)
    steps = 2 * trainer.settings.light_interval
    with OperatorCount() as mode:
        for _ in range(steps):
            terms = trainer.step(trainer.iteration)
    assert {"colour", "pbr", "mask", "dist", "distill_image", "pos_distill", "brdf_tv", "aiap_xyz"} <= set(terms)
    assert mode.waits == {}
    assert sum(mode.counts.values()) / steps < MOST_OPERATORS


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_does_not_wait_for_the_gpu(make_avatar, frames, tmp_path):
    """Fails when a step copies from pageable memory, reads back, or lets the rasteriser wait for its list's length."""
    avatar = avatar_from_state(make_avatar(500).state(), "cuda").requires_grad_(True)
    trainer = trainer_in_full_swing(avatar, frames, tmp_path)
    torch.cuda.synchronize()
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2 * trainer.settings.light_interval):
            trainer.step(trainer.iteration)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_step_on_the_gpu_is_that_on_the_cpu(make_avatar, frames, tmp_path):
    """Fails when a loss, a gradient or an update differs between devices; expected at most 1e-3 of a term."""
    state, results = make_avatar(500).state(), []
    for device in ("cpu", "cuda"):
        avatar = avatar_from_state(state, device).requires_grad_(True)
        trainer = trainer_in_full_swing(avatar, frames, tmp_path / device, warmup=0)
        steps = [trainer.step(trainer.iteration) for _ in range(4)]
        results.append([{name: float(term) for name, term in terms.items()} for terms in steps])
    for on_cpu, on_gpu in zip(*results):
        assert on_cpu.keys() == on_gpu.keys()
        for name, value in on_cpu.items():
            assert on_gpu[name] == pytest.approx(value, rel=1e-2, abs=1e-5), name


def test_weightless_losses_are_not_computed(make_avatar, frames, tmp_path):
    """Fails when a loss without weight is computed all the same."""
    trainer = trainer_in_full_swing(make_avatar(300), frames, tmp_path)
    names = [name for name in vars(trainer.settings) if name.startswith("lambda_")]
    trainer.objective.settings = replace(trainer.settings, **{**dict.fromkeys(names, 0.0), "lambda_mask": 1.0})
    with OperatorCount() as few:
        terms = trainer.step(trainer.iteration)
    assert set(terms) == {"mask"}
    assert not {"avg_pool2d", "index_select", "smooth_l1_loss", "roll", "mse_loss"} & set(few.counts)


def test_tile_lists_grow_with_need(caplog):
    """Fails when the capacity falls below what recent steps listed, or a full list passes in silence."""
    capacity = TileCapacity()
    assert capacity.get() == 0
    capacity.note(1, 0, 100_000)
    assert capacity.get() == 3 * GRANULE
    capacity.note(2, 3 * GRANULE, 50_000)
    assert capacity.get() == 3 * GRANULE
    with caplog.at_level(logging.WARNING):
        capacity.note(3, 3 * GRANULE, 3 * GRANULE)
    assert "iteration 3" in caplog.text
    assert capacity.get() == 9 * GRANULE
