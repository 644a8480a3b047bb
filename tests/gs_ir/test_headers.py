"""The mathematics in csrc/include compiles by itself, for the host and for the device."""

import shutil
import subprocess
from pathlib import Path

import pytest

INCLUDE = Path(__file__).parents[2] / "gs-ir" / "csrc" / "include"
HEADERS = sorted(p.relative_to(INCLUDE).as_posix() for p in INCLUDE.glob("gs_ir/*.h"))
FORBIDDEN = ("torch/", "ATen/", "c10/", "Python.h", "<vector>", "<iostream>", "std::vector")
HOST_COMPILER = shutil.which("c++")
DEVICE_COMPILER = shutil.which("nvcc")

# Header templates are only checked once instantiated: the two operators whose adjoints scatter and whose output has a
# capacity are written here as a kernel would use them.
DEVICE_KERNELS = """
__global__ void encode_backward(const float* points, const float* table, const float* grad, const float* slope_grad,
                                gs_ir::HashLevel level, float* grad_table, float* grad_points) {
    const int n = blockIdx.x * blockDim.x + threadIdx.x;
    const gs_ir::HashCell<float> cell = gs_ir::locate_cell(gs_ir::load3(points + 3 * n), level.resolution);
    uint32_t entries[8];
    gs_ir::corner_entries(level, cell, entries);
    gs_ir::Vec3<float> h[2];
    for (int f = 0; f < 2; ++f) h[f] = gs_ir::scale(gs_ir::load3(slope_grad + 6 * n + 3 * f), cell.slope);
    gs_ir::adj_cell_entries<2>(cell.fraction, grad + 2 * n, h, [&](int corner, const float* value) {
        for (int f = 0; f < 2; ++f) atomicAdd(grad_table + 2 * entries[corner] + f, value[f]);
    });
    gs_ir::store3(grad_points + 3 * n, gs_ir::adj_cell_point<2>(table, entries, cell, grad + 2 * n, h));
}

__global__ void march(gs_ir::LatticeRay<float> ray, gs_ir::OccupancyGrid<float> grid, int capacity, int* count,
                      float* starts) {
    gs_ir::march_ray(ray, grid, [&](int k) {
        const int slot = atomicAdd(count, 1);
        if (slot < capacity) starts[slot] = ray.start(k);
    });
}

__global__ void composite(const float* grad, const float* alphas, const float* starts, const float* ends,
                          const float* positions, float* weights, float* grad_alphas, float* t, int64_t* interval,
                          float* new_starts, float* new_ends) {
    gs_ir::render_weights_ray(alphas, 8, weights);
    gs_ir::adj_render_weights_ray(grad, alphas, 8, grad_alphas);
    gs_ir::resample_ray(starts, ends, weights, 8, 0, positions, 16, t, interval);
    gs_ir::insert_ray(starts, ends, 8, 0, t, interval, 16, 24, new_starts, new_ends);
}
"""


def _source(headers: list[str]) -> str:
    return "".join(f'#include "{header}"\n' for header in headers)


def _compile(command: list[str], source: Path) -> None:
    done = subprocess.run([*command, "-I", str(INCLUDE), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("header", HEADERS)
def test_header_needs_neither_torch_nor_allocation(header):
    """Fails when a header stops being usable from a device kernel or without PyTorch."""
    text = (INCLUDE / header).read_text()
    assert "#pragma once" in text
    assert [word for word in FORBIDDEN if word in text] == []


@pytest.mark.skipif(HOST_COMPILER is None, reason="no C++ compiler on this machine")
@pytest.mark.parametrize("header", HEADERS)
def test_header_compiles_alone(header, tmp_path):
    """Fails when a header lacks an include, or warns."""
    source = tmp_path / "alone.cpp"
    source.write_text(_source([header]))
    _compile([HOST_COMPILER, "-std=c++17", "-fopenmp-simd", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"], source)


@pytest.mark.skipif(DEVICE_COMPILER is None, reason="no nvcc on this machine")
def test_headers_compile_for_the_device(tmp_path):
    """Fails when a header cannot be used from CUDA; all of them share one translation unit, hence one namespace."""
    source = tmp_path / "device.cu"
    source.write_text(_source(HEADERS) + DEVICE_KERNELS)
    options = ["-std=c++17", "-arch=sm_90", "--expt-relaxed-constexpr", "-Werror=all-warnings"]
    _compile([DEVICE_COMPILER, *options, "-c", "-o", str(tmp_path / "device.o")], source)
