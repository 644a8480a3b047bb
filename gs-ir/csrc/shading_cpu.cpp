// CPU loops of gs_ir/shading.h.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <algorithm>

#include "shading_arguments.h"

namespace {

using gs_ir::Turn;

constexpr int64_t kPointsPerTask = 256;
constexpr int64_t kMaxBuffers = 16;  // private texel gradients of the backward pass

std::tuple<at::Tensor, at::Tensor> shade(
    const at::Tensor& normals, const at::Tensor& to_viewer, const at::Tensor& albedo, const at::Tensor& roughness,
    const at::Tensor& metallic, const at::Tensor& visibility, const at::Tensor& texels, at::IntArrayRef resolutions,
    at::ArrayRef<double> level_roughness, const Turn& light_from_world, const at::Tensor& table,
    at::IntArrayRef rules) {
    at::Tensor diffuse = at::empty_like(albedo), specular = at::empty_like(albedo);
    AT_DISPATCH_FLOATING_TYPES(texels.scalar_type(), "shade", [&] {
        const auto setup = gs_ir::shading_setup<scalar_t>(
            texels, resolutions, level_roughness, light_from_world, table, rules, visibility.numel() > 0);
        const auto elements =
            gs_ir::surface_elements<scalar_t>(normals, to_viewer, albedo, roughness, metallic, visibility);
        auto *d = diffuse.mutable_data_ptr<scalar_t>(), *s = specular.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, albedo.size(0), kPointsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const auto lobes = gs_ir::shade_lobes(elements.load(i), setup.light(), setup.table, setup.rules);
                gs_ir::store3(d + 3 * i, lobes.diffuse);
                gs_ir::store3(s + 3 * i, lobes.specular);
            }
        });
    });
    return {diffuse, specular};
}

gs_ir::ShadingGradients shade_backward(
    const at::Tensor& grad_diffuse, const at::Tensor& grad_specular, const at::Tensor& normals,
    const at::Tensor& to_viewer, const at::Tensor& albedo, const at::Tensor& roughness, const at::Tensor& metallic,
    const at::Tensor& visibility, const at::Tensor& texels, at::IntArrayRef resolutions,
    at::ArrayRef<double> level_roughness, const Turn& light_from_world, const at::Tensor& table,
    at::IntArrayRef rules, bool fixed_light) {
    const int64_t points = albedo.size(0);
    const int64_t tasks =
        std::clamp<int64_t>(points / kPointsPerTask, 1, std::min<int64_t>(at::get_num_threads(), kMaxBuffers));
    // One buffer per task instead of atomics: the sum does not depend on the order in which threads run.
    const at::Tensor buffers = at::zeros({fixed_light ? 0 : tasks, texels.size(0), 3}, texels.options());
    gs_ir::ShadingGradients grads = {
        at::empty_like(normals), at::empty_like(to_viewer), at::empty_like(albedo), at::empty_like(roughness),
        at::empty_like(metallic), at::empty_like(visibility), at::Tensor()};
    AT_DISPATCH_FLOATING_TYPES(texels.scalar_type(), "shade_backward", [&] {
        const auto setup = gs_ir::shading_setup<scalar_t>(
            texels, resolutions, level_roughness, light_from_world, table, rules, visibility.numel() > 0);
        const auto elements =
            gs_ir::surface_elements<scalar_t>(normals, to_viewer, albedo, roughness, metallic, visibility);
        const auto out = gs_ir::element_gradients<scalar_t>(grads);
        const auto *d = grad_diffuse.const_data_ptr<scalar_t>(), *s = grad_specular.const_data_ptr<scalar_t>();
        auto* all = fixed_light ? nullptr : buffers.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
            for (int64_t task = begin; task < end; ++task) {
                scalar_t* own = all ? all + task * texels.numel() : nullptr;
                const auto add = [own](int64_t index, scalar_t value) {
                    if (own) own[index] += value;
                };
                for (int64_t i = points * task / tasks; i < points * (task + 1) / tasks; ++i) {
                    const gs_ir::Lobes<scalar_t> grad = {gs_ir::load3(d + 3 * i), gs_ir::load3(s + 3 * i)};
                    out.store(
                        i, gs_ir::adj_shade_lobes(
                               elements.load(i), setup.light(), setup.table, setup.rules, grad, add));
                }
            }
        });
    });
    std::get<6>(grads) = fixed_light ? at::zeros_like(texels) : tasks == 1 ? buffers[0] : buffers.sum(0);
    return grads;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("shade", shade);
    m.impl("shade_backward", shade_backward);
}
