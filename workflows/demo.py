"""Everything, end to end, on the embedded subject: ``python -m workflows.demo``.

Runs the stages of the published command lines in one process and ends with a page, ``OUTPUT/index.html``, and
``OUTPUT/metrics.json``. The page lists the command line of each stage.
"""

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from core.evaluation import mean_of, relit_metrics
from core.files import write_json_atomically
from core.frames import Frame, world_to_opengl_normals
from core.images import read_hdr, write_image
from explicit_branch.avatar import Avatar, load_avatar
from explicit_branch.rendering.renderer import Renderer
from gs_ir.prefiltering import prefilter
from implicit_branch.teacher import load_teacher
from workflows import evaluate_student, evaluate_teacher
from workflows.baseline import PaintedBody
from workflows.build_data import canonical_body, implicit_frames
from workflows.build_student import occlusion_kind
from workflows.chain import Chain, newest_checkpoint
from workflows.device import compute_device
from workflows.paths import StagePaths
from workflows.report.demo_page import SHOWN, write_demo_page

_log = logging.getLogger(__name__)

SUBJECT = "subject_00"
LIGHTS = ("city", "forest", "interior", "sunrise", "sunset")
"""Lights of the videos."""
RELIT_SAMPLES = 64
"""Monte-Carlo samples of the teacher's relit test frames."""
SPEED_SURFELS, SPEED_SIZE = 20_000, 256


@dataclass
class Demo(Chain):
    """The stages of the demo: its folder, and what was measured."""

    folder: Path = Path()
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def at(cls, folder: Path, overrides: list[str]) -> "Demo":
        """A demo that writes to ``folder``."""
        common = [
            f"implicit_branch.exp_dir={folder}",
            f"implicit_branch.tag={SUBJECT}",
            "implicit_branch/preset=small",
            "explicit_branch/preset=small",
            f"explicit_branch.exp_dir={folder / 'student'}",
        ]
        return cls(common, overrides, folder=folder)


def run(folder: Path, overrides: list[str]) -> Demo:
    """Teacher, distillation avatar, student, metrics, relighting, speed, page."""
    demo = Demo.at(folder, overrides)
    total = time.perf_counter()
    capture = f"implicit_branch/dataset=rana/p1/{SUBJECT}"
    student_data = (f"explicit_branch/dataset=rana_IA_{SUBJECT}_male",
                    f"explicit_branch/distill_dataset=distill_rana_{SUBJECT}")  # fmt: skip
    demo.stage("teacher", "launch_rana.py", "training_mode=teacher", "implicit_branch.mode=train", capture)
    demo.stage("distillation avatar", "launch_rana.py", "implicit_branch.mode=test",
               f"implicit_branch/dataset=animation/{SUBJECT}_tpose")  # fmt: skip
    demo.stage(
        "student", "launch_rana.py", "training_mode=distill", "implicit_branch.mode=train", capture, *student_data
    )
    checkpoint = newest_checkpoint(folder / "student")
    load = f"explicit_branch.load_ckpt={checkpoint}"
    with demo.timed("metrics"):
        measure(demo, checkpoint)
    lights = ",".join(f"{name}.hdr" for name in LIGHTS)
    relit = (f"explicit_branch/dataset=ps_IA_animation_{SUBJECT}", load, f"+explicit_branch.hdri=[{lights}]")
    demo.stage("relighting", "test_ps.py", "explicit_branch.mode=test", *relit,
               "explicit_branch.dataset.motion=dance", "explicit_branch.dataset.test_frames.pose=[0,96,4]",
               "explicit_branch.dataset.img_hw=[256,256]", "explicit_branch.video_fps=8")  # fmt: skip
    size = f"explicit_branch.speed.size=[{SPEED_SIZE},{SPEED_SIZE}]"
    speed = demo.stage("speed", "test_speed.py", *relit[:2], size, f"explicit_branch.speed.surfels={SPEED_SURFELS}")
    demo.metrics["speed"] = {"relit_fps": speed["forward"]["fps"], "relit_fps_deferred": speed["deferred"]["fps"]}
    demo.seconds["total"] = round(time.perf_counter() - total, 1)
    write_json_atomically(folder / "metrics.json", {**demo.metrics, "seconds": demo.seconds})
    write_demo_page(folder, demo.metrics, speed, seconds=demo.seconds, commands=demo.commands)
    return demo


def measure(demo: Demo, checkpoint: Path) -> None:
    """Metrics of teacher, student and baseline on training and test frames, with the relit pictures."""
    config = demo.compose("launch_rana.py", f"implicit_branch/dataset=rana/relight/{SUBJECT}")
    training, test = implicit_frames(config, "train"), implicit_frames(config, "test")
    device, pictures = compute_device(), demo.folder / "relit"
    teacher = load_teacher(StagePaths(config).teacher_checkpoint, device)
    values = evaluate_teacher.evaluate_surface(teacher, training)
    relit = evaluate_teacher.evaluate_relighting(
        teacher, test, samples_per_pixel=RELIT_SAMPLES, folder=pictures / "teacher"
    )
    demo.metrics["teacher"] = _headline(values, relit)
    student = load_avatar(checkpoint, device)
    values = evaluate_student.evaluate_surface(student, training)
    kind = occlusion_kind(config)
    relit = evaluate_student.evaluate_relighting(student, test, occlusion=kind, folder=pictures / "student")
    write_student_maps(student, [training[i] for i in SHOWN], demo.folder / "maps" / "student")
    demo.metrics["student"] = _headline(values, relit)
    body, rows = PaintedBody(canonical_body(config, training), training), []
    for frame in test:
        assert frame.hdri is not None
        image = body.render(frame, read_hdr(frame.hdri))
        write_image(pictures / "baseline" / f"render_pbr_{frame.name}.png", image)
        rows.append(relit_metrics(image, frame))
    demo.metrics["baseline"] = {"relit_psnr": mean_of(rows)["relit_psnr"]}
    _log.info("metrics: %s", demo.metrics)


@torch.no_grad()
def write_student_maps(student: Avatar, frames: Sequence[Frame], folder: Path) -> None:
    """Pictures of the student in training frames under its training light, named as the teacher's are."""
    assert student.training_light is not None
    renderer, light = Renderer(student), prefilter(student.training_light)
    for stored in frames:
        frame = stored.to(student.training_light.device)
        render = renderer.picture(frame.pose, frame.camera, light, gbuffer=True)
        buffer, image = render.buffer, render.image
        assert buffer is not None
        assert image is not None
        alpha = buffer.alpha[..., None]
        pictures = {
            "pbr_rgb": image,
            "pbr_albedo": buffer.albedo * alpha,
            "normal": (world_to_opengl_normals(buffer.normal, frame.camera) * alpha + 1) / 2,
            "pbr_roughness": (buffer.roughness[..., None] * alpha + 1 - alpha).expand(-1, -1, 3),
        }
        if buffer.occlusion is not None:
            pictures["visibility"] = (buffer.occlusion[..., None] * alpha).expand(-1, -1, 3)
        for kind, picture in pictures.items():
            write_image(folder / f"{frame.index:04d}-{kind}.png", picture)


def _headline(surface: dict[str, float], relit: dict[str, float]) -> dict[str, float]:
    return {name: surface[name] for name in ("mask_iou", "normal_error_deg", "albedo_psnr")} | {
        name: relit[name] for name in ("relit_psnr", "relit_psnr_mask", "relit_psnr_inner")
    }


def main() -> None:
    """Command line of the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("exp/demo"), help="folder of all results")
    parser.add_argument("overrides", nargs="*", help="configuration overrides for every stage")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    # Denormal numbers, which sharp densities produce, would slow a CPU down many times.
    torch.set_flush_denormal(True)
    demo = run(arguments.output, arguments.overrides)
    _log.info("done in %.0f s: open %s", demo.seconds["total"], arguments.output / "index.html")


if __name__ == "__main__":
    main()
