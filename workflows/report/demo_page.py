"""What the demo's page shows, gathered from the files that the stages wrote."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data import embedded
from workflows.report.curves import plot_curves
from workflows.report.page import Comparison, Report, write_page

TARGETS = {"mask_iou": 0.93, "normal_error_deg": 22.0}
GAIN_OVER_BASELINE = 3.0
STUDENT_LOSS = 1.0
FPS = 8.0
SHOWN = (0, 6)
"""Training frames in the comparison."""


def write_demo_page(
    folder: Path,
    metrics: Mapping[str, Mapping[str, float]],
    speed: Mapping[str, Any],
    *,
    seconds: Mapping[str, float],
    commands: Mapping[str, str],
) -> None:
    """Write ``folder/index.html``."""
    teacher, student, baseline = (metrics[name] for name in ("teacher", "student", "baseline"))
    report = Report(
        title="An avatar from 24 pictures",
        lead="Teacher, distillation avatar, student, occlusion probes and relighting on the embedded subject "
        f"({speed['device']}). Ground truth is used for measuring only.",
        cards=[
            {"value": f"{student['relit_psnr']:.1f} dB", "label": "relit student, novel pose and light"},
            {"value": f"{student['relit_psnr'] - baseline['relit_psnr']:+.1f} dB", "label": "over the naive baseline"},
            {"value": f"{student['normal_error_deg']:.1f}°", "label": "normal error of the student"},
            {"value": f"{speed['forward']['fps']:.1f} FPS", "label": f"{speed['surfels']} surfels, {speed['width']}²"},
            {"value": f"{seconds['total'] / 60:.1f} min", "label": "all stages"},
        ],
        videos=[(path.parent.name, path) for path in sorted((folder / "student").glob("test-pose/*/relit_*.mp4"))],
        comparisons=[_training_maps(folder), _relit(folder), _shadows(folder)],
        metrics=_metric_rows(teacher, student, baseline),
        metrics_note="Published RANA protocol: albedo aligned per frame and channel before relighting, PSNR in the "
        "rectangle around the mask. Shape and albedo on the training frames.",
        curves=_curves(folder),
        speed=_speed_rows(speed),
        speed_note=f"Median of {speed['frames']} frames after {speed['warmup']} on {speed['device']}, "
        f"{speed['threads']} threads; the light is prefiltered once, {speed['prefilter_ms']:.0f} ms.",
        seconds=[
            {"label": name, "seconds": f"{value:.0f}", "command": commands.get(name, "")}
            for name, value in seconds.items()
        ],
    )
    write_page(report, folder / "index.html")


def _training_maps(folder: Path) -> Comparison:
    """Ground truth, teacher and student side by side, map by map."""
    truth = embedded.load_root() / "rana" / "train_p1" / embedded.SUBJECT
    maps = next(iter(sorted(folder.glob("intrinsic-avatar-*/*/save/it[1-9]*-test"))))
    student = folder / "maps" / "student"
    rows: list[tuple[str, list[Path | None]]] = []
    kinds = {
        "colour": ("images/image", "pbr_rgb"),
        "albedo": ("albedos/albedo", "pbr_albedo"),
        "normal": ("normals/normal", "normal"),
        "roughness": ("roughness/roughness", "pbr_roughness"),
        "occlusion": (None, "visibility"),
    }
    for label, (stem, kind) in kinds.items():
        cells: list[Path | None] = []
        for frame in SHOWN:
            cells.append(truth / f"{stem}_{frame:04d}.png" if stem else None)
            cells += [maps / f"{frame:04d}-{kind}.png", student / f"{frame:04d}-{kind}.png"]
        rows.append((label, [cell if cell and cell.exists() else None for cell in cells]))
    return Comparison(
        "Training frames",
        "Colour under the recovered light. Occlusion is the share of the environment that the body leaves open.",
        ["ground truth", "teacher", "student"] * 2,
        rows,
    )


def _relit(folder: Path) -> Comparison:
    truth = embedded.load_root() / "rana" / "test" / embedded.SUBJECT / "images"
    rows = []
    for path in sorted((folder / "relit" / "student").glob("render_pbr_*.png")):
        frame = path.stem.removeprefix("render_pbr_")
        methods = [folder / "relit" / name / path.name for name in ("teacher", "student", "baseline")]
        rows.append((frame, [truth / f"image_{frame}.png", *methods]))
    return Comparison(
        "Novel poses under new lights",
        "Ground truth is path-traced; every frame has another light.",
        ["ground truth", "teacher", "student", "naive baseline"],
        rows,
    )


def _shadows(folder: Path) -> Comparison:
    rows = []
    for light in sorted(path for path in (folder / "student" / "test-pose").iterdir() if path.is_dir()):
        pictures = sorted((light / "renders_deferred_pbr_bg").glob("*.png"))[::6][:4]
        if pictures:
            rows.append((light.name, list(pictures)))
    columns = [f"frame {6 * i}" for i in range(max((len(cells) for _, cells in rows), default=0))]
    return Comparison("Before the environment", "Deferred shading over each light.", columns, rows)


def _metric_rows(teacher: Mapping[str, float], student: Mapping[str, float], baseline: Mapping[str, float]) -> list:
    floor = baseline["relit_psnr"] + GAIN_OVER_BASELINE
    met = {
        "mask_iou": min(teacher["mask_iou"], student["mask_iou"]) >= TARGETS["mask_iou"],
        "normal_error_deg": max(teacher["normal_error_deg"], student["normal_error_deg"])
        <= TARGETS["normal_error_deg"],
        "relit_psnr": min(teacher["relit_psnr"], student["relit_psnr"]) >= floor
        and student["relit_psnr"] >= teacher["relit_psnr"] - STUDENT_LOSS,
    }
    labels = {
        "mask_iou": ("mask IoU", "≥ 0.93", "{:.3f}"),
        "normal_error_deg": ("normal error, degrees", "≤ 22", "{:.1f}"),
        "albedo_psnr": ("albedo PSNR in the mask, aligned, dB", "", "{:.1f}"),
        "relit_psnr": ("relit PSNR, valid rectangle, dB", f"≥ {floor:.1f}, student ≥ teacher − 1", "{:.1f}"),
        "relit_psnr_mask": ("relit PSNR, mask, dB", "", "{:.1f}"),
        "relit_psnr_inner": ("relit PSNR, mask eroded by 2 pixels, dB", "", "{:.1f}"),
    }
    return [
        {
            "label": label,
            "teacher": form.format(teacher[name]),
            "student": form.format(student[name]),
            "baseline": form.format(baseline[name]) if name in baseline else "–",
            "target": target,
            "verdict": {True: "good", False: "bad", None: ""}[met.get(name)],
        }
        for name, (label, target, form) in labels.items()
    ]


def _curves(folder: Path) -> list[tuple[str, Path]]:
    curves = []
    runs = {"teacher": next(iter(folder.glob("intrinsic-avatar-*/*/log")), None), "student": folder / "student" / "log"}
    for name, log in runs.items():
        picture = log and plot_curves(log, folder / "curves" / f"{name}.png", title=f"losses of the {name}")
        if picture:
            curves.append((f"losses of the {name}", picture))
    return curves


def _speed_rows(speed: Mapping[str, Any]) -> list[dict[str, str]]:
    return [
        {"label": f"{mode}: {stage}", "median": f"{row['median_ms']:.1f}", "p90": f"{row['p90_ms']:.1f}"}
        for mode in ("forward", "deferred")
        for stage, row in speed[mode]["stages"].items()
    ]
