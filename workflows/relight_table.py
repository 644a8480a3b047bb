"""The published table of a relighting: albedo, normals and relit images, a row for each way of shading."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.files import replacing

COLUMNS = {
    "albedo PSNR": "albedo_psnr", "albedo SSIM": "albedo_ssim", "albedo LPIPS": "albedo_lpips",
    "normal error": "normal_error_deg",
    "relit PSNR": "published_rana/psnr", "relit SSIM": "published_rana/ssim", "relit LPIPS": "published_rana/lpips",
}  # fmt: skip
"""Columns of the published RANA tables and the values that they show: SSIM with data range 2, LPIPS of VGG, degrees."""
EXTRA_COLUMNS = {"SSIM range 1": "standard/ssim", "FLIP": "flip"}
"""Ours, after the published ones."""
SURFACE = "surface"
"""The row of values that do not depend on shading."""

Results = Mapping[str, Any]


def table(results: Results) -> list[dict[str, str | float]]:
    """One row a pathway with whatever columns were measured; empty where there is no ground truth."""
    surface = results.get(SURFACE) or {}
    rows: list[dict[str, str | float]] = []
    for name, values in results.items():
        if name == SURFACE or not isinstance(values, Mapping) or "relit_psnr" not in values:
            continue
        merged = {**surface, **values}
        shown = {title: merged[key] for title, key in {**COLUMNS, **EXTRA_COLUMNS}.items() if key in merged}
        rows.append({"shading": name, **shown})
    return rows


def as_text(results: Results) -> str:
    """The table in aligned columns."""
    rows = table(results)
    if not rows:
        return "  no ground truth: nothing measured"
    titles = _titles(rows)
    cells = [titles, *([_cell(row.get(title, "")) for title in titles] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(titles))]
    return "\n".join("  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in cells)


def write_table(path: Path, results: Results) -> None:
    """The table as CSV, in full precision; nothing where nothing was measured."""
    _write(path, table(results))


def write_frame_values(path: Path, rows: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Every value of every frame as CSV: a line for each pathway and frame, by position among the measured frames."""
    _write(path, [{"shading": kind, "frame": i, **row} for kind, found in rows.items() for i, row in enumerate(found)])


def _write(path: Path, rows: Sequence[Mapping[str, str | float]]) -> None:
    if not rows:
        return
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, _titles(rows))
        writer.writeheader()
        writer.writerows(rows)


def _titles(rows: Sequence[Mapping[str, str | float]]) -> list[str]:
    """All columns, the known ones in their order."""
    present = dict.fromkeys(title for row in rows for title in row)
    known = [title for title in ("shading", *COLUMNS, *EXTRA_COLUMNS) if title in present]
    return known + [title for title in present if title not in known]


def _cell(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.4f}"
