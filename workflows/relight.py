"""Stage 4: the student on a motion or a test set, under new light: pictures, videos, metrics."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from torch import Tensor
from tqdm import tqdm

from core.environment import texel_directions
from core.errors import InputError
from core.evaluation import alignment, mean_of, relit_metrics, surface_metrics
from core.files import write_json_atomically
from core.frames import Frame, FrameSet
from core.images import read_hdr, write_image
from core.metric_conventions import CONVENTIONS
from core.perceptual import PerceptualDistance
from core.video import VideoWriter
from data.hdr import bundled_hdris, find_hdri
from explicit_branch.avatar import Avatar, load_avatar
from explicit_branch.rendering.light import ImageLight
from explicit_branch.rendering.renderer import SHADING_MODES, Render, Renderer
from gs_ir.cubemap import sample_cubemap
from workflows.build_data import explicit_frames
from workflows.build_student import occlusion_kind
from workflows.device import compute_device
from workflows.evaluate_student import surface_of
from workflows.launch import choice
from workflows.paths import StagePaths
from workflows.relight_pictures import STEM, LightPictures, frame_pictures
from workflows.relight_table import as_text, table, write_frame_values, write_table

_log = logging.getLogger(__name__)

RENDERING_TYPES = {"forward_pbr": "forward", "deferred_pbr": "deferred"}


def relight(config: DictConfig) -> dict[str, Any]:
    """Render the test frames under the configured light; write everything under ``exp_dir/test-<test_mode>/``.

    The light is ``explicit_branch.hdri`` (one file, or a list: one sub-folder each), else each frame's own, else the
    one that the student was trained under.

    Returns:
        What ``results.json`` holds, by light.

    Raises:
        InputError: no checkpoint, a checkpoint of another subject, no such light, or data that the readers refuse.
    """
    branch = config.explicit_branch
    frames = explicit_frames(config, "test")
    avatar = trained_avatar(config, frames)
    folder = StagePaths(config).student_dir / f"test-{branch.dataset.test_mode}"
    perceptual = perceptual_distances(branch.lpips_weights, branch.lpips_sha256) if branch.evaluate else {}
    results = {}
    for name, source in _sources(branch.get("hdri")).items():
        session = RelightSession(config, avatar, source, folder / name, perceptual)
        results[name or "all"] = session.run(frames)
    return results


def trained_avatar(config: DictConfig, frames: FrameSet) -> Avatar:
    """The student of ``explicit_branch.load_ckpt``, checked against the subject of ``frames``.

    Raises:
        InputError: none named, none there, or another subject's.
    """
    branch = config.explicit_branch
    if branch.load_ckpt is None:
        folder = StagePaths(config).student_dir
        found = sorted(folder.glob("ckpt*.pth"), key=lambda p: p.stat().st_mtime)
        raise InputError(
            "explicit_branch.load_ckpt",
            found="null",
            expected="a student checkpoint",
            next_step=f"Pass explicit_branch.load_ckpt={found[-1] if found else f'{folder}/ckpt30000.pth'}.",
        )
    return load_avatar(
        branch.load_ckpt,
        compute_device(),
        subject=frames.subject,
        gender=frames.gender,
        canonical_pose=branch.dataset.rest_pose,
    )


def perceptual_distances(
    weights: Mapping[str, str | None], hashes: Mapping[str, str | None]
) -> dict[str, PerceptualDistance]:
    """LPIPS networks by name, for the weight files that are given; their hashes are compared where those are."""
    given = {network: path for network, path in weights.items() if path}
    rescaled = {c.perceptual_network: c.perceptual_rescaled for c in CONVENTIONS.values()}
    return {
        network: PerceptualDistance(path, network, rescaled[network], hashes[network])
        for network, path in given.items()
    }


def renderer_of(config: DictConfig, avatar: Avatar) -> Renderer:
    """The renderer as configured: occlusion and compositing."""
    return Renderer(avatar, occlusion=occlusion_kind(config), compositing=config.explicit_branch.compositing)


def _sources(hdri: str | Sequence[str] | None) -> dict[str, Path | None]:
    """Sub-folder and file of each configured light; one light has no sub-folder, None stands for each frame's own."""
    if hdri is None:
        return {"": None}
    if isinstance(hdri, str):
        return {"": find_hdri(hdri)}
    files = [find_hdri(name) for name in (list(hdri) if isinstance(hdri, ListConfig) else hdri)]
    return {path.stem: path for path in files}


class RelightSession:
    """One pass over the frames under one light, or under each frame's own."""

    def __init__(
        self,
        config: DictConfig,
        avatar: Avatar,
        source: Path | None,
        folder: Path,
        perceptual: Mapping[str, PerceptualDistance],
    ) -> None:
        branch = config.explicit_branch
        choice("explicit_branch.rendering_type", branch.rendering_type, tuple(RENDERING_TYPES))
        self.folder, self.source, self.perceptual = folder, source, perceptual
        self.resolution, self.fps, self.evaluate = branch.base_res, branch.video_fps, branch.evaluate
        self.shown = RENDERING_TYPES[branch.rendering_type]
        self.avatar, self.renderer = avatar, renderer_of(config, avatar)
        self.own_parts = Renderer(avatar, occlusion="own")
        self._lights: dict[Path | None, ImageLight] = {}

    @torch.no_grad()
    def run(self, frames: FrameSet) -> dict[str, Any]:
        """Render, write and measure every frame; returns and writes the means."""
        device = self.avatar.surfels.positions.device
        rows: dict[str, list[dict[str, float]]] = {}
        names: list[str] = []
        with ExitStack() as stack:
            videos: dict[str, VideoWriter] = {}
            for stored in tqdm(frames, total=len(frames), desc="relighting", unit="frame"):
                frame = stored.to(device)
                light, name = self._light(frame)
                if name not in videos:
                    videos[name] = stack.enter_context(VideoWriter(self.folder / f"relit_{name}.mp4", self.fps))
                    names.append(name)
                image, measured = self._frame(frame, light)
                videos[name].append(image)
                for kind, row in measured.items():
                    rows.setdefault(kind, []).append(row)
        results: dict[str, Any] = {kind: mean_of(found) for kind, found in rows.items()}
        write_frame_values(self.folder / "frames.csv", rows)
        write_table(self.folder / "results.csv", results)
        results |= {"frames": len(frames), "lights": names, "surfels": len(self.avatar.surfels)}
        results |= {"iteration": self.avatar.record.iteration, "shown": self.shown}
        results["lpips_sha256"] = {network: distance.sha256 for network, distance in self.perceptual.items()}
        results["table"] = table(results)
        write_json_atomically(self.folder / "results.json", results)
        _log.info("wrote %d frames to %s\n%s", len(frames), self.folder, as_text(results))
        return results

    def _frame(self, frame: Frame, light: ImageLight) -> tuple[Tensor, dict[str, dict[str, float]]]:
        """Draw, write and measure one frame; the picture for the video, and metrics by pathway."""
        renders = {mode: self._render(frame, light, mode) for mode in SHADING_MODES}
        surface = surface_of(_buffer(renders["forward"]), frame)
        gain = alignment(surface, frame)
        rows = {}
        if self.evaluate and frame.image is not None:
            rows["surface"] = surface_metrics(surface, frame, self.perceptual)
            rows |= {f"{mode}_unaligned": self._measured(render, frame) for mode, render in renders.items()}
        if gain is not None:
            renders = {mode: self._render(frame, light, mode, gain) for mode in SHADING_MODES}
        if rows:
            rows |= {mode: self._measured(render, frame) for mode, render in renders.items()}
            colour = renders["forward"].colour
            assert colour is not None
            rows["colour"] = relit_metrics(colour, frame, self.perceptual)
        pictures = frame_pictures(renders, frame, light, gain)
        own = _buffer(self.own_parts.render(frame.pose, frame.camera, None))
        pictures[f"occlusion/self_occ_{STEM}".replace(".png", "_all.png")] = own.occlusion * own.alpha
        for path, picture in pictures.items():
            write_image(self.folder / path.format(frame=frame.index), picture)
        image = renders[self.shown].image
        assert image is not None
        return image, rows

    def _render(self, frame: Frame, light: ImageLight, shading: str, gain: Tensor | None = None) -> Render:
        return self.renderer.render(
            frame.pose, frame.camera, light.prefiltered, shading=shading, colour=shading == "forward", albedo_gain=gain
        )

    def _measured(self, render: Render, frame: Frame) -> dict[str, float]:
        assert render.image is not None
        return relit_metrics(render.image, frame, self.perceptual)

    def _light(self, frame: Frame) -> tuple[ImageLight, str]:
        """The light of ``frame`` and its name for files."""
        path = self.source or frame.hdri
        if path not in self._lights:
            image = self._training_light() if path is None else read_hdr(path, bundled=bundled_hdris())
            light = ImageLight.from_image(image, resolution=self.resolution)
            self._lights[path] = light.to(self.avatar.surfels.positions.device)
            LightPictures(self.avatar.training_light, image).write(self.folder.parent)
        return self._lights[path], "training" if path is None else path.stem

    def _training_light(self) -> Tensor:
        """The light of the training as an equirectangular image [256, 512, 3].

        Raises:
            InputError: the student has none.
        """
        base = self.avatar.training_light
        if base is None:
            raise InputError(
                "light",
                found="neither explicit_branch.hdri nor a light in the student",
                expected="one of them",
                next_step=f"Pass +explicit_branch.hdri=, for example {next(iter(bundled_hdris()))}.",
            )
        directions = texel_directions(256, 512, base).reshape(-1, 3)
        return sample_cubemap([base], directions, torch.zeros_like(directions[:, 0])).reshape(256, 512, 3)


def _buffer(render: Render) -> Any:
    assert render.buffer is not None
    return render.buffer
