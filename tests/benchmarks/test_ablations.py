"""The ablations on a tiny chain: every choice reaches the training, and rows are kept."""

import argparse
from pathlib import Path

import pytest
import torch

from benchmarks import ablations
from benchmarks.ablations import ABLATIONS, AdaptedTargets, HalfPixelOff, PublishedRoughness, run, table, train
from benchmarks.quality import Subject
from benchmarks.quality import run as run_chain
from core.protocols import CanonicalSample
from data import embedded
from data.rana import RanaFrames
from tests.workflows.test_published_commands import MOTION, SMALL

DATA = embedded.load_root() / "rana"
FEW = "{start: 0, end: 10, skip: 5, downscale: 4}"
OVERRIDES = [
    *SMALL,
    "explicit_branch.dataset.train_frames=[0,11,5]",
    "explicit_branch.opt.iterations=6",
    "explicit_branch.opt.min_interval=1",
    "explicit_branch.opt.densify_until_iter=16000",
    "explicit_branch.opt.densify_pixels=0.1",
    "explicit_branch.opt.opacity_reset_interval=null",
    "explicit_branch.raster.min_size=64",
]


def subject_at(folder: Path, stages: tuple[str, ...] = (), overrides: list[str] = OVERRIDES) -> Subject:
    """The embedded subject with its chain in ``folder``."""
    return Subject(
        argparse.Namespace(
            data=DATA, subject=embedded.SUBJECT, gender=embedded.GENDER, body_model="embedded", size=(32, 32),
            downscale=1080 / 32, every=8, samples=4, stages=stages, output=folder, overrides=overrides,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> Path:
    """A folder with a barely trained teacher and its distillation avatar."""
    folder = tmp_path_factory.mktemp("chain")
    maps = [f"implicit_branch.dataset.opt.{split}={FEW}" for split in ("train", "val")]
    run_chain(subject_at(folder, ("teacher",), [*OVERRIDES, *maps]))
    run_chain(subject_at(folder, ("distillation",), [*OVERRIDES, *MOTION]))
    return folder


@pytest.fixture(scope="module")
def ours(chain) -> torch.Tensor:
    """Raw attributes of our student."""
    return attributes(subject_at(chain), "full")


def attributes(subject: Subject, name: str) -> torch.Tensor:
    """All raw attributes of the student of an ablation, but for the colour feature, [N, 14]."""
    avatar, _ = train(subject, name)
    raw = {k: v for k, v in avatar.surfels.raw().items() if k != "features"}
    return torch.cat([v.reshape(len(avatar.surfels), -1) for v in raw.values()], 1)


def test_training_is_repeatable(chain, ours):
    """Fails when two equal runs differ, so that no difference would mean anything."""
    assert torch.equal(attributes(subject_at(chain), "full"), ours)


@pytest.mark.parametrize("name", [name for name in ABLATIONS if name != "full"])
def test_every_choice_reaches_the_training(chain, ours, name):
    """Fails when a choice changes nothing, because its switch is overridden, read too late, or gone."""
    found = attributes(subject_at(chain), name)
    assert found.shape != ours.shape or not torch.equal(found, ours)
    assert bool(found.isfinite().all())


def test_rows_are_kept_until_settings_change(chain, tmp_path, monkeypatch):
    """Fails when a finished row is computed again, other settings reuse it, or the table lacks a line."""
    results = tmp_path / "ablations.json"
    rows = run(subject_at(chain), ["full", "lobes"], results, again=False)
    lines = table(rows).splitlines()
    assert len(lines) == 4
    assert lines[2].endswith("| +0.00 |")
    monkeypatch.setattr(ablations, "train", None)
    assert run(subject_at(chain), ["full", "lobes"], results, again=False) == rows
    for subject, again in ((subject_at(chain), True), (subject_at(chain, overrides=OVERRIDES[:-1]), False)):
        with pytest.raises(TypeError):
            run(subject, ["full"], results, again=again)


def test_half_a_pixel():
    """Fails when the shift has another size or sign, or images move along."""
    frames = RanaFrames(root=DATA, subject=embedded.SUBJECT, gender=embedded.GENDER, split="train_p1")
    seen, moved = frames[3], HalfPixelOff(frames)[3]
    point = seen.pose.transl[None]
    torch.testing.assert_close(seen.camera.project(point)[0] - moved.camera.project(point)[0], torch.full((1, 2), 0.5))
    assert moved.image is seen.image or torch.equal(moved.image, seen.image)


class Flat:
    """A teacher of roughness 0.6 and metallic 0.2 everywhere."""

    def query_canonical(self, points):
        one = torch.ones(len(points))
        return CanonicalSample(0 * one, points, points, 0.6 * one, 0.2 * one)

    def eval_light(self, directions):
        return directions


def test_published_roughness_is_the_lobe_s_width():
    """Fails when the number is the same in both conventions: GGX alpha is its square here, itself there."""
    sample = PublishedRoughness(Flat()).query_canonical(torch.zeros(2, 3))
    torch.testing.assert_close(sample.roughness, torch.full((2,), 0.36))
    torch.testing.assert_close(sample.metallic, torch.full((2,), 0.2))


def test_adapters_take_up_an_affine_difference(chain):
    """Fails when adapters are not learned, or the materials' loss looks past them."""
    config = subject_at(chain)
    avatar, _ = train(config, "full")
    targets = AdaptedTargets(Flat(), torch.device("cpu"))
    adam = torch.optim.Adam([targets.scale, targets.shift], lr=0.05)
    losses = []
    for _ in range(200):
        loss = targets.losses(avatar.surfels, names=("materials",))["materials"]
        albedo = (avatar.surfels.material.albedo - avatar.surfels.positions).square().mean()
        losses.append(float(loss - albedo))
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert losses[-1] < 0.05 * losses[0]
