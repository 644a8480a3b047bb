"""Fill the report's page."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from core.files import replacing


@dataclass(frozen=True)
class Comparison:
    """A table of pictures: a column a method, a row a map or a frame."""

    title: str
    note: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Path | None]]]


@dataclass
class Report:
    """Everything that the page shows; paths are made relative to the page."""

    title: str
    lead: str
    cards: list[dict[str, str]] = field(default_factory=list)
    videos: list[tuple[str, Path]] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    metrics: list[dict[str, str]] = field(default_factory=list)
    metrics_note: str = ""
    curves: list[tuple[str, Path]] = field(default_factory=list)
    speed: list[dict[str, str]] = field(default_factory=list)
    speed_note: str = ""
    seconds: list[dict[str, str]] = field(default_factory=list)


def write_page(report: Report, path: Path) -> None:
    """Write ``report`` to the HTML file ``path``; every picture it names must exist."""

    def relative(target: Path | None) -> str | None:
        return None if target is None else Path(os.path.relpath(target, path.parent)).as_posix()

    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined
    )
    comparisons = [
        {
            "title": table.title,
            "note": table.note,
            "columns": table.columns,
            "rows": [{"label": label, "cells": [relative(cell) for cell in cells]} for label, cells in table.rows],
        }
        for table in report.comparisons
    ]
    linked = {
        "videos": [{"label": label, "path": relative(video)} for label, video in report.videos],
        "curves": [{"label": label, "path": relative(curve)} for label, curve in report.curves],
        "comparisons": comparisons,
    }
    text = environment.get_template("page.html.jinja").render(vars(report) | linked)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
