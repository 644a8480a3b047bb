"""Quality and time of the whole chain on one subject: ``python -m benchmarks.quality --data FOLDER --subject NAME``.

Trains a teacher on the ``train_p1`` split of a capture in the RANA layout, renders its distillation avatar, distils
students, and measures everything against ground truth on the training frames and the relit ``test`` split, by the
published protocol. Writes ``quality.json`` (means, and PSNR by light, with the seconds of each stage and the command
lines) and ``stages.json``. With ``--stages`` a later run goes on with what earlier ones left in ``--output``.
"""

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.timing import Row, device_name, make_row, write_rows
from core.evaluation import RELIT, mean_of, relit_metrics
from core.files import write_json_atomically
from core.frames import FrameSet
from explicit_branch.avatar import Avatar, load_avatar
from explicit_branch.rendering.renderer import Renderer
from gs_ir.prefiltering import prefilter
from implicit_branch.rendering.frame import Illumination, render_frame
from implicit_branch.teacher import Teacher, load_teacher
from workflows.build_data import implicit_frames
from workflows.chain import Chain, newest_checkpoint
from workflows.device import compute_device
from workflows.evaluate_student import evaluate_relighting as relight_student
from workflows.evaluate_student import evaluate_surface as student_surface
from workflows.evaluate_teacher import evaluate_relighting as relight_teacher
from workflows.evaluate_teacher import evaluate_surface as teacher_surface
from workflows.evaluate_teacher import relit_image
from workflows.paths import StagePaths
from workflows.refined_poses import with_refined_poses

_log = logging.getLogger(__name__)

STAGES = ("teacher", "distillation", "student", "measure")
OCCLUSIONS = ("none", "ambient", "directional")
DISTILLATION = ("data/embedded/load/distill_pose", "turntable_and_varied")
"""Folder and name of the poses of the distillation avatar."""
TIMED = {
    "teacher": ("train_total", "frames read, all steps, mesh, all maps of the training frames"),
    "distillation": ("distillation_set", "all frames and maps written"),
    "student": ("student_total", "probes, frames read, all iterations"),
}
"""Case and content of each stage's row of ``stages.json``."""
SURFACE = ("mask_iou", "normal_error_deg", "albedo_psnr", "roughness_mae")


class Subject:
    """A capture and the folder of everything made from it."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments, self.folder = arguments, arguments.output
        common = [
            f"implicit_branch.exp_dir={self.folder}",
            f"implicit_branch.tag={arguments.subject}",
            f"explicit_branch.exp_dir={self.folder / 'student'}",
        ]
        self.chain = Chain(common, arguments.overrides)

    def capture(self, option: str) -> list[str]:
        """Overrides for the teacher's dataset ``option``."""
        given = self.arguments
        return [
            f"implicit_branch/dataset={option}/custom",
            f"implicit_branch.dataset.subject={given.subject}",
            f"implicit_branch.dataset.gender={given.gender}",
            f"implicit_branch.dataset.body_model={given.body_model}",
        ]

    @property
    def training(self) -> list[str]:
        """Overrides for the training frames."""
        return [*self.capture("rana/p1"), f"implicit_branch.dataset.dataroot={self.arguments.data}"]

    @property
    def motion(self) -> list[str]:
        """Overrides for the poses of the distillation avatar."""
        root, name = DISTILLATION
        return [
            *self.capture("animation"),
            f"implicit_branch.dataset.dataroot={root}",
            f"implicit_branch.dataset.motion={name}",
            f"implicit_branch.dataset.subject_root={self.folder_of_training}",
            f"implicit_branch.dataset.opt.test.downscale={self.arguments.downscale}",
        ]

    @property
    def student(self) -> list[str]:
        """Overrides for the student's data."""
        given, (root, name) = self.arguments, DISTILLATION
        data, distilled = "explicit_branch.dataset", "explicit_branch.distill_dataset"
        return [
            "explicit_branch/dataset=rana_IA_custom",
            f"explicit_branch.dataset_name={given.subject}",
            f"{data}.root_dir={given.data}",
            f"{data}.subject={given.subject}",
            f"{data}.gender={given.gender}",
            f"{data}.body_model={given.body_model}",
            f"{data}.img_hw=[{given.size[0]},{given.size[1]}]",
            "explicit_branch/distill_dataset=distill_rana_custom",
            f"{distilled}.motion_root={root}",
            f"{distilled}.motion={name}",
            f"{distilled}.subject_root={self.folder_of_training}",
            f"{distilled}.downscale={given.downscale}",
        ]

    @property
    def folder_of_training(self) -> Path:
        """Where the training frames and the shape lie."""
        return self.arguments.data / "train_p1" / self.arguments.subject

    def frames(self, split: str) -> FrameSet:
        """``train``: the training frames as the teacher poses them; ``test``: the relit ones. Every ``--every``-th."""
        option = {"train": "rana/p1", "test": "rana/relight"}[split]
        skip = f"implicit_branch.dataset.opt.{split}.skip={self.arguments.every}"
        root = f"implicit_branch.dataset.dataroot={self.arguments.data}"
        config = self.chain.compose("launch_rana.py", *self.capture(option), root, skip)
        frames = implicit_frames(config, split)
        return with_refined_poses(frames, StagePaths(config).refined_poses) if split == "train" else frames


def run(subject: Subject) -> dict[str, Any]:
    """The stages that were asked for; returns what was measured."""
    chain, stages = subject.chain, subject.arguments.stages
    if "teacher" in stages:
        teach = ("training_mode=teacher", "implicit_branch.mode=train")
        chain.stage("teacher", "launch_rana.py", *teach, *subject.training)
    if "distillation" in stages:
        chain.stage("distillation", "launch_rana.py", "implicit_branch.mode=test", *subject.motion)
    if "student" in stages:
        chain.stage("student", "launch_rana.py", "training_mode=distill", "implicit_branch.mode=train",
                    *subject.training, *subject.student)  # fmt: skip
    return measure(subject) if "measure" in stages else {}


def measure(subject: Subject) -> dict[str, Any]:
    """Figures of the teacher and of the student with each kind of occlusion."""
    config = subject.chain.compose("launch_rana.py", *subject.training)
    training, test, pictures = subject.frames("train"), subject.frames("test"), subject.folder / "relit"
    found: dict[str, Any] = {}
    teacher = load_teacher(StagePaths(config).teacher_checkpoint, compute_device())
    with subject.chain.timed("measure the teacher"):
        relit = relight_teacher(teacher, test, samples_per_pixel=subject.arguments.samples, folder=pictures / "teacher")
        found["teacher"] = figures(teacher_surface(teacher, training), relit) | teacher_training(teacher, training)
    if not any((subject.folder / "student").glob("ckpt*.pth")):
        return found
    avatar = load_avatar(newest_checkpoint(subject.folder / "student"), compute_device())
    with subject.chain.timed("measure the student"):
        surface = student_surface(avatar, training)
        for kind in OCCLUSIONS:
            relit = relight_student(avatar, test, resolution=256, occlusion=kind, folder=pictures / f"student_{kind}")
            found[f"student_{kind}"] = figures(surface, relit) | student_training(avatar, training, kind)
    found["surfels"] = len(avatar.surfels)
    return found


def figures(surface: dict[str, float], relit: dict[str, float]) -> dict[str, Any]:
    """What ``quality.json`` says of one method: surface on training and on test frames, relit PSNR, PSNR by light."""
    values: dict[str, Any] = {name: surface[name] for name in SURFACE if name in surface}
    values |= {f"test_{name}": relit[name] for name in SURFACE if name in relit}
    values |= {name: relit[name] for name in RELIT}
    values |= {f"unaligned_{name}": relit[f"unaligned/{name}"] for name in RELIT}
    values["ssim"] = relit["published_rana/ssim"]
    lights: dict[str, dict[str, float]] = {}
    for name, value in relit.items():
        if name.startswith("by_light/"):
            _, light, metric = name.split("/")
            lights.setdefault(light, {})[metric] = value
    return values | {"by_light": lights}


@torch.no_grad()
def teacher_training(teacher: Teacher, frames: FrameSet) -> dict[str, float]:
    """PSNR of the training frames as the teacher renders them under the light that it recovered."""
    device = teacher.fields.articulation.box.device
    rows = []
    illumination = Illumination(teacher.light, replace(teacher.settings.shading, samples_per_pixel=256), learned=True)
    for frame in (stored.to(device) for stored in tqdm(frames, total=len(frames), desc="training frames")):
        rows.append(relit_metrics(relit_image(render_frame(teacher, frame.pose, frame.camera, illumination)), frame))
    return training_figures(rows)


@torch.no_grad()
def student_training(avatar: Avatar, frames: FrameSet, occlusion: str) -> dict[str, float]:
    """PSNR of the training frames as the student renders them under its training light."""
    assert avatar.training_light is not None
    renderer, light, rows = Renderer(avatar, occlusion=occlusion), prefilter(avatar.training_light), []
    for frame in (stored.to(avatar.training_light.device) for stored in frames):
        image: Tensor | None = renderer.picture(frame.pose, frame.camera, light).image
        assert image is not None
        rows.append(relit_metrics(image, frame))
    return training_figures(rows)


def training_figures(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The means of ``rows`` under names of their own."""
    means = mean_of(rows)
    return {name.replace("relit", "train"): means[name] for name in RELIT}


def add_subject(parser: argparse.ArgumentParser) -> None:
    """What says which capture a benchmark looks at, and how."""
    parser.add_argument("--data", type=Path, required=True, help="folder in the RANA layout, with train_p1/ and test/")
    parser.add_argument("--subject", default="subject_00", help="folder below train_p1/ and test/")
    parser.add_argument("--gender", default="male", help="of the body model")
    parser.add_argument("--body-model", default="embedded", help="folder of SMPL files, or `embedded`")
    parser.add_argument("--size", type=int, nargs=2, default=(540, 540), help="height and width of the images")
    parser.add_argument("--downscale", type=float, default=2.0, help="of the camera of the distillation avatar")
    parser.add_argument("--every", type=int, default=1, help="measure every n-th frame")
    parser.add_argument("overrides", nargs="*", help="configuration overrides for every stage, after `--`")


def stage_rows(seconds: dict[str, float]) -> list[Row]:
    """Rows for the stages among ``seconds`` that a user waits for."""
    return [make_row(case, {"median_ms": 1000 * seconds[stage]}, None, f"once, from the stage's start: {content}")
            for stage, (case, content) in TIMED.items() if stage in seconds]  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_subject(parser)
    parser.add_argument("--samples", type=int, default=256, help="Monte-Carlo samples of the teacher's relit pixels")
    parser.add_argument("--stages", nargs="*", choices=STAGES, default=STAGES, help="what to run")
    parser.add_argument("--output", type=Path, default=Path("exp/quality"), help="folder of all results")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_float32_matmul_precision("high")
    subject = Subject(arguments)
    found = run(subject)
    path = arguments.output / "quality.json"
    before = json.loads(path.read_text()) if path.exists() else {"seconds": {}, "commands": {}}
    report = {
        **before,
        **found,
        "seconds": before["seconds"] | subject.chain.seconds,
        "commands": before["commands"] | subject.chain.commands,
        "device": device_name(),
    }
    write_json_atomically(path, report)
    write_rows(arguments.output / "stages.json", stage_rows(subject.chain.seconds))
    _log.info("wrote %s", path)


if __name__ == "__main__":
    main()
