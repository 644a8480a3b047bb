"""The configuration tree: every option composes, generated files are in step with what they come from."""

from pathlib import Path

import hydra
import pytest
from omegaconf import DictConfig, OmegaConf

from core.errors import InputError
from workflows import config_page, dataset_configs, launch
from workflows.dataset_configs import CONFIG_FOLDER

ROOTS = ("config_peoplesnapshot", "config_rana")
GROUPS = sorted(
    path.relative_to(CONFIG_FOLDER).as_posix()
    for branch in ("implicit_branch", "explicit_branch")
    for path in (CONFIG_FOLDER / branch).iterdir()
    if path.is_dir()
)


def compose(root: str = "config_peoplesnapshot", *overrides: str) -> DictConfig:
    """The configuration that a command line with ``overrides`` gives."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_FOLDER)):
        return hydra.compose(root, overrides=list(overrides))


def options(group: str) -> list[str]:
    """Names of all options of a group."""
    folder = CONFIG_FOLDER / group
    return [path.relative_to(folder).with_suffix("").as_posix() for path in sorted(folder.rglob("*.yaml"))]


@pytest.mark.parametrize("root", ROOTS)
def test_root_composes_and_resolves(root: str):
    """Fails when an interpolation dangles: the published tree could not be dumped resolved."""
    OmegaConf.to_container(compose(root), resolve=True)


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_composes(group: str):
    """Fails when an option points at a key or file that does not exist."""
    for name in options(group):
        config = compose("config_peoplesnapshot", f"{group}={name}")
        # A custom option waits for values from the command line.
        for key in launch.missing_keys(config):
            OmegaConf.update(config, key, "given")
        OmegaConf.to_container(config, resolve=True)


def test_dataset_options_match_their_table():
    """Fails when a subject is edited by hand or the table changes without regenerating."""
    files = dataset_configs.render()
    assert {path: path.read_text() for path in files} == files
    on_disk = {path for group in GROUPS if "dataset" in group for path in (CONFIG_FOLDER / group).rglob("*.yaml")}
    assert on_disk == set(files)


def test_configuration_page_matches_the_tree():
    """Fails when a key changes and `python -m workflows.config_page` was not run."""
    assert config_page.PAGE.read_text() == config_page.render()


def test_published_ranges_are_inclusive_for_the_teacher_and_half_open_for_the_student():
    """Fails when a generator mixes up the two published notations: both must select 114 frames."""
    config = compose("config_peoplesnapshot")
    chosen = config.implicit_branch.dataset.opt.train
    assert len(range(chosen.start, chosen.end + 1, chosen.skip)) == 114
    assert len(range(*config.explicit_branch.dataset.train_frames)) == 114


def test_published_checkpoint_name_survives_the_command_line():
    """Fails when the escaped `=` of a published checkpoint name no longer reaches the configuration."""
    path = r"exp/intrinsic-avatar-male-3-casual/male-3-casual/ckpt/epoch\=219-step\=25000.ckpt"
    config = compose("config_peoplesnapshot", f"implicit_branch.resume={path}")
    assert Path(config.implicit_branch.resume).name == "epoch=219-step=25000.ckpt"


@pytest.mark.parametrize(
    ("overrides", "mentions"),
    [
        (["training_mode=joint"], "training_mode"),
        (["implicit_branch.mode=tset"], "implicit_branch.mode"),
        (["gs_type=3dgs"], "gs_type"),
        (["implicit_branch/dataset=peoplesnapshot/custom"], "implicit_branch.dataset.dataroot"),
    ],
)
def test_wrong_choices_end_in_one_line(overrides: list[str], mentions: str):
    """Fails when a mistyped mode starts a training, or a custom option without values starts a stage."""
    with pytest.raises(SystemExit) as caught:
        launch.run("launch", compose("config_peoplesnapshot", *overrides))
    assert mentions in str(caught.value)
    assert isinstance(caught.value.__cause__ or caught.value.__context__, InputError)
