"""Steps whose views are put into fixed memory, and steps that are replayed, against plain ones."""

from dataclasses import replace

import pytest
import torch

from explicit_branch.avatar import avatar_from_state
from explicit_branch.recording import Slot, StepRecorder, is_recordable
from tests.explicit_branch.test_step_cost import trainer_in_full_swing

STEPS = 24


class SlotsOnly(StepRecorder):
    """Puts views into slots and computes as usual."""

    def __init__(self, deformation) -> None:
        super().__init__(deformation, enabled=False)
        self.slots = {}

    def forget(self) -> None:
        self.slots = {}

    def run(self, kind, seen, differentiate, *, parameters, gathering):
        place = self.slots.setdefault(seen.is_distilled, None) or Slot(seen, self._deformation)
        self.slots[seen.is_distilled] = place
        return differentiate(place.fill(seen))


def _steps(trainer, count):
    return [{name: float(term) for name, term in trainer.step(trainer.iteration).items()} for _ in range(count)]


def _assert_same(found, expected, rel):
    assert len({tuple(terms) for terms in expected}) > 1  # captured and distilled views
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        assert ours == pytest.approx(theirs, rel=rel, abs=1e-6)


def test_views_in_slots_are_the_views(make_avatar, frames, tmp_path):
    """Fails when something that differs from frame to frame is not copied, or a cache belongs to another frame."""
    plain = trainer_in_full_swing(make_avatar(400), frames, tmp_path / "plain", warmup=0)
    slots = trainer_in_full_swing(make_avatar(400), frames, tmp_path / "slots", warmup=0)
    slots.recorder = SlotsOnly(slots.avatar.deformation)
    _assert_same(_steps(slots, 8), _steps(plain, 8), rel=1e-6)
    assert len(slots.recorder.slots) == 2


def test_renewed_caches_are_those_of_new_surfels_where_the_old_ones_were(make_avatar, frames, tmp_path):
    """Fails when a recording would go on reading what is stale, or what moved surfels know is not asked anew."""
    trainer = trainer_in_full_swing(make_avatar(300), frames, tmp_path, warmup=2)

    def cached():
        deformation, objective = trainer.avatar.deformation, trainer.objective
        weights = (deformation._cached_weights, deformation.parts(trainer.avatar.surfels))
        return [*weights, objective._neighbours, *(objective.points._known or ())]

    before = [(x.data_ptr(), x.clone()) for x in cached()]
    with torch.no_grad():
        trainer.avatar.surfels.positions += 0.1 * torch.randn(300, 3, generator=torch.Generator().manual_seed(0))
    trainer._renew()
    renewed = [x.clone() for x in cached()]
    assert [x.data_ptr() for x in cached()] == [place for place, _ in before]
    changed = [not torch.equal(new, old) for new, (_, old) in zip(renewed, before, strict=True)]
    assert all(changed[:4])  # weights, parts, neighbours, distances
    trainer._refresh()
    with torch.no_grad():
        trainer.avatar.deformation.skinning_weights(trainer.avatar.surfels.positions)
        trainer.objective._neighbourhoods(trainer.avatar)
        trainer.objective.points.losses(trainer.avatar.surfels)
    for ours, fresh in zip(renewed, cached(), strict=True):
        assert torch.equal(ours, fresh)


def test_what_follows_the_iteration_is_not_recorded(make_avatar):
    """Fails when modules with state that a replay would freeze pass as recordable."""
    plain = make_avatar(50)
    assert is_recordable(plain)
    for group, component in (
        ("non_rigid", {"_target_": "explicit_branch.deformation.non_rigid.OffsetNetwork", "delay": 0}),
        ("pose_correction", {"_target_": "explicit_branch.deformation.pose_correction.FrameOffsets", "delay": 0}),
        ("rigid", {"_target_": "explicit_branch.deformation.rigid.SkinningNetwork"}),
        ("texture", {"_target_": "explicit_branch.rendering.appearance.CanonicalViewHead"}),
    ):
        assert not is_recordable(make_avatar(50, components={**plain.record.components, group: component})), group


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_replayed_steps_are_the_steps(make_avatar, frames, tmp_path, caplog):
    """Fails when a recording misses an input, loses a gradient (also those that gather in the light), or goes stale."""
    state, results = make_avatar(400).state(), []
    for recorded in (True, False):
        avatar = avatar_from_state(state, "cuda").requires_grad_(True)
        trainer = trainer_in_full_swing(avatar, frames, tmp_path / str(recorded), warmup=0)
        trainer.recorder._enabled = recorded
        found = _steps(trainer, STEPS)
        trainer._renew()
        found += _steps(trainer, STEPS // 2)
        trainer._refresh()
        results.append([*found, *_steps(trainer, STEPS // 2)])
        assert trainer.recorder._enabled == recorded
        assert bool(trainer.recorder._recordings) == recorded
    _assert_same(*results, rel=2e-3)
    assert not caplog.records


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_recorded_training_densifies(make_avatar, frames, tmp_path):
    """Fails when a recording outlives the surfels that it reads."""
    avatar = avatar_from_state(make_avatar(400).state(), "cuda").requires_grad_(True)
    trainer = trainer_in_full_swing(avatar, frames, tmp_path, warmup=0)
    begin = trainer.iteration
    trainer.settings = trainer.densifier.settings = replace(
        trainer.settings, densify_from_iter=begin, densify_until_iter=begin + 40, densification_interval=10,
        densify_grad_threshold=1e-7,
    )  # fmt: skip
    _steps(trainer, 48)
    assert len(avatar.surfels) > 400
    assert all(bool(p.isfinite().all()) for p in avatar.surfels.parameters())
