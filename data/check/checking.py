"""One pass over a dataset: every frame is read, measured, and some are drawn."""

from pathlib import Path

from tqdm import tqdm

from body_models import BodyModel
from core.errors import InputError
from core.files import read_json
from core.frames import Frame
from core.images import read_hdr, resize_image
from data.check.body_view import Agreement, BodyView
from data.check.layouts import Dataset
from data.check.report import Report, ValueRanges, describe_agreement, describe_motion
from data.check.sheet import Tile, draw
from data.pose_files import read_poses

MEASURED_HEIGHT = 540
"""Rows at which silhouettes are compared, at most."""


class Check:
    """Reads all frames of a dataset and collects what is found."""

    def __init__(self, dataset: Dataset, body: BodyModel | None, least: float) -> None:
        """Args: dataset: opened. body: of its gender; None: bodies are not drawn. least: IoU without a warning."""
        self.dataset, self.body, self.least = dataset, body, least
        self.agreements: dict[int, Agreement] = {}
        """By position of the frame, where it has a mask."""

    def run(self, report: Report) -> None:
        """Read and measure all frames into ``report``."""
        frames, ranges, read = self.dataset.frames, ValueRanges(), []
        lights: set[Path] = set()
        for position in tqdm(range(len(frames)), desc="checking", unit="frame", leave=False):
            try:
                frame = frames[position]
                if frame.hdri is not None and frame.hdri not in lights:
                    lights.add(frame.hdri)
                    read_hdr(frame.hdri)
            except InputError as error:
                report.errors.append(str(error))
                continue
            ranges.add(frame)
            if self.body is not None and frame.mask is not None:
                self.agreements[position] = self._agreement(frame)
            read.append(Frame(frame.index, frame.name, frame.camera, frame.pose))
        report.add("frames", len(read), values=f"of {len(frames)}")
        ranges.report(report)
        if read and self.dataset.posed:
            describe_motion(report, read)
        if self.agreements:
            names = {frames[position].name: found for position, found in self.agreements.items()}
            describe_agreement(report, names, self.least)

    def tiles(self, count: int, height: int) -> list[Tile]:
        """Pictures of ``count`` frames: evenly spaced ones, and as the last quarter those that fit worst."""
        total = len(self.dataset.frames)
        worst = sorted(self.agreements, key=lambda position: self.agreements[position].iou)[: count // 4]
        spaced = min(total, count - len(worst))
        chosen = [round(i * (total - 1) / max(1, spaced - 1)) for i in range(spaced)]
        drawn = (self._tile(position, height) for position in dict.fromkeys([*chosen, *worst]))
        return [tile for tile in drawn if tile is not None]

    def _view(self, frame: Frame) -> BodyView | None:
        if self.body is None:
            return None
        return BodyView.of(self.body, self.dataset.frames.betas, frame.pose, frame.camera)

    def _agreement(self, frame: Frame) -> Agreement:
        view, mask = self._view(frame), frame.mask
        assert view is not None
        assert mask is not None
        scale = min(1.0, MEASURED_HEIGHT / view.height)
        width, height = max(1, round(view.width * scale)), max(1, round(view.height * scale))
        return view.resized(width, height).agreement(resize_image(mask, width, height))

    def _tile(self, position: int, height: int) -> Tile | None:
        try:
            frame = self.dataset.frames[position]
        except InputError:
            return None  # is among the report's errors
        found = self.agreements.get(position)
        caption = frame.name if found is None else f"{frame.name}  IoU {found.iou:.3f}"
        alarm = found is not None and found.iou < self.least
        return Tile(draw(frame, self._view(frame), height), caption, alarm)


def check_side_files(folder: Path, gender: str, report: Report) -> None:
    """Pose files of splits, and whether a conversion was finished."""
    for path in sorted((folder / "poses").glob("*.npz")):
        try:
            report.add(f"poses/{path.name}", len(read_poses(path, gender)), "72")
        except InputError as error:
            report.errors.append(str(error))
    record = folder / "conversion.json"
    if record.is_file() and not read_json(record).get("complete", False):
        report.errors.append(f"{record}: the conversion was interrupted. Run the same command again: it goes on there.")
