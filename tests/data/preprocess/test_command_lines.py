"""The converters' command lines, and the scripts with the published names."""

import runpy
import sys
from pathlib import Path

import pytest

from core.errors import InputError
from data.preprocess import custom, motion, peoplesnapshot, rana
from data.preprocess.conversion import Conversion, run_jobs

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"


@pytest.mark.parametrize("module", [custom, motion, peoplesnapshot, rana])
def test_help_shows_examples(module, capsys):
    """Fails when a converter's help does not say how it is called."""
    with pytest.raises(SystemExit, match="0"):
        module.main(["--help"])
    assert capsys.readouterr().out.count(f"python -m {module.__name__}") >= 2


@pytest.mark.parametrize("name", ["PeopleSnapshot", "RANA", "CAPE"])
def test_published_scripts_start(name, capsys, monkeypatch):
    """Fails when a published script no longer finds the project from another folder."""
    script = SCRIPTS / f"preprocess_{name}.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(script), run_name="__main__")
    assert "--help" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        (motion, ["a.npz", "--output", "b", "--fps", "0"]),
        (motion, ["a.npz", "--output", "b", "--orbit", "-1"]),
        (custom, ["--images", "a", "--smpl", "b", "--output", "c", "--fov", "190"]),
        (custom, ["--images", "a", "--smpl", "b", "--output", "c", "--focal", "nan"]),
        (custom, ["--images", "a", "--smpl", "b", "--output", "c", "--focal", "9", "--fov", "40"]),
        (peoplesnapshot, ["--root", "a", "--workers", "0"]),
    ],
)
def test_impossible_options_are_refused(module, arguments):
    """Fails when an option that makes no sense starts a conversion."""
    with pytest.raises(SystemExit, match="2"):
        module.main(arguments)


def test_foreign_datasets_are_not_overwritten(tmp_path):
    """Fails when a converter fills a folder that somebody else made, or removes files there."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / ".image_0001-x.png").touch()
    with pytest.raises(InputError, match=r"no conversion\.json"):
        Conversion(tmp_path, "test", {})
    assert (tmp_path / "images" / ".image_0001-x.png").is_file()


def test_first_error_stops_the_rest():
    """Fails when the error of a worker is lost, or the remaining frames are still read."""
    taken = []

    def jobs():
        for i in range(1000):
            taken.append(i)
            yield lambda i=i: 1 / (3 - i)

    with pytest.raises(ZeroDivisionError):
        run_jobs(jobs(), 1000, "test", 2)
    assert len(taken) < 20
