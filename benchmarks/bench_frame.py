"""The real-time frame on the anchor workload: ``python -m benchmarks.bench_frame``.

From a pose in host memory to an sRGB picture, occlusion on, light prefiltered before; what ``Renderer.picture`` does
for relighting, metrics and ``test_speed.py``. ``median_ms`` is of the wall clock per frame over groups of 50 frames.
``frame_directional`` and ``frame_directional_deferred`` are frames whose shadows follow the light.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.anchor_avatar import avatar, body_pose, light
from benchmarks.anchor_cloud import camera
from benchmarks.timing import Row, busy, busy_by_kernel, make_row, write_rows
from explicit_branch.rendering.renderer import SHADING_MODES, Renderer

GPU_CASES = [(100_000, 540), (100_000, 1080), (100_000, 2160), (50_000, 540), (200_000, 1080)]
CPU_CASES = [(20_000, 256)]
SHADOWED_CASES = [(100_000, 540), (100_000, 1080)]
POSES = 50


def frame_function(renderer: Renderer, resolution: int, shading: str, device: str) -> Callable[[], object]:
    """Draws the next of ``POSES`` poses on every call."""
    poses, view, lit = [body_pose(i) for i in range(POSES)], camera(resolution), light(device)
    drawn = 0

    def draw() -> object:
        nonlocal drawn
        drawn += 1
        return renderer.picture(poses[drawn % POSES], view, lit, shading=shading)

    return draw


def wall_times(draw: Callable[[], object], frames: int, group: int) -> dict[str, float]:
    """Milliseconds a frame: median and 90th percentile over groups of ``group`` frames, after one group."""
    times = []
    for index in range(frames // group + 1):
        start = time.perf_counter()
        for _ in range(group):
            draw()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if index:
            times.append((time.perf_counter() - start) / group * 1000)
    times.sort()
    return {"median_ms": times[len(times) // 2], "p90_ms": times[int(0.9 * (len(times) - 1))]}


def frame_row(name: str, renderer: Renderer, resolution: int, shading: str, frames: int) -> Row:
    """Measure one case and print what its kernels take."""
    device = renderer.avatar.surfels.positions.device.type
    draw = frame_function(renderer, resolution, shading, device)
    times = wall_times(draw, frames, 50 if device == "cuda" else 1)
    method = f"{frames} frames over {POSES} poses, wall clock, pose upload to picture, light prefiltered"
    sizes = {"surfels": len(renderer.avatar.surfels), "resolution": resolution}
    made = make_row(name, times, busy(draw), method, **sizes)
    for kernel, milliseconds in list(busy_by_kernel(draw).items())[:8]:
        print(f"    {milliseconds:.4f} ms {kernel[:110]}", flush=True)  # noqa: T201
    return made


def rows(device: str, frames: int) -> list[Row]:
    """All cases."""
    measured = []
    with torch.inference_mode():
        for surfels, resolution in GPU_CASES if device == "cuda" else CPU_CASES:
            renderer = Renderer(avatar(surfels, device))
            measured += [frame_row(f"frame_{x}", renderer, resolution, x, frames) for x in SHADING_MODES]
        for surfels, resolution in SHADOWED_CASES if device == "cuda" else CPU_CASES:
            renderer = Renderer(avatar(surfels, device), occlusion="directional")
            for name, shading in (("frame_directional", "forward"), ("frame_directional_deferred", "deferred")):
                measured.append(frame_row(name, renderer, resolution, shading, frames))
    return measured


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/frame.json"))
    parser.add_argument("--frames", type=int, default=1000)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    write_rows(arguments.output, rows(device, arguments.frames))


if __name__ == "__main__":
    main()
