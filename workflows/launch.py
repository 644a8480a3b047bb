"""From a composed configuration to the stage that it asks for: the body of every launch and test script."""

import logging
import os
import sys
from collections.abc import Callable

import torch
from omegaconf import DictConfig, OmegaConf

from core.errors import InputError
from workflows import resolvers
from workflows.device import is_sweep, local_rank

# At import, because Hydra resolves interpolations before any stage runs (`--cfg job --resolve`).
resolvers.register()

TRAINING_MODES = ("teacher", "distill", "student")
IMPLICIT_MODES = ("train", "validate", "test", "predict")


def run(command: str, config: DictConfig) -> None:
    """Run ``command`` (``launch``, ``relight`` or ``measure_speed``); bad input ends in one line and exit code 2."""
    level = logging.WARNING if local_rank() else logging.INFO  # the first of several processes speaks for all
    logging.basicConfig(level=level, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    torch.set_float32_matmul_precision("high")
    try:
        run_stage(command, config)
    except InputError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or is_sweep():
            raise  # a sweep goes on with its other runs
        sys.exit(f"error: {error}")


def run_stage(command: str, config: DictConfig) -> object:
    """Run ``command`` and return what it returns.

    Raises:
        InputError: the configuration or the data cannot be used.
    """
    _check(config)
    return _stage(command, config)(config)


def missing_keys(config: DictConfig) -> list[str]:
    """Dotted names of the values that an option leaves to the command line (``???``).

    (OmegaConf's own search fails where another key interpolates a missing one.)
    """
    found = []

    def walk(node: object, path: list[str]) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, [*path, str(key)])
        elif node == "???":
            found.append(".".join(path))

    walk(OmegaConf.to_container(config, resolve=False), [])
    return found


def _check(config: DictConfig) -> None:
    missing = missing_keys(config)
    if missing:
        raise InputError(
            "configuration",
            found=f"no value for {', '.join(missing)}",
            expected="every key of a `custom` option on the command line",
            next_step=f"Add for example {missing[0]}=VALUE.",
        )
    if config.gs_type != "2dgs":
        raise InputError(
            "gs_type",
            found=config.gs_type,
            expected="2dgs",
            next_step="The 3dgs variant never ran in the published system and is not offered.",
        )


def _stage(command: str, config: DictConfig) -> Callable[[DictConfig], object]:
    """The workflow behind ``command``; imported late so that a stage loads only what it needs."""
    if command == "relight":
        from workflows.relight import relight

        return relight
    if command == "measure_speed":
        from workflows.measure_speed import measure

        return measure
    return _launch_stage(config.training_mode, config.implicit_branch.mode)


def _launch_stage(training_mode: str, mode: str) -> Callable[[DictConfig], object]:
    choice("training_mode", training_mode, TRAINING_MODES)
    choice("implicit_branch.mode", mode, IMPLICIT_MODES)
    if mode != "train":
        from workflows.render_distillation_set import render

        return render
    if training_mode == "teacher":
        from workflows.train_teacher import train

        return train
    from workflows.train_student import train as train_student

    return train_student


def choice(key: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse a ``value`` of configuration ``key`` that is not ``allowed``.

    Raises:
        InputError: names the key and the choices.
    """
    if value not in allowed:
        note = " (`joint` never ran in the published system and is not offered)" if value == "joint" else ""
        raise InputError(
            key, found=f"{value!r}{note}", expected=" | ".join(allowed), next_step=f"Pass {key}={allowed[0]}."
        )
