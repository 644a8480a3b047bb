"""Preparation of the light: ``python -m benchmarks.bench_shading``.

``hdri_ready``: an equirectangular image of 2048 x 1024 on the device to a prefiltered light of 256.
``prefilter_train``: prefiltering of a learned cube map of 256, forward and backward.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.timing import Row, busy_by_kernel, row, write_rows
from explicit_branch.rendering.light import ImageLight
from gs_ir.cubemap import PrefilteredLight
from gs_ir.prefiltering import prefilter

IMAGE_SIZE = (1024, 2048)
RESOLUTION = 256
KERNELS_SHOWN = 10


def hdri_ready(device: str, resolution: int = RESOLUTION) -> Callable[[], ImageLight]:
    """A function that prepares an image's light."""
    image = torch.rand(*IMAGE_SIZE, 3, generator=torch.Generator().manual_seed(0)).to(device)
    return lambda: ImageLight.from_image(image, resolution=resolution)


def prefilter_train(device: str, resolution: int = RESOLUTION) -> Callable[[], object]:
    """A step: prefilter a cube map, and differentiate every level and the harmonics by it."""
    generator = torch.Generator().manual_seed(0)
    texels = torch.rand(6, resolution, resolution, 3, generator=generator).to(device).requires_grad_()

    def results(light: PrefilteredLight) -> list[torch.Tensor]:
        return [*light.mips, light.irradiance_sh]

    cotangents = [torch.randn(x.shape, generator=generator).to(device) for x in results(prefilter(texels))]
    return lambda: torch.autograd.grad(results(prefilter(texels)), texels, cotangents)


def rows(device: str, resolution: int, repeats: int) -> list[Row]:
    """All cases."""
    height, width = IMAGE_SIZE
    cases = [
        ("hdri_ready", hdri_ready(device, resolution), f"image of {width} x {height} on the device to ImageLight"),
        ("prefilter_train", prefilter_train(device, resolution), "all levels and harmonics, forward and backward"),
    ]
    measured = []
    for name, function, method in cases:
        measured.append(row(name, function, method, repeats=repeats, resolution=resolution))
        for kernel, milliseconds in list(busy_by_kernel(function).items())[:KERNELS_SHOWN]:
            print(f"    {milliseconds:.4f} ms {kernel[:110]}", flush=True)  # noqa: T201
    return measured


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/shading.json"))
    parser.add_argument("--resolution", type=int, default=RESOLUTION, help="edge of the cube map in texels")
    parser.add_argument("--repeats", type=int, default=200)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    write_rows(arguments.output, rows(device, arguments.resolution, arguments.repeats))


if __name__ == "__main__":
    main()
