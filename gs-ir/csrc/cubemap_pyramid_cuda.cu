// CUDA kernel of cubemap_pyramid: up to four coarser levels in one launch.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

#include "cuda_launch.cuh"

namespace {

constexpr int kEdge = 16, kTexels = kEdge * kEdge;  // of a block's square
constexpr int kMaxHalvings = 4;

template <typename T>
struct Levels {
    T* texels[kMaxHalvings];  // [6, r, r, 3] each, fine to coarse
};

// A block halves a square of 16 x 16 texels. Energies and solid angles are summed; a level's texel is their quotient.
template <typename T>
__global__ void __launch_bounds__(kTexels) pyramid_kernel(
    const T* fine, const T* solid_angles, int resolution, int halvings, Levels<T> levels) {
    __shared__ T sums[kTexels][4];
    const int across = resolution / kEdge, square = blockIdx.x % (across * across), face = blockIdx.x / (across * across);
    const int t = threadIdx.x, top = square / across, left = square % across;
    const int row = top * kEdge + t / kEdge, column = left * kEdge + t % kEdge;
    const T angle = solid_angles[row * resolution + column];
    const T* texel = fine + 3 * ((int64_t(face) * resolution + row) * resolution + column);
    for (int c = 0; c < 3; ++c) sums[t][c] = angle * texel[c];
    sums[t][3] = angle;
#pragma unroll
    for (int level = 0; level < kMaxHalvings; ++level) {
        if (level >= halvings) return;
        const int edge = kEdge >> (level + 1), x = t % edge, y = t / edge, size = resolution >> (level + 1);
        const bool kept = t < edge * edge;
        T sum[4] = {};
        __syncthreads();
        for (int k = 0; k < 4 && kept; ++k)
            for (int c = 0; c < 4; ++c) sum[c] += sums[(2 * y + k / 2) * 2 * edge + 2 * x + k % 2][c];
        __syncthreads();
        if (!kept) continue;
        T* to = levels.texels[level] + 3 * ((int64_t(face) * size + top * edge + y) * size + left * edge + x);
        for (int c = 0; c < 4; ++c) sums[t][c] = sum[c];
        for (int c = 0; c < 3; ++c) to[c] = sum[c] / sum[3];
    }
}

std::vector<at::Tensor> cubemap_pyramid(const at::Tensor& texels, const at::Tensor& solid_angles, int64_t halvings) {
    const int64_t resolution = texels.size(1);
    TORCH_CHECK(
        texels.size(3) == 3 && halvings >= 0 && halvings <= kMaxHalvings && resolution % kEdge == 0 && resolution > 0,
        "cubemap_pyramid: a cube map [6, 16 n, 16 n, 3] and at most 4 halvings expected, found R = ", resolution, ", ",
        texels.size(3), " channels and ", halvings, " halvings");
    const c10::cuda::CUDAGuard guard(texels.device());
    std::vector<at::Tensor> made;
    for (int64_t i = 1; i <= halvings; ++i) {
        const int64_t size = resolution >> i;
        made.push_back(at::empty({6, size, size, 3}, texels.options()));
    }
    if (halvings == 0) return made;
    AT_DISPATCH_FLOATING_TYPES(texels.scalar_type(), "cubemap_pyramid", [&] {
        Levels<scalar_t> levels = {};
        for (size_t i = 0; i < made.size(); ++i) levels.texels[i] = made[i].mutable_data_ptr<scalar_t>();
        const int64_t across = resolution / kEdge;
        pyramid_kernel<<<unsigned(6 * across * across), kTexels, 0, c10::cuda::getCurrentCUDAStream()>>>(
            texels.const_data_ptr<scalar_t>(), solid_angles.const_data_ptr<scalar_t>(), int(resolution), int(halvings),
            levels);
        C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
    return made;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) { m.impl("cubemap_pyramid", cubemap_pyramid); }
