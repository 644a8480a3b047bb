"""The stages of the published command lines, one after the other in one process."""

import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from workflows.launch import run_stage

_log = logging.getLogger(__name__)

CONFIG_FOLDER = Path(__file__).parents[1] / "configs"
COMMANDS = {"launch_rana.py": "launch", "test_ps.py": "relight", "test_speed.py": "measure_speed"}


@dataclass
class Chain:
    """One run of several stages: what they share, which commands they are, and how long each took."""

    common: list[str]
    """Overrides of every stage's command line, given first."""
    overrides: list[str]
    """Overrides of every stage's command line, given last."""
    seconds: dict[str, float] = field(default_factory=dict)
    commands: dict[str, str] = field(default_factory=dict)
    """Command lines by stage."""

    @contextmanager
    def timed(self, stage: str):
        """Log a headline and add the time inside the block to ``stage``."""
        _log.info("── %s", stage)
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(self.seconds.get(stage, 0.0) + time.perf_counter() - start, 1)
        _log.info("── %s: %.0f s", stage, self.seconds[stage])

    def compose(self, script: str, *overrides: str) -> DictConfig:
        """The configuration of ``script`` with the shared options and ``overrides``."""
        root = "config_rana" if "rana" in script else "config_peoplesnapshot"
        with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_FOLDER)):
            return hydra.compose(root, overrides=[*self.common, *overrides, *self.overrides])

    def stage(self, name: str, script: str, *overrides: str) -> Any:
        """Run the stage that ``python script overrides`` runs, timed under ``name``."""
        self.commands[name] = " ".join(["python", script, *self.common, *overrides, *self.overrides])
        with self.timed(name):
            return run_stage(COMMANDS[script], self.compose(script, *overrides))


def newest_checkpoint(folder: Path) -> Path:
    """The student checkpoint of the highest iteration in ``folder``."""
    return max(folder.glob("ckpt*.pth"), key=lambda path: int(path.stem.removeprefix("ckpt")))
