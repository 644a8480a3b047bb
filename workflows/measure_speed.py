"""Stage 5: frames per second of exactly what relighting renders."""

import logging
import time
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from core.camera import Camera
from core.files import write_json_atomically
from core.frames import BodyPose, FrameSet
from core.images import read_hdr
from data.hdr import bundled_hdris, find_hdri
from explicit_branch.avatar import Avatar, avatar_from_state
from explicit_branch.rendering.renderer import SHADING_MODES, Renderer
from explicit_branch.rendering.timing import StageTimer, summary
from gs_ir.cubemap import PrefilteredLight, equirect_to_cubemap
from gs_ir.prefiltering import prefilter
from workflows.build_data import explicit_frames
from workflows.paths import StagePaths
from workflows.relight import renderer_of, trained_avatar

_log = logging.getLogger(__name__)

PREFILTER_RUNS = 5


def measure(config: DictConfig) -> dict[str, Any]:
    """Time the relit frame, forward and deferred; write ``exp_dir/speed.json`` and log a table.

    A frame is: pose to the device, skinning, occlusion, shading, rasterisation, compositing. The G-buffer, files and
    metrics are left out; prefiltering the light happens once and is reported beside.

    Raises:
        InputError: as for ``relight``.
    """
    branch, speed = config.explicit_branch, config.explicit_branch.speed
    frames = explicit_frames(config, "test")
    avatar = trained_avatar(config, frames)
    if speed.surfels is not None:
        avatar = with_surfels(avatar, speed.surfels)
    renderer = renderer_of(config, avatar)
    device = avatar.surfels.positions.device
    light, prefilter_ms = timed_prefilter(_environment(branch.get("hdri"), frames), branch.base_res, device)
    camera = frames[0].camera
    if speed.size is not None:
        camera = camera.resized(speed.size[1], speed.size[0])
    results: dict[str, Any] = {
        "surfels": len(avatar.surfels), "width": camera.width, "height": camera.height, "frames": speed.frames,
        "warmup": speed.warmup, "device": device_name(device), "threads": torch.get_num_threads(),
        "prefilter_ms": prefilter_ms,
    }  # fmt: skip
    poses = [frames[i].pose for i in range(min(len(frames), speed.frames))]
    for mode in SHADING_MODES:
        results[mode] = timed_frames(
            renderer, poses, camera, light, shading=mode, frames=speed.frames, warmup=speed.warmup
        )
    write_json_atomically(StagePaths(config).student_dir / "speed.json", results)
    _log.info("%s", table(results))
    return results


@torch.inference_mode()
def timed_frames(
    renderer: Renderer,
    poses: list[BodyPose],
    camera: Camera,
    light: PrefilteredLight,
    *,
    shading: str,
    frames: int,
    warmup: int,
) -> dict[str, Any]:
    """Stage times of ``frames`` frames after ``warmup``, cycling through ``poses``; ``fps`` is of the median total."""
    device = renderer.avatar.surfels.positions.device
    camera, timer = camera.to(device), StageTimer(device)
    start = 0.0
    for frame in range(warmup + frames):
        if frame == warmup:
            _wait(device)
            start = time.perf_counter()
        with timer("total"):
            pose = poses[frame % len(poses)]
            renderer.picture(pose, camera, light, shading=shading, timer=timer)
        timer.end_frame(keep=frame >= warmup)
    _wait(device)
    elapsed = time.perf_counter() - start
    stages = summary(timer.milliseconds())
    return {"fps": 1000 / stages["total"]["median_ms"], "fps_wall": frames / elapsed, "stages": stages}


def timed_prefilter(image: Tensor, resolution: int, device: torch.device) -> tuple[PrefilteredLight, float]:
    """The light, and the median milliseconds of filtering its cube map of ``resolution``."""
    cubemap = equirect_to_cubemap(image.to(device), resolution)
    timer = StageTimer(device)
    with torch.no_grad():
        light = prefilter(cubemap)  # the first run also builds tables that are kept
        for _ in range(PREFILTER_RUNS):
            with timer("prefilter"):
                light = prefilter(cubemap)
            timer.end_frame()
    return light, summary(timer.milliseconds())["prefilter"]["median_ms"]


def with_surfels(avatar: Avatar, count: int) -> Avatar:
    """A copy of ``avatar`` with ``count`` surfels: its own, repeated from the start or thinned evenly."""
    state = avatar.state()
    have = len(avatar.surfels)
    rows = torch.arange(count) % have if count >= have else torch.linspace(0, have - 1, count).long()
    surfels = {name: value[rows.to(value.device)] for name, value in state["surfels"].items()}
    resized = avatar_from_state({**state, "surfels": surfels}, avatar.surfels.positions.device)
    return resized.requires_grad_(False).eval()


def table(results: dict[str, Any]) -> str:
    """The measured times as text."""
    head = "{surfels} surfels, {width} x {height}, {device}, {threads} threads; prefilter {prefilter_ms:.1f} ms"
    lines = [head.format(**results)]
    for mode in SHADING_MODES:
        stages = results[mode]["stages"]
        lines.append(f"  {mode}: {results[mode]['fps']:.1f} frames per second (median)")
        lines += [f"    {name:14s} {t['median_ms']:8.2f} ms  p90 {t['p90_ms']:8.2f} ms" for name, t in stages.items()]
    return "\n".join(lines)


def device_name(device: torch.device) -> str:
    """What the frames were timed on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _environment(hdri: str | None, frames: FrameSet) -> Tensor:
    path = find_hdri(hdri) if hdri else frames[0].hdri
    return read_hdr(path or Path(next(iter(bundled_hdris().values()))), bundled=bundled_hdris())
