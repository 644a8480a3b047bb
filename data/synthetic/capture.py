"""A whole capture of a clothed subject: training frames under one light, novel poses under others."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from core.errors import InputError
from core.files import read_array
from core.images import read_hdr, read_image, write_hdr
from data.camera_files import read_cameras
from data.hdr import find_hdri
from data.pose_files import read_poses
from data.synthetic.layouts import (
    Capture,
    Pictures,
    centred_camera,
    picture_files,
    write_peoplesnapshot_tables,
    write_pictures,
    write_rana_tables,
)
from data.synthetic.manifest import Manifest, sha256
from data.synthetic.motion import dance, facing_camera, turntable, walk
from data.synthetic.render import Quality, render_frame
from data.synthetic.subject import ClothedSubject

logger = logging.getLogger(__name__)

PELVIS = (0.0, -0.02, 3.2)
"""Where the pelvis stands in world space, metres: the body fills the picture at ``FOCAL_PER_SIZE``."""
FOCAL_PER_SIZE = 1.55
MEAN_RADIANCE = 0.9
TRAIN_SPLIT, TEST_SPLIT = "train_p1", "test"
HELD_OUT_EVERY = 6
"""PeopleSnapshot layout: every sixth training frame is kept for testing."""


@dataclass(frozen=True)
class Plan:
    """Everything that determines a capture."""

    name: str = "subject_00"
    size: int = 540
    train_frames: int = 100
    test_frames: int = 50
    turns: float = 1.0
    seed: int = 3
    light: str = "courtyard"
    relights: tuple[str, ...] = ("city", "forest", "interior", "sunrise", "sunset")
    train_quality: Quality = field(default_factory=lambda: Quality(samples=128))
    test_quality: Quality = field(default_factory=lambda: Quality(samples=256))

    def train_poses(self) -> np.ndarray:
        """[T, 24, 3] in world axes: the body turns before the camera."""
        return facing_camera(turntable(self.train_frames, self.turns, self.seed))

    def test_poses(self) -> np.ndarray:
        """[T, 24, 3] in world axes: three fifths dance, the rest walk, shuffled."""
        dancing = self.test_frames * 3 // 5
        walking = self.test_frames - dancing
        poses = np.concatenate([dance(dancing * 6, seed=self.seed)[::6], walk(walking * 3)[::3]])
        return facing_camera(poses[np.random.default_rng(self.seed).permutation(len(poses))])

    def test_lights(self) -> list[str]:
        """The light of each test frame, in turn."""
        return [self.relights[index % len(self.relights)] for index in range(self.test_frames)]


Renderer = Callable[..., Pictures]
"""Same arguments as ``render.render_frame``."""


@dataclass(frozen=True)
class _Split:
    name: str
    poses: np.ndarray
    lights: list[str]
    """One for each frame."""
    quality: Quality


def capture(
    subject_file: str | Path,
    output: str | Path,
    plan: Plan,
    *,
    peoplesnapshot: bool = True,
    render: Renderer = render_frame,
) -> None:
    """Render ``plan`` to ``output``/rana and, from its training frames, to ``output``/peoplesnapshot.

    Frames that are already complete are kept, so an interrupted run goes on where it stopped.

    Args:
        subject_file: a ``ClothedSubject``.
        output: becomes a ``load/`` folder.
        plan: what to render.
        peoplesnapshot: also write the PeopleSnapshot layout.
        render: replaces the renderer.

    Raises:
        InputError: the subject or a light cannot be read, mitsuba is missing, or ``output`` was made with another plan.
    """
    subject, output = ClothedSubject.load(subject_file), Path(output)
    settings = {**asdict(plan), "relights": list(plan.relights), "subject_sha256": sha256(subject_file)}
    manifest = Manifest(output / "rana", settings)
    lights = write_lights(output / "rana" / "hdri", (plan.light, *plan.relights))
    for split in (
        _Split(TRAIN_SPLIT, plan.train_poses(), [plan.light] * plan.train_frames, plan.train_quality),
        _Split(TEST_SPLIT, plan.test_poses(), plan.test_lights(), plan.test_quality),
    ):
        folder = output / "rana" / split.name / plan.name
        tables = _tables(subject, plan, split)
        for index in tqdm(range(len(split.poses)), desc=f"{split.name} {plan.size} px", unit="frame"):
            if manifest.has(_files_of_frame(folder, index)):
                continue
            pictures = render(
                subject,
                tables.camera,
                pose=tables.poses[index],
                transl=tables.transl[index],
                radiance=lights[split.lights[index]],
                quality=split.quality,
                seed=index,
            )
            manifest.record(write_pictures(folder, index, pictures))
        hdris = [f"{Path(name).stem}.hdr" for name in split.lights] if split.name == TEST_SPLIT else None
        write_rana_tables(folder, tables, hdris)
    if peoplesnapshot:
        source = output / "rana" / TRAIN_SPLIT / plan.name
        copy_as_peoplesnapshot(source, output / "peoplesnapshot" / plan.name, subject.gender)


def _tables(subject: ClothedSubject, plan: Plan, split: _Split) -> Capture:
    transl = np.tile(np.array(PELVIS) - subject.joints[0], (len(split.poses), 1))
    camera = centred_camera(plan.size, FOCAL_PER_SIZE * plan.size)
    return Capture(camera, split.poses, transl, subject.betas, subject.gender)


def _files_of_frame(folder: Path, index: int) -> list[Path]:
    nothing = np.empty(0)
    return list(picture_files(folder, index, Pictures(nothing, nothing, nothing, nothing, nothing)))


def write_lights(folder: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Find light probes (a path or a bundled name), scale them to one mean radiance and write them to ``folder``.

    Returns:
        Radiance [H, 2H, 3] of each name as it will be read back from the file.
    """
    lights = {}
    for name in dict.fromkeys(names):
        path = folder / f"{Path(name).stem}.hdr"
        if not path.is_file():
            write_hdr(path, scaled_to_mean(read_hdr(find_hdri(name)), MEAN_RADIANCE))
        lights[name] = read_hdr(path).numpy()
    return lights


def scaled_to_mean(radiance: torch.Tensor, mean: float) -> torch.Tensor:
    """``radiance`` [H, 2H, 3] scaled so that its average over the sphere and the channels is ``mean``."""
    height = radiance.shape[0]
    edges = torch.cos(torch.linspace(0, torch.pi, height + 1, dtype=torch.float64))
    share = (edges[:-1] - edges[1:]) / 2  # of the sphere's area, per row
    return radiance * (mean / (radiance.double().mean((1, 2)) * share).sum()).to(radiance.dtype)


def copy_as_peoplesnapshot(source: Path, target: Path, gender: str) -> None:
    """Write the PeopleSnapshot layout from RANA training frames; the held-out frames come last.

    Raises:
        InputError: there are too few frames to hold one out.
    """
    sequence = read_poses(source / "poses.npz")
    count = len(sequence)
    if count < HELD_OUT_EVERY:
        next_step = "Render more training frames, or leave the PeopleSnapshot layout out (--no-peoplesnapshot)."
        raise InputError(source, found=f"{count} frames", expected=f"{HELD_OUT_EVERY} or more", next_step=next_step)
    held_out = np.arange(HELD_OUT_EVERY - 1, count, HELD_OUT_EVERY)
    order = np.concatenate([np.setdiff1d(np.arange(count), held_out), held_out])
    for index, frame in enumerate(order):
        image = read_image(source / "images" / f"image_{frame:04d}.png").numpy()
        mask = read_array(source / "masks" / f"mask_{frame:04d}.npy")
        write_pictures(target, index, Pictures(image, mask))
    pose, camera = sequence.pose[torch.as_tensor(order)], read_cameras(source / "cameras.json").camera(0)
    shape = sequence.known_betas.numpy()
    tables = Capture(camera, pose.axis_angles.numpy(), pose.transl.numpy(), shape, gender)
    write_peoplesnapshot_tables(target, tables, train=count - len(held_out))
