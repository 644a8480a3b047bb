"""Student stages from the configuration: train, continue, relight, time; and what bad input is told."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import hydra
import pytest
import torch
from omegaconf import DictConfig

from core.errors import InputError
from core.images import read_image
from data import embedded
from explicit_branch.avatar import load_avatar
from explicit_branch.ply import read_ply
from explicit_branch.rendering.probes import load_probes, save_probes
from explicit_branch.rendering.timing import StageTimer, summary
from explicit_branch.settings import TrainingSettings
from workflows.bake_occlusion import probes_for, read_mesh
from workflows.build_student import training_settings
from workflows.dataset_configs import CONFIG_FOLDER
from workflows.measure_speed import measure, with_surfels
from workflows.relight import relight
from workflows.train_student import train

FOLDERS = (
    "renders", "renders_pbr", "renders_deferred_pbr", "renders_deferred_pbr_bg", "opacity", "depth", "normal",
    "normal_splat", "normal_depth", "albedo", "roughness", "metallic", "occlusion",
)  # fmt: skip


def compose(root: str, *overrides: str) -> DictConfig:
    """The configuration that a command line with ``overrides`` gives."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_FOLDER)):
        return hydra.compose(root, overrides=list(overrides))


SMALL = (
    "explicit_branch/preset=small", "explicit_branch.dataset.img_hw=[32,32]", "explicit_branch.raster.min_size=32",
    "explicit_branch.model.gaussian.points=400", "explicit_branch.base_res=16", "explicit_branch.light_res=16",
    "explicit_branch.probes.cell=0.15", "explicit_branch.probes.directions=32",
    "explicit_branch.dataset.init_mode=smpl", "explicit_branch.opt.iterations=6",
)  # fmt: skip


@pytest.fixture(scope="module")
def student(tmp_path_factory) -> Path:
    """Folder of a student that was trained without a teacher for six iterations."""
    folder = tmp_path_factory.mktemp("student")
    config = compose("config_rana", "explicit_branch/dataset=rana_IA_subject_00_male", "training_mode=student",
                     f"explicit_branch.exp_dir={folder}", *SMALL)  # fmt: skip
    train(config)
    return folder


def relit_config(folder: Path, *overrides: str) -> DictConfig:
    """Relighting of ``folder``'s student on the embedded test frames."""
    return compose("config_rana", "explicit_branch/dataset=rana_IA_subject_00_male_relight",
                   f"explicit_branch.load_ckpt={folder}/ckpt6.pth", f"explicit_branch.exp_dir={folder}",
                   "explicit_branch.dataset.test_frames.pose=[0,2,1]", *SMALL, *overrides)  # fmt: skip


def test_training_leaves_checkpoint_cloud_and_probes(student):
    """Fails when a file of data.md 4.3 is missing, or the probes are not part of the checkpoint."""
    avatar = load_avatar(student / "ckpt6.pth", subject="subject_00", gender="male")
    assert avatar.probes is not None
    assert list(student.glob("occlusion_probes-*.npz"))
    cloud = read_ply(student / "point_cloud" / "iteration_6" / "point_cloud.ply")
    assert torch.equal(cloud.raw()["positions"], avatar.surfels.raw()["positions"])


def test_dataset_folders_may_be_read_only(tmp_path):
    """Fails when a training writes into the dataset's folder, as the published one does."""
    data = tmp_path / "data"
    shutil.copytree(embedded.load_root() / "rana/train_p1", data / "train_p1")
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    train(compose("config_rana", "explicit_branch/dataset=rana_IA_subject_00_male", "training_mode=student",
                  f"explicit_branch.exp_dir={tmp_path}/out", f"explicit_branch.dataset.root_dir={data}",
                  *SMALL, "explicit_branch.opt.iterations=2"))  # fmt: skip
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before


def test_relighting_writes_every_published_folder(student):
    """Fails when a folder, the video or a metric convention is missing, or pictures have another size."""
    results = relight(relit_config(student))["all"]
    folder = student / "test-pose"
    for name in FOLDERS:
        pictures = sorted((folder / name).glob("*c01_f00000[01]*.png"))
        assert len(pictures) >= 2, name
        assert read_image(pictures[0]).shape[0] == 32
    assert read_image(folder / "renders_deferred_pbr" / "render_pbr_c01_f000000.png").shape == (32, 96, 3)
    assert {path.stem for path in folder.glob("*.mp4")} == {"relit_city", "relit_forest"}
    assert json.loads((folder / "results.json").read_text()) == results
    assert [row["shading"] for row in results["table"]][-1] == "colour"
    assert {"albedo PSNR", "normal error", "relit PSNR", "relit SSIM", "FLIP"} <= set(results["table"][0])
    assert (folder / "results.csv").is_file()
    assert (folder / "frames.csv").is_file()
    assert {"published_rana/psnr", "standard/ssim", "relit_psnr"} <= set(results["forward"])
    assert {"mask_iou", "normal_error_deg", "albedo_psnr"} <= set(results["surface"])
    assert results["forward"]["relit_psnr"] > 10


def test_each_named_light_gets_its_own_folder(student):
    """Fails when a second HDRI overwrites the first, or the light has no effect."""
    lights = "+explicit_branch.hdri=[sunset.hdr,forest.hdr]"
    results = relight(relit_config(student, lights, "explicit_branch.dataset.test_frames.pose=[0,1,1]"))
    assert set(results) == {"sunset", "forest"}
    images = [
        read_image(student / "test-pose" / name / "renders_pbr" / "render_pbr_c01_f000000.png") for name in results
    ]
    assert float((images[0] - images[1]).abs().mean()) > 1e-3


def test_occlusion_can_be_switched_off_by_the_published_key(student):
    """Fails when enable_occ_type=none still darkens."""
    plain = relight(relit_config(student, "explicit_branch.enable_occ_type=none"))["all"]
    occlusion = read_image(student / "test-pose" / "occlusion" / "occlusion_c01_f000000.png")
    opacity = read_image(student / "test-pose" / "opacity" / "opacity_c01_f000000.png")
    torch.testing.assert_close(occlusion, opacity, atol=1 / 255 + 1e-6, rtol=0)
    assert plain["forward"]["relit_psnr"] > 10


def test_shadows_follow_the_light_where_asked_for(student):
    """Fails when occlusion=directional is refused, changes nothing, or adds light."""
    name = student / "test-pose" / "renders_pbr" / "render_pbr_c01_f000000.png"
    images = {}
    for kind in ("none", "ambient", "directional"):
        relight(relit_config(student, f"explicit_branch.occlusion={kind}"))
        images[kind] = read_image(name)
    assert float((images["directional"] - images["ambient"]).abs().max()) > 2 / 255
    assert float((images["directional"] - images["none"]).max()) < 2 / 255


def test_probes_of_earlier_versions_are_baked_again_for_directions(student, tmp_path):
    """Fails when a file without masks is taken for occlusion=directional, or thrown away for ambient visibility."""
    config = compose("config_rana", "explicit_branch/dataset=rana_IA_subject_00_male", *SMALL,
                     f"explicit_branch.exp_dir={tmp_path}", "explicit_branch.occlusion=directional")  # fmt: skip
    body = load_avatar(student / "ckpt6.pth").body
    assert probes_for(config, body).volumes.masks is not None
    (path,) = tmp_path.glob("occlusion_probes-*.npz")
    save_probes(replace(load_probes(path), masks=None, surface_points=None, surface_masks=None), path)
    config.explicit_branch.occlusion = "ambient"
    assert probes_for(config, body).volumes.masks is None
    config.explicit_branch.occlusion = "directional"
    assert probes_for(config, body).volumes.masks is not None
    assert load_probes(path).masks is not None


def test_speed_reports_stages_of_both_modes(student):
    """Fails when a stage is left out of the total, or the number of surfels is not what was asked for."""
    size = ("explicit_branch.speed.size=[48,64]", "explicit_branch.speed.surfels=700")
    results = measure(relit_config(student, *size, "explicit_branch.speed.frames=4", "explicit_branch.speed.warmup=1"))
    assert (results["surfels"], results["width"], results["height"]) == (700, 64, 48)
    for mode in ("forward", "deferred"):
        stages = results[mode]["stages"]
        parts = sum(stages[name]["mean_ms"] for name in stages if name != "total")
        assert {"skinning", "occlusion", "shading", "rasterisation", "compositing"} < set(stages)
        assert 0.5 < parts / stages["total"]["mean_ms"] <= 1.0
        assert results[mode]["fps"] == pytest.approx(1000 / stages["total"]["median_ms"])
    assert json.loads((student / "speed.json").read_text())["surfels"] == 700


def test_thinning_keeps_surfels_whole(student):
    """Fails when attributes of different surfels are mixed."""
    avatar = load_avatar(student / "ckpt6.pth")
    thinned = with_surfels(avatar, 100)
    rows = torch.cdist(thinned.surfels.positions, avatar.surfels.positions).argmin(1)
    assert torch.equal(thinned.surfels.features, avatar.surfels.features[rows])


def test_stage_times_add_up():
    """Fails when a stage entered twice counts once, or warm-up frames stay."""
    ticks = iter([0.0, 1.0, 1.0, 3.0, 10.0, 20.0])
    timer = StageTimer(torch.device("cpu"))
    timer._now = lambda: next(ticks)
    for _ in range(2):
        with timer("a"):
            pass
    timer.end_frame()
    with timer("a"):
        pass
    timer.end_frame(keep=False)
    assert summary(timer.milliseconds())["a"]["median_ms"] == 3000


def test_recipe_is_the_settings_defaults():
    """Fails when configs/explicit_branch/recipe/default.yaml and the dataclass drift apart."""
    config = compose("config_peoplesnapshot")
    assert training_settings(config) == TrainingSettings(lr_ratio=0.1)


def test_published_recipe_keeps_its_iterations():
    """Fails when the published numbers are scaled or overridden by our defaults."""
    settings = training_settings(
        compose("config_peoplesnapshot", "explicit_branch/recipe=published", "explicit_branch/option=iter50k")
    )
    assert (settings.iterations, settings.pbr_iteration, settings.opacity_reset_interval) == (50_000, 20_000, 3000)
    assert settings.mask_loss_type == "l1"


def test_missing_inputs_say_what_to_do(student, tmp_path):
    """Fails when a missing checkpoint, light or mesh ends in a bare FileNotFoundError."""
    with pytest.raises(InputError, match=r"ckpt6\.pth"):
        relight(relit_config(student, "explicit_branch.load_ckpt=null"))
    with pytest.raises(InputError, match="bundled maps"):
        relight(relit_config(student, "+explicit_branch.hdri=nowhere.hdr"))
    with pytest.raises(InputError, match="canonical mesh"):
        read_mesh(tmp_path / "none.obj")
    with pytest.raises(InputError, match="expected gender female"):
        relight(relit_config(student, "explicit_branch.dataset.gender=female"))
