"""Relight and animate a student (RANA layout)."""

import hydra
from omegaconf import DictConfig

from workflows.launch import run


@hydra.main(version_base="1.3", config_path="configs", config_name="config_rana")
def main(config: DictConfig) -> None:
    """Hydra entry point; see the README for the command lines."""
    run("relight", config)


if __name__ == "__main__":
    main()
