"""Operators of the teacher: ``python -m benchmarks.bench_teacher``.

``hash_*``: the published grid (16 levels of 2 features, 2^19 entries) at uniformly random points, forward and backward
apart; ``_jacobian`` with the derivatives by the points, whose backward has the second-order terms; ``_compact`` reads
tables rounded to half precision. ``hash_mlp_*``: that grid in half precision and two hidden layers of 64, 16 outputs.
``sdf_step``: the teacher's distance field with an eikonal loss, values, gradients and features forward and backward.
``find_correspondences``: points within 2 cm of the embedded body, bent at random. ``build_seeds``: four poses of its
surface in 50k triangles. ``march`` and ``render_weights``: the 4096 rays of a training step.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.bench_probes import fine_mesh
from benchmarks.timing import Row, row, write_rows
from body_models import load_body
from body_models.canonical import CanonicalBody
from core.frames import BodyPose
from data import embedded
from gs_ir.correspondence import SeedGrid, build_seeds, find_correspondences
from gs_ir.field import field_values
from gs_ir.hash_grid import HashGridLayout, compact_copy, encode, encode_with_jacobian
from gs_ir.marching import march, render_weights
from gs_ir.mlp import mlp
from implicit_branch.deformation.articulation import Articulation
from implicit_branch.fields.mlp import relu_mlp
from implicit_branch.fields.sdf import SdfField

FRAMES = 4
RAYS = 4096
STEP = 0.02
RADIUS = 0.045
SEED_RESOLUTION = 64


def hash_rows(device: str, count: int, repeats: int) -> list[Row]:
    """The grid."""
    layout, generator = HashGridLayout(), torch.Generator().manual_seed(0)
    points = torch.rand(count, 3, generator=generator).to(device)
    table = torch.randn(layout.entries, layout.features, generator=generator).to(device).requires_grad_()
    measured = []
    for name, operator in (("hash_encode", encode), ("hash_jacobian", encode_with_jacobian)):
        for moving in (False, True):
            inputs = (points.clone().requires_grad_(moving), table)
            outputs = _tuple(operator(*inputs, layout))
            cotangents = [torch.randn_like(x) for x in outputs]
            wanted = [x for x in inputs if x.requires_grad]
            backward = partial(torch.autograd.grad, outputs, wanted, cotangents, retain_graph=True)
            kind = "table and points" if moving else "table"
            if not moving:
                forward = partial(operator, points, table.detach(), layout)
                measured.append(row(name, forward, "all levels", repeats=repeats, points=count))
            case = f"{name}_backward{'_points' * moving}"
            measured.append(row(case, backward, f"gradient of {kind}", repeats=repeats, points=count))
    return measured


def field_rows(device: str, count: int, repeats: int) -> list[Row]:
    """The grid with networks, as the teacher's fields use them."""
    layout, generator = HashGridLayout(), torch.Generator().manual_seed(0)
    points = torch.rand(count, 3, generator=generator).to(device)
    table = (0.1 * torch.randn(layout.entries, layout.features, generator=generator)).to(device).requires_grad_()
    compact = compact_copy(table, layout)
    network = relu_mlp(3 + layout.width, 16).to(device)
    layers = [x for m in network if isinstance(m, torch.nn.Linear) for x in (m.weight, m.bias)]
    cotangent = torch.randn(count, 16, generator=generator).to(device)

    def both() -> object:
        features = encode(points, table, layout, compact=compact_copy(table, layout))
        outputs = mlp([2 * points - 1, features], layers, smooth=False)
        return torch.autograd.grad(outputs, [table, *layers], cotangent)

    surface = SdfField(xyz_encoding={"start_level": layout.levels}, half_precision=True).to(device)
    canonical = 2 * points - 1

    def eikonal_step() -> object:
        sample = surface(canonical)
        loss = sample.features.square().mean() + (sample.gradient.norm(dim=-1) - 1).square().mean()
        return torch.autograd.grad(loss, list(surface.parameters()))

    cases: list[tuple[str, Callable[[], object], str]] = [
        ("hash_encode_compact", partial(encode, points, table.detach(), layout, compact=compact), "all levels"),
        ("hash_mlp_forward", partial(field_values, points, table, layout, layers, smooth=False, compact=compact),
         "table already rounded"),
        ("hash_mlp_forward_backward", both, "with rounding the table; gradients of table and layers"),
        ("sdf_step", eikonal_step, "with rounding the table; gradients of table and layers"),
    ]  # fmt: skip
    return [row(name, function, method, repeats=repeats, points=count) for name, function, method in cases]


def _tuple(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return value if isinstance(value, tuple) else (value,)


def posed_rows(device: str, count: int, repeats: int) -> list[Row]:
    """Seeds and the search."""
    body = CanonicalBody(load_body("embedded", embedded.GENDER).to(device), torch.zeros(10))
    surface, _ = fine_mesh(body)
    articulation = Articulation.from_body(body)
    generator = torch.Generator().manual_seed(0)
    bent = 0.3 * torch.randn(FRAMES, 69, generator=generator)
    pose = BodyPose(torch.zeros(FRAMES, 3), bent, torch.zeros(FRAMES, 3)).to(device)
    space = articulation.pose_space(pose, surface, radius=RADIUS, resolution=SEED_RESOLUTION)
    posed = articulation.to_world(surface, space)
    seeds = partial(build_seeds, posed, surface, SEED_RESOLUTION, RADIUS)
    method = f"{FRAMES} poses of {len(surface)} points, {SEED_RESOLUTION} cells a side"
    measured = [row("build_seeds", seeds, method, repeats=repeats, resolution=SEED_RESOLUTION)]

    frame = torch.randint(FRAMES, (count,), generator=generator).sort().values.to(device)
    chosen = torch.randint(len(surface), (count,), generator=generator).to(device)
    points = posed[frame, chosen] + 0.02 * (2 * torch.rand(count, 3, generator=generator) - 1).to(device)
    search = partial(find_correspondences, points, frame, space.seeds, space.transforms, articulation.box)
    found = search()
    method = f"{found.valid.any(1).float().mean():.1%} found, {found.valid.sum(1).float().mean():.2f} roots each"
    measured.append(row("find_correspondences", search, method, repeats=repeats, points=count))
    return measured + march_rows(space.seeds, repeats)


def march_rows(grid: SeedGrid, repeats: int) -> list[Row]:
    """Marching and compositing."""
    generator, device = torch.Generator().manual_seed(1), grid.boxes.device
    frame = torch.randint(FRAMES, (RAYS,), generator=generator).to(device)
    low, high = grid.boxes[frame].unbind(1)
    eye = (low + high) / 2 + 2.5 * normalize(torch.randn(RAYS, 3, generator=generator), dim=-1).to(device)
    through = low + torch.rand(RAYS, 3, generator=generator).to(device) * (high - low)
    rays = (eye, normalize(through - eye, dim=-1), grid.counts, grid.boxes, frame)
    step = partial(march, *rays, step=STEP, jitter=torch.rand(RAYS, generator=generator).to(device))
    samples = step()
    alphas = torch.rand(samples.t_starts.shape, generator=generator).to(device).requires_grad_()

    def composite() -> object:
        return torch.autograd.grad(render_weights(alphas, samples.packed_info).sum(), alphas)

    method = f"{RAYS} rays, {len(alphas)} samples"
    cases: list[tuple[str, Callable[[], object]]] = [("march", step), ("render_weights_train", composite)]
    return [row(name, function, method, repeats=repeats) for name, function in cases]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/teacher.json"))
    parser.add_argument("--points", type=int, default=1 << 20)
    parser.add_argument("--repeats", type=int, default=100)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = (device, arguments.points, arguments.repeats)
    write_rows(arguments.output, hash_rows(*sizes) + field_rows(*sizes) + posed_rows(*sizes))


if __name__ == "__main__":
    main()
