"""What is found in a dataset: a table of its contents, errors, and warnings with their likely cause."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from core.errors import list_some
from core.frames import Frame
from data.check.body_view import Agreement
from data.check.layouts import Dataset

COLUMNS = ("what", "count", "size", "values", "unit")
LARGEST_ANGLE = 12.0
"""Radians; beyond it a rotation is taken for degrees (published poses reach 6)."""
LARGEST_BETA = 6.0
FARTHEST = 50.0
"""Metres from the camera; beyond it a translation is taken for millimetres."""
FIELD_OF_VIEW = (5.0, 130.0)
"""Degrees across the image between which a focal length is believed."""
SIZE_RATIO = (0.85, 1.2)
"""Height of the body over that of the mask between which the scale is believed."""
DISPLACED = 0.12
"""Heights of the mask by which a body must be off before its place is blamed; one that is upside down moves by 0.09."""

Row = tuple[str, str, str, str, str]


@dataclass
class Report:
    """Findings in the order in which they were made."""

    rows: list[Row] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, what: str, count: object = "", size: str = "", values: str = "", unit: str = "") -> None:
        """One row of the table."""
        self.rows.append((what, str(count), size, values, unit))

    def table(self) -> str:
        """The rows in columns."""
        widths = [max(len(row[i]) for row in [COLUMNS, *self.rows]) for i in range(len(COLUMNS))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in [COLUMNS, *self.rows]]
        return "\n".join(line.rstrip() for line in [lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


class ValueRanges:
    """Count, size and smallest and largest value of every map over the frames."""

    UNITS = {
        "image": "sRGB in the mask", "mask": "share of the image", "albedo": "linear, in the mask",
        "normal": "share of the mask that has one", "roughness": "perceptual, in the mask",
        "metallic": "in the mask", "depth": "metres along the ray",
    }  # fmt: skip

    def __init__(self) -> None:
        self.lights: set[str] = set()
        self._found: dict[str, list[tuple[float, float]]] = {}
        self._sizes: dict[str, set[str]] = {}

    def add(self, frame: Frame) -> None:
        """Take up the maps of ``frame``."""
        if frame.hdri is not None:
            self.lights.add(frame.hdri.name)
        if frame.mask is None:
            return
        inside = frame.mask > 0.5
        for name in self.UNITS:
            values = getattr(frame, name)
            if values is None:
                continue
            height, width = values.shape[:2]
            self._sizes.setdefault(name, set()).add(f"{width} x {height}")
            chosen = _shown(name, values, inside)
            if chosen.numel():
                self._found.setdefault(name, []).append((float(chosen.min()), float(chosen.max())))

    def report(self, report: Report) -> None:
        """One row a map."""
        for name, ranges in self._found.items():
            low, high = min(r[0] for r in ranges), max(r[1] for r in ranges)
            report.add(name, len(ranges), ", ".join(sorted(self._sizes[name])), f"{low:.3f} to {high:.3f}",
                       self.UNITS[name])  # fmt: skip
        if self.lights:
            report.add("light", len(self.lights), values=list_some(sorted(self.lights), 3), unit="file")


def _shown(name: str, values: Tensor, inside: Tensor) -> Tensor:
    if name == "mask":
        return inside.float().mean()
    if name == "normal":
        return (values[inside].norm(dim=-1) > 0.5).float().mean()
    return values[inside]


def describe_subject(report: Report, dataset: Dataset, gender_known: bool) -> None:
    """Layout, gender and shape."""
    frames, betas = dataset.frames, dataset.frames.betas
    report.add("layout", values=dataset.layout)
    report.add("subject", values=frames.subject)
    report.add("gender", values=frames.gender + ("" if gender_known else " (assumed)"))
    report.add("betas", len(betas), values=f"{float(betas.min()):.2f} to {float(betas.max()):.2f}", unit="SMPL shape")
    if not gender_known:
        report.warnings.append("The gender is recorded nowhere; neutral is assumed. Give --gender.")
    if float(betas.abs().max()) > LARGEST_BETA:
        report.warnings.append(f"Betas reach {float(betas.abs().max()):.1f}: of another body model, or a failed fit?")


def describe_motion(report: Report, frames: list[Frame]) -> None:
    """Cameras, poses and translations of ``frames``."""
    angles = torch.stack([frame.pose.axis_angles for frame in frames]).norm(dim=-1)
    report.add("root rotation", len(frames), "3", f"{float(angles[:, 0].max()):.2f} at most", "radians")
    report.add("joint rotations", len(frames), "69", f"{float(angles[:, 1:].max()):.2f} at most", "radians")
    if float(angles.max()) > LARGEST_ANGLE:
        report.warnings.append(f"A joint turns by {float(angles.max()):.0f} radians: are the poses in degrees?")
    transl = torch.stack([frame.pose.transl for frame in frames])
    report.add("translation", len(frames), "3", ", ".join(_span(transl[:, i], name) for i, name in enumerate("xyz")),
               "metres")  # fmt: skip
    placed = torch.stack([
        frame.camera.camera_from_world[:3, :3] @ frame.pose.transl + frame.camera.camera_from_world[:3, 3]
        for frame in frames
    ])  # fmt: skip
    depth = placed[:, 2]
    report.add("distance", len(frames), values=_span(depth, ""), unit="metres along the camera's axis")
    if float(depth.max()) > FARTHEST:
        report.warnings.append(f"The body is {float(depth.max()):.0f} m away: are translations in millimetres?")
    if float(depth.min()) <= 0:
        report.warnings.append("The body is behind the camera: is `extrinsic` camera_from_world, with z forward?")
    _describe_cameras(report, frames)


def _describe_cameras(report: Report, frames: list[Frame]) -> None:
    cameras = [frame.camera for frame in frames]
    distinct = {tuple(c.intrinsics.flatten().tolist() + c.camera_from_world.flatten().tolist()) for c in cameras}
    focal = torch.stack([c.intrinsics[[0, 1], [0, 1]] for c in cameras])
    centre = torch.stack([c.intrinsics[:2, 2] for c in cameras])
    size = f"{cameras[0].width} x {cameras[0].height}"
    report.add("camera", len(distinct), size, f"focal length {_span(focal, '')}", "pixels")
    report.add("principal point", len(distinct), "", ", ".join(_span(centre[:, i], "xy"[i]) for i in (0, 1)), "pixels")
    view = np.degrees(2 * np.arctan(cameras[0].width / 2 / focal[:, 0].numpy()))
    if view.min() < FIELD_OF_VIEW[0] or view.max() > FIELD_OF_VIEW[1]:
        report.warnings.append(
            f"Field of view {view.min():.0f} to {view.max():.0f} degrees: is `intrinsic` in pixels of the images?"
        )


def describe_agreement(report: Report, found: dict[str, Agreement], least: float) -> None:
    """How well the bodies cover the masks; warns of frames below ``least`` IoU and names the likely cause."""
    iou = np.array([agreement.iou for agreement in found.values()])
    ratio = np.array([agreement.height_ratio for agreement in found.values()])
    inside = np.array([agreement.joints_inside for agreement in found.values()])
    report.add("body on mask", len(iou), values=f"{iou.min():.3f} to {iou.max():.3f}, median {np.median(iou):.3f}",
               unit="IoU")  # fmt: skip
    report.add("body height", len(iou), values=f"{np.nanmedian(ratio) if np.isfinite(ratio).any() else np.nan:.2f}",
               unit="of the mask's, median")  # fmt: skip
    report.add("joints in mask", len(iou), values=f"{inside.min():.2f} to {inside.max():.2f}", unit="share of 24")
    low = [name for name, agreement in found.items() if agreement.iou < least]
    if low:
        cause = _likely_cause(list(found.values())) if len(low) > len(found) / 2 else "Poses or masks of these frames?"
        share = f"{len(low)} of {len(found)} frames: {list_some(low)}"
        report.warnings.append(f"Body and mask disagree (IoU below {least:g}) in {share}. {cause}")


def _likely_cause(found: Iterable[Agreement]) -> str:
    """In words, from the median displacement and size."""
    table = np.array([(a.height_ratio, *a.offset) for a in found])
    if not np.isfinite(table).any():
        return "The bodies are behind the camera: check extrinsic and translation."
    ratio, right, down = np.nanmedian(table, axis=0)
    if not SIZE_RATIO[0] < ratio < SIZE_RATIO[1]:
        return f"The body is {ratio:.2f} times as tall as the mask: focal length, depth, or size of the images?"
    if max(abs(right), abs(down)) > DISPLACED:
        place = f"{right:+.2f} (right), {down:+.2f} (down)"
        return f"The body is {place} mask heights from it: principal point or translation?"
    return "Size and place agree: body model, gender, root rotation (upside down?) or order of the poses?"


def _span(values: Tensor, name: str) -> str:
    low, high = float(values.min()), float(values.max())
    text = f"{low:.2f}" if high - low < 5e-3 else f"{low:.2f} to {high:.2f}"
    return f"{name} {text}" if name else text
