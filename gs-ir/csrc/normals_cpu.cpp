// CPU loops of gs_ir/normals.h.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "gs_ir/normals.h"

namespace {

constexpr int64_t kPointsPerTask = 4096;

at::Tensor carry_normals(const at::Tensor& jacobian, const at::Tensor& gradient) {
    at::Tensor out = at::empty_like(gradient);
    AT_DISPATCH_FLOATING_TYPES(gradient.scalar_type(), "carry_normals", [&] {
        const auto *j = jacobian.const_data_ptr<scalar_t>(), *g = gradient.const_data_ptr<scalar_t>();
        auto* o = out.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, gradient.size(0), kPointsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i)
                gs_ir::store3(o + 3 * i, gs_ir::carried_normal(j + 9 * i, gs_ir::load3(g + 3 * i)));
        });
    });
    return out;
}

at::Tensor reflected_harmonics(const at::Tensor& normal, const at::Tensor& view) {
    at::Tensor out = at::empty({normal.size(0), gs_ir::kCubicHarmonics}, normal.options());
    AT_DISPATCH_FLOATING_TYPES(normal.scalar_type(), "reflected_harmonics", [&] {
        const auto *n = normal.const_data_ptr<scalar_t>(), *v = view.const_data_ptr<scalar_t>();
        auto* o = out.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, normal.size(0), kPointsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i)
                gs_ir::reflected_harmonics(
                    gs_ir::load3(n + 3 * i), gs_ir::load3(v + 3 * i), o + gs_ir::kCubicHarmonics * i);
        });
    });
    return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("carry_normals", carry_normals);
    m.impl("reflected_harmonics", reflected_harmonics);
}
