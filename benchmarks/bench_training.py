"""A training step of the student on the anchor workload: ``python -m benchmarks.bench_training``.

Every loss but LPIPS, in the phase that shades: colour pathway, split-sum shading with occlusion, a light that trains,
point distillation from a field of capsules, map losses, three optimisers and the densification statistic. Frames and
maps are drawn by the avatar itself before it is disturbed.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks import anchor_cloud
from benchmarks.anchor_avatar import avatar as anchor_avatar
from benchmarks.anchor_avatar import body_pose, canonical_body, light
from benchmarks.operators import operators
from benchmarks.timing import Row, busy_by_kernel, row, write_rows
from core.camera import Camera
from core.frames import BodyPose, Frame, world_to_opengl_normals
from core.protocols import CanonicalSample
from explicit_branch.avatar import Avatar, AvatarRecord
from explicit_branch.rendering.renderer import Renderer
from explicit_branch.settings import TrainingSettings
from explicit_branch.surfels import Surfels
from explicit_branch.trainer import OutputSettings, Trainer, TrainingData

FRAMES = 8
"""Captured frames, and as many distillation frames."""
FEATURES = 32
FIRST_ITERATION = 20_000
"""Light, distortion and normal consistency are on from here."""
LIGHT_RESOLUTION = 64
SHOWN = 12


class CapsuleField:
    """A teacher whose surface is the union of the anchor's capsules, with one material."""

    def __init__(self, device: str) -> None:
        start, end, radius = anchor_cloud.CAPSULE_START, anchor_cloud.CAPSULE_END, anchor_cloud.CAPSULE_RADIUS
        numbers = (start, end - start, radius)
        self.start, self.axis, self.radius = (torch.from_numpy(x.astype(np.float32)).to(device) for x in numbers)

    def query_canonical(self, points: Tensor) -> CanonicalSample:
        """See ``core.protocols.CanonicalField``."""
        along = ((points[:, None] - self.start) * self.axis).sum(-1) / self.axis.square().sum(-1)
        away = points[:, None] - self.start - along.clamp(0, 1)[..., None] * self.axis
        sdf, nearest = (away.norm(dim=-1) - self.radius).min(1)
        normal = normalize(away.gather(1, nearest[:, None, None].expand(-1, 1, 3))[:, 0], dim=-1)
        half = torch.full_like(sdf, 0.5)
        return CanonicalSample(sdf, normal, half[:, None].expand(-1, 3), half, torch.zeros_like(half))

    def eval_light(self, directions: Tensor) -> Tensor:
        """See ``core.protocols.CanonicalField``."""
        return (0.6 - 0.4 * directions[:, 1:2]).expand(-1, 3)


def student(surfels: int, device: str) -> Avatar:
    """The anchor avatar with the colour feature of the default head."""
    torch.manual_seed(0)
    anchor = anchor_avatar(surfels, device)
    raw = {**anchor.surfels.raw(), "features": torch.zeros(surfels, FEATURES, device=device)}
    record = AvatarRecord("anchor", "male", [0.0] * 10, "A_pose", frames=FRAMES, rendering={"min_size": 0})
    made = Avatar(Surfels(raw).to(device), canonical_body().to(device), record)
    made.probes = anchor.probes
    return made


@torch.no_grad()
def drawn_frame(renderer: Renderer, view: Camera, index: int) -> Frame:
    """What the avatar looks like in pose ``index``, with the maps that a distillation set has; in host memory."""
    device = renderer.avatar.surfels.positions.device
    pose = body_pose(index)
    render = renderer.render(
        BodyPose(pose.global_orient, pose.body_pose, pose.transl).to(device), view.to(device), light(str(device), 64)
    )
    buffer = render.buffer
    assert buffer is not None
    normal = world_to_opengl_normals(buffer.normal, view.to(device))
    return Frame(
        index,
        f"{index:04d}",
        view,
        pose,
        image=render.image,
        mask=render.alpha,
        albedo=buffer.albedo,
        normal=normal,
        roughness=buffer.roughness,
        metallic=buffer.metallic,
    ).to("cpu")


def training(surfels: int, size: int, device: str, folder: Path) -> Trainer:
    """A trainer of a disturbed avatar at ``FIRST_ITERATION``."""
    avatar, view = student(surfels, device), anchor_cloud.camera(size)
    renderer = Renderer(avatar)
    frames = [drawn_frame(renderer, view, index) for index in range(2 * FRAMES)]
    data = TrainingData(frames[:FRAMES], maps=frames[:FRAMES], distillation=frames[FRAMES:],
                        teacher=CapsuleField(device))  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        avatar.surfels.positions += 0.002 * torch.randn(surfels, 3, generator=generator).to(device)
    settings = TrainingSettings(
        iterations=1_000_000,
        schedule_iterations=None,
        lambda_dssim=0.2,
        light_from_iter=0,
        densify_from_iter=1_000_000,
        densify_until_iter=1_000_000,
    )
    output = OutputSettings(folder, progress=False)
    trainer = Trainer(avatar, data, settings, output, light_resolution=LIGHT_RESOLUTION)
    trainer.iteration = FIRST_ITERATION
    return trainer


def rows(surfels: int, size: int, device: str, repeats: int) -> list[Row]:
    """All cases."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = training(surfels, size, device, Path(folder))

        trainer.captured.preload()
        trainer.distilled.preload()

        def step() -> object:
            return trainer.step(trainer.iteration)

        method = "Trainer.step, all losses but LPIPS, occlusion, trained light, point and map distillation"
        made = row("train_step", step, method, repeats=repeats, surfels=surfels, resolution=size)
        for name, milliseconds in list(busy_by_kernel(step).items())[:SHOWN]:
            print(f"    {milliseconds:.4f} ms {name[:110]}", flush=True)  # noqa: T201
        counted = operators(step, 2 * trainer.settings.light_interval)
        print(f"    {sum(counted.values()):.0f} operators a step", flush=True)  # noqa: T201
        for name, count in list(counted.items())[:SHOWN]:
            print(f"    {count:6.1f} {name}", flush=True)  # noqa: T201
    return [made]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/training.json"))
    parser.add_argument("--surfels", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=540, help="pixels a side")
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    write_rows(arguments.output, rows(arguments.surfels, arguments.size, device, arguments.repeats))


if __name__ == "__main__":
    main()
