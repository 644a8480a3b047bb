"""The rasteriser alone on the anchor workload: ``python -m benchmarks.bench_rasterizer``.

Projection, culling, sorting and drawing, with 7 feature channels beside the normals (10 blended values), depth, median
and distortion; forward and backward through every image.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.anchor_cloud import camera, cloud
from benchmarks.timing import Row, busy_by_kernel, row, write_rows
from gs_ir.surfels import SurfelRaster, rasterize_surfels

CASES = [(100_000, 540), (100_000, 1080), (100_000, 2160), (200_000, 1080)]
FEATURES = 7
SPARE_CAPACITY = 1.5
"""Tile lists hold this many times the pairs that the view has, as in training."""


def drawing(surfels: int, resolution: int, features: int, device: str, grad: bool) -> tuple[Callable, list]:
    """A function that draws the cloud, and its differentiable inputs."""
    scene, view = cloud(surfels), camera(resolution).to(device)
    inputs = [scene.centers, *scene.tangents, scene.opacities, scene.features[:, :features].contiguous()]
    leaves = [x.to(device).requires_grad_(grad) for x in inputs]
    arguments = {
        "camera_from_world": view.camera_from_world, "intrinsics": view.intrinsics, "width": resolution,
        "height": resolution,
    }  # fmt: skip
    capacity = int(SPARE_CAPACITY * int(rasterize_surfels(*leaves, **arguments).instances))
    return lambda: rasterize_surfels(*leaves, **arguments, capacity=capacity), leaves


def forward_and_backward(draw: Callable[[], SurfelRaster], leaves: list) -> Callable[[], object]:
    """A step: draw, and differentiate every image by every input."""
    names = ("features", "alpha", "depth", "median_depth", "normal", "distortion")
    first = draw()
    generator = torch.Generator(leaves[0].device).manual_seed(0)
    cotangents = [torch.randn(getattr(first, n).shape, generator=generator, device=leaves[0].device) for n in names]

    def step() -> object:
        raster = draw()
        return torch.autograd.grad([getattr(raster, n) for n in names], leaves, cotangents)

    return step


def rows(device: str, features: int, repeats: int) -> list[Row]:
    """All cases."""
    measured = []
    for surfels, resolution in CASES:
        sizes = {"surfels": surfels, "resolution": resolution}
        with torch.no_grad():
            draw, _ = drawing(surfels, resolution, features, device, grad=False)
            method = f"{features} features + normal + depths + distortion"
            measured.append(row("raster_forward", draw, method, repeats=repeats, **sizes))
        draw, leaves = drawing(surfels, resolution, features, device, grad=True)
        step = forward_and_backward(draw, leaves)
        measured.append(row("raster_forward_backward", step, method, repeats=repeats, **sizes))
        for name, milliseconds in list(busy_by_kernel(step).items())[:8]:
            print(f"    {milliseconds:.4f} ms {name[:110]}", flush=True)  # noqa: T201
    return measured


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/rasterizer.json"))
    parser.add_argument("--features", type=int, default=FEATURES, help="feature channels beside the normals")
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    write_rows(arguments.output, rows(device, arguments.features, arguments.repeats))


if __name__ == "__main__":
    main()
