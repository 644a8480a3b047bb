"""The published command lines, in order, on folders of the published layout made from the embedded subject.

Everything is shrunk by overrides (32 pixels, a handful of steps); options, file names and the chain are the published.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from body_models import load_body
from body_models.export import write_smpl_pickle
from core.errors import InputError
from data import embedded
from tests.workflows.test_configuration import compose
from workflows.launch import run_stage

SIZE, STEPS, ITERATIONS = 32, 4, 4
TEACHER = "exp/intrinsic-avatar-male-3-casual/male-3-casual"
CHECKPOINT = rf"{TEACHER}/ckpt/epoch\=1-step\={STEPS}.ckpt"

SMALL = [
    "implicit_branch/preset=small",
    "explicit_branch/preset=small",
    f"implicit_branch.trainer.max_steps={STEPS}",
    "implicit_branch.trainer.enable_progress_bar=false",
    "implicit_branch.geometry.init_steps=60",
    "implicit_branch.geometry.isosurface.resolution=64",
    "implicit_branch.model.proxy.resolution=64",
    "implicit_branch.model.phys_kick_in_step=10000",
    "implicit_branch.model.samples_per_pixel=4",
    "implicit_branch.deformer.resolution=40",
    f"explicit_branch.opt.iterations={ITERATIONS}",
    "explicit_branch.model.gaussian.points=1500",
    "explicit_branch.probes={cell: 0.1, margin: 0.2, directions: 16, max_distance: 1.0}",
    f"explicit_branch.dataset.img_hw=[{SIZE},{SIZE}]",
    "explicit_branch.dataset.train_frames=[0,6,2]",
    "explicit_branch.distill_dataset.frames=[0,3,1]",
    f"explicit_branch.distill_dataset.downscale={1080 / SIZE}",
]
RANGE = "{start: 0, end: 5, skip: 2, downscale: 4}"
CAPTURE = [f"implicit_branch.dataset.opt.{split}={RANGE}" for split in ("train", "val")]
MOTION = [f"implicit_branch.dataset.opt.test={{start: 0, end: 2, skip: 1, downscale: {1080 / SIZE}}}"]


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with captures, motions and bodies where users of the published commands have them."""
    root = tmp_path_factory.mktemp("published")
    capture = root / "load/peoplesnapshot/male-3-casual"
    shutil.copytree(embedded.load_root() / "peoplesnapshot" / embedded.SUBJECT, capture)
    # Published pose files hold one row per selected frame: here frames 0, 2 and 4.
    poses = np.load(capture / "poses/anim_nerf_train.npz")
    rows = {k: v[0:6:2] if v.ndim and len(v) == 20 else v for k, v in poses.items()}
    for split in ("train", "val"):
        np.savez(capture / f"poses/anim_nerf_{split}.npz", **rows)
    for kind, name, source in (
        ("distill_pose", "rana_pose_aa_all", f"distill_pose/{embedded.DISTILLATION_POSES}"),
        ("animation", "aist", "animation/dance"),
    ):
        folder = root / "load" / kind / name
        shutil.copytree(embedded.load_root() / source, folder)
    write_smpl_pickle(load_body(None, "male"), root / "data/SMPLX/smpl/SMPL_MALE.pkl")
    lights = root / "Environment_Maps"
    lights.mkdir()
    shutil.copy(embedded.hdris() / "city.hdr", lights / "cambridge_2k.hdr")
    return root


@pytest.fixture(scope="module")
def chain(layout: Path) -> Path:
    """The folder after the published commands 1 to 3."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(layout)
        command("launch", "training_mode=teacher", "implicit_branch.mode=train", "implicit_branch.tag=male-3-casual",
                "implicit_branch/dataset=peoplesnapshot/male-3-casual", *CAPTURE)  # fmt: skip
        command("launch", "implicit_branch.mode=test", f"implicit_branch.resume={CHECKPOINT}",
                "implicit_branch/dataset=animation/male-3-casual-tpose",
                "implicit_branch.tag=male-3-casual-tpose", *MOTION)  # fmt: skip
        command("launch", "training_mode=distill", "implicit_branch.mode=train", f"implicit_branch.resume={CHECKPOINT}",
                "implicit_branch/dataset=peoplesnapshot/male-3-casual", "explicit_branch/dataset=ps_IA_male_3",
                "explicit_branch/distill_dataset=ps_IA_distill_male_3", *CAPTURE)  # fmt: skip
    return layout


def command(name: str, *overrides: str, root: str = "config_peoplesnapshot") -> object:
    """Run what a published command line runs, shrunk."""
    return run_stage(name, compose(root, *SMALL, *overrides))


def test_stages_leave_the_published_files(chain: Path):
    """Fails when a stage writes under another name, so that the next published command finds nothing."""
    save = chain / TEACHER / "save"
    assert (chain / TEACHER / f"ckpt/epoch=1-step={STEPS}.ckpt").is_file()
    assert len(list((save / f"it{STEPS}-test").glob("*-normal.png"))) == 3
    assert (save / f"it{STEPS}-mc512.obj").is_file()
    distilled = chain / "exp/intrinsic-avatar-male-3-casual/male-3-casual-tpose/save"
    for kind in ("rf_rgb", "pbr_rgb", "pbr_albedo", "pbr_roughness", "pbr_metallic", "visibility", "depth", "normal"):
        assert len(list((distilled / "it0-test").glob(f"*-{kind}.png"))) == 3
        assert len(list((distilled / "it0-test-with-alpha").glob(f"*-{kind}.png"))) == 3
    student = chain / "exp/ps_male3_2dgs"
    assert (student / f"ckpt{ITERATIONS}.pth").is_file()
    assert (student / f"point_cloud/iteration_{ITERATIONS}/point_cloud.ply").is_file()


def test_relighting_command(chain: Path, monkeypatch: pytest.MonkeyPatch):
    """Fails when the published test command does not render the motion under the HDRI, or writes no video."""
    monkeypatch.chdir(chain)
    command("relight", "explicit_branch.mode=test", "explicit_branch/dataset=ps_IA_animation_male_3",
            f"explicit_branch.load_ckpt=exp/ps_male3_2dgs/ckpt{ITERATIONS}.pth",
            "+explicit_branch.hdri=Environment_Maps/cambridge_2k.hdr",
            "explicit_branch.dataset.test_frames.pose=[0,2,1]")  # fmt: skip
    folder = chain / "exp/ps_male3_2dgs/test-pose"
    for kind in ("renders", "renders_pbr", "renders_deferred_pbr", "renders_deferred_pbr_bg", "albedo", "roughness",
                 "metallic", "occlusion", "normal", "normal_depth", "depth", "opacity"):  # fmt: skip
        assert list((folder / kind).glob("*c01_f000001*.png")), kind
    assert list(folder.glob("*.mp4"))
    assert json.loads((folder / "results.json").read_text())["frames"] == 2


def test_speed_command(chain: Path, monkeypatch: pytest.MonkeyPatch):
    """Fails when the speed test cannot time the student that was trained."""
    monkeypatch.chdir(chain)
    measured = command("measure_speed", "explicit_branch/dataset=ps_IA_animation_male_3",
                       f"explicit_branch.load_ckpt=exp/ps_male3_2dgs/ckpt{ITERATIONS}.pth",
                       "explicit_branch.dataset.test_frames.pose=[0,2,1]", "explicit_branch.speed.frames=3",
                       "explicit_branch.speed.warmup=1",
                       "+explicit_branch.hdri=Environment_Maps/cambridge_2k.hdr")  # fmt: skip
    assert measured["forward"]["fps"] > 0
    assert (chain / "exp/ps_male3_2dgs/speed.json").is_file()


def test_distillation_without_a_teacher_is_refused(layout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Fails when a student silently learns from an untrained teacher, as the published system did."""
    monkeypatch.chdir(layout)
    with pytest.raises(InputError, match="no such checkpoint"):
        command("launch", "training_mode=distill", f"implicit_branch.exp_dir={tmp_path}", *CAPTURE)


def test_rana_layout_and_custom_options(layout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Fails when a `custom` option cannot take a RANA folder from the command line, from teacher to metrics."""
    monkeypatch.chdir(tmp_path)
    root = embedded.load_root() / "rana"
    subject = f"subject: {embedded.SUBJECT}, gender: {embedded.GENDER}, body_model: embedded"
    training, test = "{start: 0, end: 10, skip: 5, downscale: 4}", "{start: 0, end: 1, skip: 1, downscale: 4}"
    data = [
        f"implicit_branch.exp_dir={tmp_path}",
        "implicit_branch.tag=run",
        "implicit_branch/dataset=rana/relight/custom",
        f"implicit_branch.dataset={{dataroot: {root}, {subject}}}",
        *(f"implicit_branch.dataset.opt.{split}={training}" for split in ("train", "val")),
        f"implicit_branch.dataset.opt.test={test}",
        "explicit_branch/dataset=rana_IA_custom_relight",
        f"explicit_branch.dataset={{root_dir: {root}, {subject}, train_frames: [0, 11, 5]}}",
        f"explicit_branch.exp_dir={tmp_path / 'student'}",
        "explicit_branch.distill_pose=false",
    ]
    command("launch", "training_mode=teacher", *data, root="config_rana")
    command("launch", "training_mode=distill", *data, root="config_rana")
    load = f"explicit_branch.load_ckpt={tmp_path}/student/ckpt{ITERATIONS}.pth"
    few = "explicit_branch.dataset.test_frames.pose=[0,2,1]"
    results = command("relight", *data, few, load, root="config_rana")
    assert isinstance(results, dict)
    measured = results["all"]["forward"]
    assert {"published_rana/psnr", "published_rana/ssim", "standard/ssim", "relit_psnr"} <= set(measured)
    assert measured["published_rana/ssim"] > measured["standard/ssim"]
