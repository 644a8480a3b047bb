"""Turn a speed test into benchmark rows: ``python benchmarks/record_speed.py SPEED.json RESULT.json``.

A row is ``{case, surfels, resolution, median_ms, p90_ms, busy_ms, device, torch, commit, method}``; ``busy_ms`` is null
where no profiler ran.
"""

import argparse
import json
import platform
import subprocess
from pathlib import Path

import torch


def rows(speed: dict) -> list[dict]:
    """Benchmark rows of one speed test."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
    common = {
        "busy_ms": None,
        "device": f"{speed['device']} ({platform.processor() or platform.machine()}), {speed['threads']} threads",
        "torch": torch.__version__,
        "commit": commit.strip(),
    }
    method = f"{speed['frames']} frames after {speed['warmup']}: pose to picture, light prefiltered once before"
    frame = {"surfels": speed["surfels"], "resolution": [speed["height"], speed["width"]], "method": method}
    timed = [
        {"case": f"frame_{mode}", "median_ms": total["median_ms"], "p90_ms": total["p90_ms"], **frame, **common}
        for mode in ("forward", "deferred")
        for total in [speed[mode]["stages"]["total"]]
    ]
    light = {"case": "hdri_ready", "median_ms": speed["prefilter_ms"], "p90_ms": None, "method": "cube map prefiltered"}
    return [*timed, {**light, **common}]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speed", type=Path, help="speed.json of a student's folder")
    parser.add_argument("result", type=Path, help="file under benchmarks/results")
    arguments = parser.parse_args()
    measured = rows(json.loads(arguments.speed.read_text()))
    arguments.result.write_text(json.dumps(measured, indent=2) + "\n")


if __name__ == "__main__":
    main()
