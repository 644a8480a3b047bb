"""The teacher's stages on the embedded subject at 32 pixels: training, published names, modes, distillation set."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig

from core.errors import InputError
from core.images import read_image
from data import embedded
from implicit_branch.module import TeacherModule
from implicit_branch.teacher import load_teacher
from tests.workflows.test_configuration import compose
from workflows import build_data, evaluate_teacher, render_distillation_set, train_teacher
from workflows.build_teacher import trained_teacher
from workflows.paths import StagePaths

TINY = (
    "training_mode=teacher",
    "implicit_branch/preset=small",
    "implicit_branch.tag=tiny",
    "implicit_branch.geometry.init_steps=200",
    "implicit_branch.system.optimizer.lr=1e-4",
    "implicit_branch.geometry.isosurface.resolution=48",
    "implicit_branch.geometry.xyz_encoding_config.n_levels=5",
    "implicit_branch.geometry.xyz_encoding_config.log2_hashmap_size=11",
    "implicit_branch.deformer.resolution=32",
    "implicit_branch.sampler.num_sample=64",
    "implicit_branch.model.samples_per_pixel=4",
    "implicit_branch.model.supersampling=1",
    "implicit_branch.model.proxy.resolution=48",
    "implicit_branch.model.proxy.seed_resolution=24",
    "implicit_branch.system.shaded_rays=16",
    "implicit_branch.system.samples_per_pixel=4",
    "implicit_branch.trainer.max_steps=4",
    "implicit_branch.trainer.val_check_interval=2",
    "implicit_branch.trainer.enable_progress_bar=false",
    "implicit_branch.trainer.log_every_n_steps=1",
)
CAPTURE = (
    "implicit_branch/dataset=rana/p1/subject_00",
    *(f"implicit_branch.dataset.opt.{split}.{key}" for split in ("train", "val", "test")
      for key in ("downscale=4", "end=2")),
)  # fmt: skip
MOTION = (
    "implicit_branch/dataset=animation/subject_00_turntable",
    "implicit_branch.mode=test",
    "implicit_branch.dataset.opt.test.downscale=33.75",
    "implicit_branch.dataset.opt.test.end=1",
)
PICTURES = ("rf_rgb", "pbr_rgb", "pbr_demod", "pbr_albedo", "pbr_metallic", "pbr_roughness", "visibility", "depth",
            "normal")  # fmt: skip

pytestmark = pytest.mark.filterwarnings("ignore")


def _config(folder: Path, *overrides: str) -> DictConfig:
    return compose("config_rana", *TINY, f"implicit_branch.exp_dir={folder}", *overrides)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The output root of a training of four steps."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("teacher")
    train_teacher.train(_config(folder, *CAPTURE))
    torch.set_num_threads(threads)
    return folder


def test_training_leaves_the_published_files(run: Path):
    """Fails when a name that the next stage looks for changes: checkpoint, mesh, light, maps, snapshot, strips."""
    folder = run / "intrinsic-avatar-subject_00" / "tiny"
    expected = ["ckpt/epoch=1-step=4.ckpt", "ckpt/last.ckpt", "config/parsed.yaml", "save/it4-mc512.obj",
                "save/it4-envmap.hdr", "save/it2-0.png", "save/it4-0.png"]  # fmt: skip
    expected += [f"save/it4-test/{i:04d}-{kind}.png" for i in range(3) for kind in (*PICTURES, "gt_rgb")]
    expected += [f"save/it4-test-with-alpha/0002-{kind}.png" for kind in PICTURES]
    expected += ["save/it4-test/0001-depth.npy", "save/it4-test/0001-maps.npz", "save/it4-test/manifest.json"]
    missing = [name for name in expected if not (folder / name).is_file()]
    assert not missing
    assert list((folder / "log").glob("events*"))


def test_interrupted_run_continues_exactly(run: Path, tmp_path: Path, monkeypatch):
    """Fails when an interrupted run leaves no checkpoint, or resuming it ends elsewhere than an uninterrupted one."""

    def broken(self, batch, batch_index):
        if self.global_step == 3:
            raise RuntimeError("power cut")
        return step(self, batch, batch_index)

    step = TeacherModule.training_step
    with monkeypatch.context() as patch:
        patch.setattr(TeacherModule, "training_step", broken)
        with pytest.raises(RuntimeError, match="power cut"):
            train_teacher.train(_config(tmp_path, *CAPTURE))
    config = _config(tmp_path, *CAPTURE)
    folder = StagePaths(config).checkpoint_dir
    assert [p.name for p in folder.iterdir()] == ["last.ckpt"]
    train_teacher.train(_config(tmp_path, *CAPTURE, f"implicit_branch.resume='{folder / 'last.ckpt'}'"))
    assert (folder / "epoch=1-step=4.ckpt").is_file()
    whole = load_teacher(StagePaths(_config(run, *CAPTURE)).teacher_checkpoint, "cpu")
    for expected, actual in zip(
        whole.parameters(), load_teacher(folder / "last.ckpt", "cpu").parameters(), strict=True
    ):
        # Equal but for the order of sums over threads (worst seen 2e-8); a lost moment or draw moves weights by 1e-4.
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_pictures_and_float_maps_are_the_same_frame(run: Path):
    """Fails when a picture's encoding changes: albedo over black, roughness over white, normals in OpenGL axes."""
    folder = run / "intrinsic-avatar-subject_00" / "tiny" / "save" / "it4-test"
    with np.load(folder / "0001-maps.npz") as maps:
        alpha, albedo = maps["alpha"].astype(np.float32), maps["albedo"].astype(np.float32)
        roughness, normal = maps["roughness"].astype(np.float32), maps["normal"].astype(np.float32)
        depth = maps["depth"].astype(np.float32)
    picture = read_image(folder / "0001-pbr_albedo.png").numpy()
    assert np.abs(picture - albedo * alpha[..., None]).max() < 0.01
    assert (
        np.abs(read_image(folder / "0001-pbr_roughness.png", 1).numpy() - (roughness * alpha + 1 - alpha)).max() < 0.01
    )
    solid = alpha > 0.99
    assert solid.any()
    drawn = read_image(folder / "0001-normal.png").numpy()[solid] * 2 - 1
    assert np.abs(drawn - normal[solid] * [1, -1, -1]).max() < 0.02
    assert np.median(drawn[:, 2]) > 0.3
    stored = np.load(folder / "0001-depth.npy")
    np.testing.assert_allclose(stored[solid], (depth * alpha)[solid] + (1 - alpha[solid]) * stored.max(), atol=0.05)
    with_alpha = read_image(folder.with_name("it4-test-with-alpha") / "0001-pbr_rgb.png", 4).numpy()
    assert np.abs(with_alpha[..., 3] - alpha).max() < 0.01


def test_distillation_set_resumes_and_names_its_origin(run: Path):
    """Fails when a finished frame is rendered again, an unfinished one is kept, or the manifest does not identify."""
    config = _config(run, *MOTION, "implicit_branch.tag=tiny-motion",
                     f"implicit_branch.resume='{StagePaths(_config(run, *CAPTURE)).teacher_checkpoint}'")  # fmt: skip
    render_distillation_set.render(config)
    folder = run / "intrinsic-avatar-subject_00" / "tiny-motion" / "save" / "it0-test"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["subject"] == "subject_00"
    assert manifest["canonical_pose"] == "A_pose"
    assert [frame["name"] for frame in manifest["frames"]] == ["0000", "0001"]
    assert len(manifest["teacher"]) == 64
    stamps = {name: (folder / f"{name}-maps.npz").stat().st_mtime_ns for name in ("0000", "0001")}
    (folder / "0001-maps.npz").unlink()
    render_distillation_set.render(config)
    assert (folder / "0000-maps.npz").stat().st_mtime_ns == stamps["0000"]
    assert (folder / "0001-maps.npz").is_file()
    assert (folder.parent / "it0-mc512.obj").is_file()


@pytest.mark.parametrize(("mode", "folder"), [("validate", "it0-val"), ("predict", "it0-predict")])
def test_other_modes_render_their_split(run: Path, mode: str, folder: str):
    """Fails when a published mode does not run on a finished training."""
    config = _config(run, *CAPTURE, f"implicit_branch.mode={mode}")
    render_distillation_set.render(config)
    assert (StagePaths(config).save_dir / folder / "0000-pbr_rgb.png").is_file()


def test_wrong_subject_is_refused(run: Path):
    """Fails when another subject's teacher is rendered without a word."""
    config = _config(run, *CAPTURE, "implicit_branch.mode=test")
    frames = build_data.implicit_frames(config, "test")
    frames.subject = "somebody_else"
    with pytest.raises(InputError, match="somebody_else"):
        trained_teacher(config, frames, "cpu")


def test_an_hdri_takes_the_place_of_the_trained_light(run: Path):
    """Fails when a map given with the light of the training ends in an assertion, or is passed over."""
    checkpoint = StagePaths(_config(run, *CAPTURE)).teacher_checkpoint
    light = f"implicit_branch.dataset.hdri_filepath={embedded.hdris() / 'city.hdr'}"
    config = _config(run, *MOTION, "implicit_branch.dataset.opt.test.end=0", f"implicit_branch.resume={checkpoint}",
                     "implicit_branch.tag=lit", light)  # fmt: skip
    render_distillation_set.render(config)
    folder = StagePaths(config).save_dir / "it0-test"
    assert json.loads((folder / "manifest.json").read_text())["light"].endswith("city.hdr")
    assert (folder / "0000-pbr_rgb.png").is_file()


def test_metrics_are_of_a_body(run: Path):
    """Fails when prediction and truth are compared in different axes: even four steps beat these bounds."""
    config = _config(run, *CAPTURE)
    teacher = load_teacher(StagePaths(config).teacher_checkpoint, "cpu")
    found = evaluate_teacher.evaluate_surface(teacher, build_data.implicit_frames(config, "train"))
    assert found["mask_iou"] > 0.65
    assert found["normal_error_deg"] < 45
