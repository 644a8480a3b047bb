"""How steady a student is in a slow turn: ``python -m benchmarks.flicker --geometry NPZ --data FOLDER --student CKPT``.

A pose of the test split turns about the vertical in small steps under a fixed light. The student's pictures and those
of the true mesh change from frame to frame. The truth is shaded as in ``benchmarks.ceilings``: with exact visibility
along fixed directions, so it has no noise. Two means over the pixels that the body fills in both:

change    absolute difference of neighbouring frames: shading and texture that move, and whatever flickers
flicker   absolute second difference in time: what does not move smoothly

in sRGB levels of 255, and their ratios to the truth's. The truth shaded through the student's probes tells flicker of
the shadows from flicker of the surface.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from tqdm import tqdm

from benchmarks.ceilings import MODELS, SUPERSAMPLING, Subject, picture, read_subject, see
from benchmarks.timing import device_name
from core.color import linear_to_srgb, srgb_to_linear
from core.files import write_json_atomically
from core.frames import BodyPose, Frame
from core.images import read_hdr
from data.hdr import find_hdri
from data.rana import RanaFrames
from explicit_branch.avatar import Avatar, load_avatar
from explicit_branch.rendering.light import ImageLight
from explicit_branch.rendering.renderer import Renderer

TRUTH = "exact"
TRUTHS = ("none", "ambient_probes", "directional_probes", TRUTH)
STUDENTS = ("none", "ambient", "directional")
RESOLUTION = 256
"""Of the lights' cube maps."""
SOLID = 0.99
"""Coverage above which a pixel shows the body alone."""
LEVELS = 255
FINER = 2
"""The truth is drawn larger by this factor, on top of ``SUPERSAMPLING``, so that it does not flicker by aliasing."""


def turned(pose: BodyPose, degrees: float) -> BodyPose:
    """``pose`` turned about the vertical through its pelvis."""
    turn = Rotation.from_euler("y", degrees, degrees=True) * Rotation.from_rotvec(pose.global_orient.cpu().numpy())
    return replace(pose, global_orient=torch.from_numpy(turn.as_rotvec()).to(pose.global_orient))


def slow_turn(frame: Frame, count: int, step: float) -> list[Frame]:
    """``count`` frames that begin with ``frame``, ``step`` degrees apart."""
    return [replace(frame, index=i, pose=turned(frame.pose, i * step)) for i in range(count)]


def change(images: Tensor, solid: Tensor, order: int) -> float:
    """Mean absolute ``order``-th difference in time of ``images`` [T, H, W, 3], in levels.

    Over the pixels that are ``solid`` [T, H, W] in all frames that the difference looks at.
    """
    inside = solid[order:].clone()
    for lag in range(order):
        inside &= solid[lag : len(solid) - order + lag]
    differences = images.diff(n=order, dim=0).abs().mean(-1)
    return float(LEVELS * differences[inside].mean())


def pooled(image: Tensor, factor: int) -> Tensor:
    """Mean over ``factor`` x ``factor`` pixels of ``image`` [H, W, C]."""
    rows, columns = (size // factor for size in image.shape[:2])
    return image.reshape(rows, factor, columns, factor, -1).mean((1, 3))


Pictures = dict[str, dict[str, list[Tensor]]]
"""Frames [H, W, 3] by light and method."""


@torch.inference_mode()
def truth(subject: Subject, frames: Sequence[Frame], lights: dict[str, ImageLight]) -> tuple[Pictures, Tensor]:
    """The true mesh under each of ``TRUTHS``, and where it fills pixels [T, H, W]."""
    found: Pictures = {light: {name: [] for name in TRUTHS} for light in lights}
    solid = []
    for frame in tqdm(frames, desc="truth", unit="frame"):
        camera = frame.camera
        fine = replace(frame, camera=camera.resized(FINER * camera.width, FINER * camera.height))
        seen, rows = see(subject, fine), SUPERSAMPLING * FINER * camera.height
        solid.append(pooled(seen.hit.reshape(rows, -1, 1).float().cpu(), SUPERSAMPLING * FINER)[..., 0] > SOLID)
        for name, light in lights.items():
            for model in TRUTHS:
                linear = pooled(srgb_to_linear(picture(MODELS[model](seen, light), seen, fine)), FINER)
                found[name][model].append(linear_to_srgb(linear).cpu())
    return found, torch.stack(solid)


@torch.no_grad()
def student(avatar: Avatar, frames: Sequence[Frame], lights: dict[str, ImageLight]) -> tuple[Pictures, Tensor]:
    """The student under each of ``STUDENTS``, and where it fills pixels [T, H, W]."""
    found: Pictures = {light: {f"student_{kind}": [] for kind in STUDENTS} for light in lights}
    solid: list[Tensor] = []
    for kind in STUDENTS:
        renderer = Renderer(avatar, occlusion=kind)
        for name, light in lights.items():
            for frame in tqdm(frames, desc=f"student, {kind}, {name}", unit="frame"):
                drawn = renderer.picture(frame.pose, frame.camera, light.prefiltered)
                assert drawn.image is not None
                found[name][f"student_{kind}"].append(drawn.image.cpu())
                if len(solid) < len(frames):
                    solid.append(drawn.alpha.cpu() > SOLID)
    return found, torch.stack(solid)


def summary(pictures: dict[str, list[Tensor]], solid: Tensor) -> dict[str, dict[str, float]]:
    """``change``, ``flicker``, their ratios to the truth's, and the mean ``level``, by method."""
    rows = {}
    for name, frames in pictures.items():
        images = torch.stack(frames)
        rows[name] = {
            "change": change(images, solid, 1),
            "flicker": change(images, solid, 2),
            "level": float(LEVELS * images[solid].mean()),
        }
    for row in rows.values():
        row |= {f"{key}_ratio": row[key] / rows[TRUTH][key] for key in ("change", "flicker")}
    return rows


def table(found: dict[str, dict]) -> str:
    """Markdown, a line for each light and method."""
    head = ["light", "method", "change", "ratio", "flicker", "ratio", "mean level"]
    keys: dict[str, Callable[[float], str]] = {"change": "{:.2f}".format, "change_ratio": "{:.3f}".format,
        "flicker": "{:.2f}".format, "flicker_ratio": "{:.3f}".format, "level": "{:.0f}".format}  # fmt: skip
    lines = [head, ["---"] * len(head)]
    for light, rows in found.items():
        lines += [[light, name, *(show(row[key]) for key, show in keys.items())] for name, row in rows.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--geometry", type=Path, required=True, help="as for benchmarks.ceilings")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds test/SUBJECT")
    parser.add_argument("--student", type=Path, required=True, help="checkpoint, of the same subject")
    parser.add_argument("--subject", default="subject_00")
    parser.add_argument("--gender", default="male")
    parser.add_argument("--frame", type=int, default=0, help="of the test split, whose pose and camera are used")
    parser.add_argument("--size", type=int, help="side of the pictures; the data's own when not given")
    parser.add_argument("--frames", type=int, default=36)
    parser.add_argument("--step", type=float, default=1.0, help="degrees between frames")
    parser.add_argument("--lights", nargs="+", default=["city", "sunrise"], help="HDRIs, by path or bundled")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/flicker.json"))
    given = parser.parse_args()
    size = (given.size, given.size) if given.size else None
    capture = RanaFrames(root=given.data, subject=given.subject, gender=given.gender, split="test", size=size)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lights = {
        name: ImageLight.from_image(read_hdr(find_hdri(name)), resolution=RESOLUTION).to(device)
        for name in given.lights
    }
    frames = slow_turn(capture[given.frame].to(device), given.frames, given.step)
    theirs, filled = truth(read_subject(given.geometry, device), frames, lights)
    ours, covered = student(load_avatar(given.student, device), frames, lights)
    found = {light: summary(theirs[light] | ours[light], filled & covered) for light in lights}
    settings = {"frames": given.frames, "step": given.step, "frame": given.frame, "device": device_name()}
    write_json_atomically(given.output, {**settings, "lights": found})
    print(table(found))  # noqa: T201
    print(json.dumps(settings))  # noqa: T201


if __name__ == "__main__":
    main()
