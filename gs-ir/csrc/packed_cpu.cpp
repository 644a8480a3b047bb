// CPU loops of gs_ir/packed.h.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include "gs_ir/packed.h"

namespace {

constexpr int64_t kRaysPerTask = 256;

at::Tensor accumulate(const at::Tensor& weights, const at::Tensor& values, const at::Tensor& packed_info) {
    const int64_t rays = packed_info.size(0), channels = values.size(1);
    at::Tensor out = at::empty({rays, channels}, values.options());
    const int64_t* info = packed_info.const_data_ptr<int64_t>();
    AT_DISPATCH_FLOATING_TYPES(values.scalar_type(), "accumulate", [&] {
        const auto* w = weights.const_data_ptr<scalar_t>();
        const auto* v = values.const_data_ptr<scalar_t>();
        auto* o = out.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, rays, kRaysPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                const int64_t first = info[2 * r], count = info[2 * r + 1];
                gs_ir::accumulate_ray(w + first, v + first * channels, count, channels, o + r * channels);
            }
        });
    });
    return out;
}

std::tuple<at::Tensor, at::Tensor> accumulate_backward(
    const at::Tensor& grad, const at::Tensor& weights, const at::Tensor& values, const at::Tensor& packed_info) {
    const int64_t rays = packed_info.size(0), channels = values.size(1);
    at::Tensor grad_weights = at::zeros_like(weights), grad_values = at::zeros_like(values);
    const int64_t* info = packed_info.const_data_ptr<int64_t>();
    AT_DISPATCH_FLOATING_TYPES(values.scalar_type(), "accumulate_backward", [&] {
        const auto* g = grad.const_data_ptr<scalar_t>();
        const auto* w = weights.const_data_ptr<scalar_t>();
        const auto* v = values.const_data_ptr<scalar_t>();
        auto* gw = grad_weights.mutable_data_ptr<scalar_t>();
        auto* gv = grad_values.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, rays, kRaysPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r)
                for (int64_t i = info[2 * r]; i < info[2 * r] + info[2 * r + 1]; ++i)
                    gs_ir::adj_accumulate_sample(g + r * channels, w[i], v + i * channels, channels, gw[i], gv + i * channels);
        });
    });
    return {grad_weights, grad_values};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("accumulate", accumulate);
    m.impl("accumulate_backward", accumulate_backward);
}
