"""Steps and images of the teacher in its published size: ``python -m benchmarks.bench_teacher_step [--data FOLDER]``.

``radiance_step`` and ``pbr_step``: forward, backward and Adam of a step in the middle of either stage, on a field that
starts as the body with a density as sharp as it becomes in training. ``teacher_frame``: 540 x 540 under an HDRI, 256
samples a pixel. ``distillation_frame``: 540 x 540 with all maps under the training light, nothing written.
The embedded subject, or ``--data``: a subject's folder in the RANA layout. ``--small``: sizes for a CPU.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig

from benchmarks.timing import Row, busy_by_kernel, make_row, measure, write_rows
from core.frames import Frame
from implicit_branch.module import TeacherModule
from implicit_branch.rendering.emitters import TextureLight
from implicit_branch.rendering.frame import Illumination, render_frame
from implicit_branch.teacher import Teacher
from workflows.build_data import implicit_frames
from workflows.build_teacher import new_teacher, training_module
from workflows.dataset_configs import CONFIG_FOLDER
from workflows.device import compute_device

HDRI = Path("data/embedded/hdri/sunset.hdr")
STAGES = {"radiance_step": 4550, "pbr_step": 15_050}
"""Steps of the schedule at which is measured; the next proxy mesh is 500 steps away."""
WINDOW = 400
BETA = 3e-3
"""Metres: scale of the density late in training."""
SHOWN = 20
SMALL = (
    "implicit_branch/preset=small",
    "implicit_branch.trainer.max_steps=25000",
    "implicit_branch.sampler.num_sample=256",
    "implicit_branch.system.shaded_rays=64",
    "implicit_branch.model.proxy.resolution=64",
)


class TimedModule(TeacherModule):
    """A training without Lightning's loop."""

    taken = 0

    @property
    def global_step(self) -> int:
        """Number of the step to take."""
        return self.taken

    def log(self, *_, **__) -> None:
        """Nothing is logged."""

    def log_dict(self, *_, **__) -> None:
        """Nothing is logged."""


def compose(data: Path | None, gender: str, *overrides: str) -> DictConfig:
    """The configuration of a training on ``data``."""
    dataset = ["implicit_branch/dataset=rana/p1/subject_00"]
    if data is not None:
        chosen = {"dataroot": data.parent, "subject": data.name, "gender": gender, "body_model": "embedded"}
        dataset = ["implicit_branch/dataset=rana/p1/custom"]
        dataset += [f"implicit_branch.dataset.{key}={value}" for key, value in chosen.items()]
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(CONFIG_FOLDER)):
        return hydra.compose("config_rana", overrides=["training_mode=teacher", *dataset, *overrides])


def stepper(module: TimedModule, first: int) -> Callable[[], None]:
    """A function that takes the next step of the window from ``first`` on."""
    optimizer = module.configure_optimizers()["optimizer"]
    steps = count()

    def take() -> None:
        module.taken = first + next(steps) % WINDOW
        loss = module.training_step(None, 0)
        optimizer.zero_grad()
        module.backward(loss)
        optimizer.step()

    return take


def step_rows(module: TimedModule, names: list[str], repeats: int) -> list[Row]:
    """Training steps."""
    module.on_fit_start()
    measured = []
    for name in names:
        with torch.no_grad():
            module.teacher.fields.density.beta.fill_(BETA)
        settings = module.settings
        method = f"{module.sampler.num_sample} rays of {settings.frames_per_step} frames"
        if name == "pbr_step":
            method += f", {settings.shaded_rays} of them shaded with {settings.samples_per_pixel} directions"
        measured.append(_row(name, stepper(module, STAGES[name]), method, repeats))
        print(f"  lists {dict(module._lists.rooms)}", flush=True)  # noqa: T201
    return measured


def frame_rows(teacher: Teacher, frame: Frame, names: list[str], *, size: int, samples: int, repeats: int) -> list[Row]:
    """Images."""
    teacher.advance(25_000)
    camera = frame.camera.resized(size, size)
    light = TextureLight(hdr_filepath=HDRI).to(camera.intrinsics.device)
    trained = Illumination.of_training(teacher)
    lights = {
        "teacher_frame": Illumination.of_environment(teacher, light, samples_per_pixel=samples),
        "distillation_frame": trained,
    }
    measured = []
    for name in names:
        illumination = lights[name]
        spp = illumination.shading.samples_per_pixel
        method = f"{size} x {size}, {spp} samples a pixel, {illumination.shading.render_mode}"
        draw = partial(render_frame, teacher, frame.pose, camera, illumination)
        measured.append(_row(name, draw, method, repeats))
    return measured


def _row(name: str, function: Callable[[], object], method: str, repeats: int) -> Row:
    warmup = min(20, repeats)
    times = measure(function, warmup=warmup, repeats=repeats)
    method = f"{repeats} calls after {warmup}; {method}"
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        function()
        method += f"; {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most"
    kernels = busy_by_kernel(function, repeats=3)
    made = make_row(name, times, sum(kernels.values()) if kernels else None, method)
    for kernel, milliseconds in list(kernels.items())[:SHOWN]:
        print(f"  {milliseconds:8.4f} ms {kernel[:110]}", flush=True)  # noqa: T201
    return made


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/teacher_step.json"))
    parser.add_argument("--data", type=Path, help="a subject's folder in the RANA layout")
    parser.add_argument("--gender", default="male")
    parser.add_argument("--cases", nargs="+", default=[*STAGES, "teacher_frame", "distillation_frame"])
    parser.add_argument("--size", type=int, default=540, help="rows and columns of the images")
    parser.add_argument("--samples", type=int, help="directions of a shaded pixel: 512 in steps, 256 in relit frames")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--plain", action="store_true", help="no CUDA graphs")
    parser.add_argument("--small", action="store_true", help="sizes for a CPU")
    arguments = parser.parse_args()
    config = compose(arguments.data, arguments.gender, *(SMALL if arguments.small else ()))
    frames = implicit_frames(config, "train")
    teacher = new_teacher(config, frames)
    plain = training_module(config, teacher, frames)
    settings = replace(plain.settings, samples_per_pixel=arguments.samples or 512, cuda_graphs=not arguments.plain)
    module = TimedModule(teacher, settings, plain.images, plain.sampler).to(compute_device())
    rows = step_rows(module, [name for name in STAGES if name in arguments.cases], arguments.repeats)
    images = [name for name in arguments.cases if name not in STAGES]
    frame = frames[0].to(compute_device())
    sizes = {"size": arguments.size, "samples": arguments.samples or 256, "repeats": arguments.repeats}
    rows += frame_rows(module.teacher.eval(), frame, images, **sizes)
    write_rows(arguments.output, rows)


if __name__ == "__main__":
    main()
