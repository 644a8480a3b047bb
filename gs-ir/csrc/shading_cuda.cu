// CUDA kernels of gs_ir/shading.h: one thread a surface element.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "cuda_launch.cuh"
#include "shading_arguments.h"

namespace {

using gs_ir::Turn;

constexpr int kThreads = 128;

// `setup` stays in the parameters' memory instead of being copied to each thread's stack.
template <typename T>
__global__ void __launch_bounds__(kThreads) shade_kernel(
    const __grid_constant__ gs_ir::ShadingSetup<T> setup, gs_ir::SurfaceElements<const T> elements, int64_t count,
    T* diffuse, T* specular) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= count) return;
    const gs_ir::Lobes<T> lobes = gs_ir::shade_lobes(elements.load(i), setup.light(), setup.table, setup.rules);
    gs_ir::store3(diffuse + 3 * i, lobes.diffuse);
    gs_ir::store3(specular + 3 * i, lobes.specular);
}

template <typename T, bool kTexels>
__global__ void __launch_bounds__(kThreads) shade_backward_kernel(
    const __grid_constant__ gs_ir::ShadingSetup<T> setup, gs_ir::SurfaceElements<const T> elements, int64_t count,
    const T* grad_diffuse, const T* grad_specular, gs_ir::SurfaceElements<T> grads, T* grad_texels) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i >= count) return;
    const gs_ir::Lobes<T> grad = {gs_ir::load3(grad_diffuse + 3 * i), gs_ir::load3(grad_specular + 3 * i)};
    const auto add = [=](int64_t index, T value) {
        if (kTexels) atomicAdd(grad_texels + index, value);
    };
    grads.store(
        i, gs_ir::adj_shade_lobes(elements.load(i), setup.light(), setup.table, setup.rules, grad, add));
}

std::tuple<at::Tensor, at::Tensor> shade(
    const at::Tensor& normals, const at::Tensor& to_viewer, const at::Tensor& albedo, const at::Tensor& roughness,
    const at::Tensor& metallic, const at::Tensor& visibility, const at::Tensor& texels, at::IntArrayRef resolutions,
    at::ArrayRef<double> level_roughness, const Turn& light_from_world, const at::Tensor& table,
    at::IntArrayRef rules) {
    const int64_t count = albedo.size(0);
    const c10::cuda::CUDAGuard guard(albedo.device());
    at::Tensor diffuse = at::empty_like(albedo), specular = at::empty_like(albedo);
    if (count == 0) return {diffuse, specular};
    AT_DISPATCH_FLOATING_TYPES(texels.scalar_type(), "shade", [&] {
        const auto setup = gs_ir::shading_setup<scalar_t>(
            texels, resolutions, level_roughness, light_from_world, table, rules, visibility.numel() > 0);
        const auto elements =
            gs_ir::surface_elements<scalar_t>(normals, to_viewer, albedo, roughness, metallic, visibility);
        shade_kernel<scalar_t>
            <<<gs_ir::blocks_for(count, kThreads), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
                setup, elements, count, diffuse.mutable_data_ptr<scalar_t>(), specular.mutable_data_ptr<scalar_t>());
        C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
    return {diffuse, specular};
}

// The texels' gradient is added atomically: its last digits vary, also where deterministic algorithms are asked for.
gs_ir::ShadingGradients shade_backward(
    const at::Tensor& grad_diffuse, const at::Tensor& grad_specular, const at::Tensor& normals,
    const at::Tensor& to_viewer, const at::Tensor& albedo, const at::Tensor& roughness, const at::Tensor& metallic,
    const at::Tensor& visibility, const at::Tensor& texels, at::IntArrayRef resolutions,
    at::ArrayRef<double> level_roughness, const Turn& light_from_world, const at::Tensor& table,
    at::IntArrayRef rules, bool fixed_light) {
    const int64_t count = albedo.size(0);
    const c10::cuda::CUDAGuard guard(albedo.device());
    gs_ir::ShadingGradients grads = {
        at::empty_like(normals), at::empty_like(to_viewer), at::empty_like(albedo), at::empty_like(roughness),
        at::empty_like(metallic), at::empty_like(visibility), at::zeros_like(texels)};
    if (count == 0) return grads;
    AT_DISPATCH_FLOATING_TYPES(texels.scalar_type(), "shade_backward", [&] {
        const auto setup = gs_ir::shading_setup<scalar_t>(
            texels, resolutions, level_roughness, light_from_world, table, rules, visibility.numel() > 0);
        const auto elements =
            gs_ir::surface_elements<scalar_t>(normals, to_viewer, albedo, roughness, metallic, visibility);
        const auto kernel =
            fixed_light ? shade_backward_kernel<scalar_t, false> : shade_backward_kernel<scalar_t, true>;
        kernel<<<gs_ir::blocks_for(count, kThreads), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
            setup, elements, count, grad_diffuse.const_data_ptr<scalar_t>(),
            grad_specular.const_data_ptr<scalar_t>(), gs_ir::element_gradients<scalar_t>(grads),
            std::get<6>(grads).mutable_data_ptr<scalar_t>());
        C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
    return grads;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) {
    m.impl("shade", shade);
    m.impl("shade_backward", shade_backward);
}
