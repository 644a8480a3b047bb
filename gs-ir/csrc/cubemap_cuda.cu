// CUDA kernels of lookups in gs_ir/cubemap.h: one thread a direction, or a bordered texel.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "cubemap_layout.h"
#include "cuda_launch.cuh"

namespace {

template <typename I>
using Layout = gs_ir::CubeLayout<I>;

// `layout` stays in the parameters' memory instead of being copied to each thread's stack.
template <typename T>
__global__ void __launch_bounds__(gs_ir::kBlock) sample_kernel(
    const __grid_constant__ Layout<int64_t> layout, int64_t points, int64_t channels, const T* texels,
    const T* directions, const T* lod, T* out) {
    const int64_t i = int64_t(blockIdx.x) * gs_ir::kBlock + threadIdx.x;
    if (i >= points) return;
    const gs_ir::Vec3<T> direction = gs_ir::load3(directions + 3 * i);
    gs_ir::sample_cube(layout.view(texels, channels), direction, lod[i], out + i * channels);
}

template <typename T>
__global__ void __launch_bounds__(gs_ir::kBlock) sample_backward_kernel(
    const __grid_constant__ Layout<int64_t> layout, int64_t points, int64_t channels, const T* grad, const T* texels,
    const T* directions, const T* lod, T* grad_texels, T* grad_directions, T* grad_lod) {
    const int64_t i = int64_t(blockIdx.x) * gs_ir::kBlock + threadIdx.x;
    if (i >= points) return;
    gs_ir::Vec3<T> by_direction = {};
    bool wanted = false;
    for (int64_t c = 0; c < channels; ++c) wanted |= grad[i * channels + c] != T(0);
    grad_lod[i] = T(0);
    const auto add = [=](int64_t index, T value) { atomicAdd(grad_texels + index, value); };
    if (wanted)
        gs_ir::adj_sample_cube(
            layout.view(texels, channels), gs_ir::load3(directions + 3 * i), lod[i], grad + i * channels, add,
            by_direction, grad_lod[i]);
    gs_ir::store3(grad_directions + 3 * i, by_direction);
}

at::Tensor sample_cubemap(
    const at::Tensor& texels, at::IntArrayRef resolutions, const at::Tensor& directions, const at::Tensor& lod) {
    const int64_t points = directions.size(0), channels = texels.size(1);
    const Layout<int64_t> layout(resolutions, 0);
    const c10::cuda::CUDAGuard guard(texels.device());
    at::Tensor out = at::empty({points, channels}, texels.options());
    if (points == 0) return out;
    AT_DISPATCH_FLOATING_TYPES(texels.scalar_type(), "sample_cubemap", [&] {
        sample_kernel<scalar_t>
            <<<gs_ir::blocks_for(points), gs_ir::kBlock, 0, c10::cuda::getCurrentCUDAStream()>>>(
                layout, points, channels, texels.const_data_ptr<scalar_t>(), directions.const_data_ptr<scalar_t>(),
                lod.const_data_ptr<scalar_t>(), out.mutable_data_ptr<scalar_t>());
        C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
    return out;
}

// The texels' gradient is added atomically: its last digits vary, also where deterministic algorithms are asked for.
std::tuple<at::Tensor, at::Tensor, at::Tensor> sample_cubemap_backward(
    const at::Tensor& grad, const at::Tensor& texels, at::IntArrayRef resolutions, const at::Tensor& directions,
    const at::Tensor& lod) {
    const int64_t points = directions.size(0), channels = texels.size(1);
    const Layout<int64_t> layout(resolutions, 0);
    const c10::cuda::CUDAGuard guard(texels.device());
    at::Tensor grad_texels = at::zeros_like(texels), grad_directions = at::empty_like(directions);
    at::Tensor grad_lod = at::empty_like(lod);
    if (points == 0) return {grad_texels, grad_directions, grad_lod};
    AT_DISPATCH_FLOATING_TYPES(texels.scalar_type(), "sample_cubemap_backward", [&] {
        sample_backward_kernel<scalar_t>
            <<<gs_ir::blocks_for(points), gs_ir::kBlock, 0, c10::cuda::getCurrentCUDAStream()>>>(
                layout, points, channels, grad.const_data_ptr<scalar_t>(), texels.const_data_ptr<scalar_t>(),
                directions.const_data_ptr<scalar_t>(), lod.const_data_ptr<scalar_t>(),
                grad_texels.mutable_data_ptr<scalar_t>(), grad_directions.mutable_data_ptr<scalar_t>(),
                grad_lod.mutable_data_ptr<scalar_t>());
        C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
    return {grad_texels, grad_directions, grad_lod};
}

// ---- Bordered levels ----------------------------------------------------------------------------------------------

at::Tensor border_cubemap(const at::Tensor& texels, at::IntArrayRef resolutions) {
    const Layout<int64_t> layout(resolutions, 1);
    at::Tensor out = at::empty({layout.total, 4}, texels.options());
    AT_DISPATCH_FLOATING_TYPES(texels.scalar_type(), "border_cubemap", [&] {
        const auto* from = texels.const_data_ptr<scalar_t>();
        auto* to = reinterpret_cast<gs_ir::BorderedTexel<scalar_t>*>(out.mutable_data_ptr<scalar_t>());
        gs_ir::for_each(texels, layout.total, [=] __device__(int64_t i) {
            const scalar_t* level = from;
            int64_t first = 0, resolution = 0;
#pragma unroll
            for (int k = 0; k < gs_ir::kMaxLevels; ++k) {  // constant indices: the layout stays in the parameters
                if (k < layout.levels && i >= layout.first[k]) {
                    if (k > 0) level += 3 * 6 * resolution * resolution;
                    first = layout.first[k], resolution = layout.resolution[k];
                }
            }
            to[i] = gs_ir::bordered_texel(level, i - first, resolution);
        });
    });
    return out;
}

template <typename T>
__global__ void __launch_bounds__(gs_ir::kBlock) sample_bordered_kernel(
    const __grid_constant__ Layout<int32_t> layout, int64_t points, const T* texels, const T* directions, const T* lod,
    T* out) {
    const int64_t i = int64_t(blockIdx.x) * gs_ir::kBlock + threadIdx.x;
    if (i >= points) return;
    const gs_ir::Vec3<T> direction = gs_ir::load3(directions + 3 * i);
    gs_ir::store3(
        out + 3 * i,
        gs_ir::sample_bordered(texels, layout.first, layout.resolution, layout.levels, direction, lod[i]));
}

at::Tensor sample_bordered(
    const at::Tensor& texels, at::IntArrayRef resolutions, const at::Tensor& directions, const at::Tensor& lod) {
    const int64_t points = directions.size(0);
    const Layout<int32_t> layout(resolutions, 1);
    const c10::cuda::CUDAGuard guard(texels.device());
    at::Tensor out = at::empty({points, 3}, texels.options());
    if (points == 0) return out;
    AT_DISPATCH_FLOATING_TYPES(texels.scalar_type(), "sample_bordered", [&] {
        sample_bordered_kernel<scalar_t>
            <<<gs_ir::blocks_for(points), gs_ir::kBlock, 0, c10::cuda::getCurrentCUDAStream()>>>(
                layout, points, texels.const_data_ptr<scalar_t>(), directions.const_data_ptr<scalar_t>(),
                lod.const_data_ptr<scalar_t>(), out.mutable_data_ptr<scalar_t>());
        C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
    return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) {
    m.impl("sample_cubemap", sample_cubemap);
    m.impl("sample_cubemap_backward", sample_cubemap_backward);
    m.impl("border_cubemap", border_cubemap);
    m.impl("sample_bordered", sample_bordered);
}
