// CPU loops of gs_ir/bvh.h. Trees are built by the reference (a vectorised Morton sort): once per mesh, then refitted.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "gs_ir/bvh.h"

namespace {

constexpr int64_t kRaysPerTask = 512;

template <typename T>
gs_ir::BvhView<T> view(at::TensorList bvh) {
    return {bvh[2].const_data_ptr<T>(), bvh[3].const_data_ptr<int32_t>(), bvh[4].const_data_ptr<T>(),
            bvh[5].const_data_ptr<int32_t>()};
}

at::Tensor any_hit(at::TensorList bvh, const at::Tensor& origins, const at::Tensor& directions, double t_min, double t_max) {
    at::Tensor hit = at::empty({origins.size(0)}, origins.options().dtype(at::kBool));
    AT_DISPATCH_FLOATING_TYPES(origins.scalar_type(), "any_hit", [&] {
        const auto tree = view<scalar_t>(bvh);
        const auto* o = origins.const_data_ptr<scalar_t>();
        const auto* d = directions.const_data_ptr<scalar_t>();
        bool* out = hit.mutable_data_ptr<bool>();
        at::parallel_for(0, origins.size(0), kRaysPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r)
                out[r] = gs_ir::any_hit(tree, gs_ir::make_ray(o + 3 * r, d + 3 * r), scalar_t(t_min), scalar_t(t_max));
        });
    });
    return hit;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> closest_hit(
    at::TensorList bvh, const at::Tensor& origins, const at::Tensor& directions, double t_min, double t_max) {
    const int64_t rays = origins.size(0);
    at::Tensor t = at::empty({rays}, origins.options()), face = at::empty({rays}, origins.options().dtype(at::kLong));
    at::Tensor barycentric = at::empty({rays, 2}, origins.options());
    AT_DISPATCH_FLOATING_TYPES(origins.scalar_type(), "closest_hit", [&] {
        const auto tree = view<scalar_t>(bvh);
        const auto* o = origins.const_data_ptr<scalar_t>();
        const auto* d = directions.const_data_ptr<scalar_t>();
        auto* out_t = t.mutable_data_ptr<scalar_t>();
        auto* out_face = face.mutable_data_ptr<int64_t>();
        auto* out_weights = barycentric.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, rays, kRaysPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r) {
                const auto hit = gs_ir::closest_hit(tree, gs_ir::make_ray(o + 3 * r, d + 3 * r), scalar_t(t_min), scalar_t(t_max));
                out_t[r] = hit.t;
                out_face[r] = hit.face;
                out_weights[2 * r] = hit.weight1;
                out_weights[2 * r + 1] = hit.weight2;
            }
        });
    });
    return {t, face, barycentric};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> closest_point(at::TensorList bvh, const at::Tensor& points) {
    const int64_t count = points.size(0);
    at::Tensor distance = at::empty({count}, points.options()), face = at::empty({count}, points.options().dtype(at::kLong));
    at::Tensor barycentric = at::empty({count, 2}, points.options());
    AT_DISPATCH_FLOATING_TYPES(points.scalar_type(), "closest_point", [&] {
        const auto tree = view<scalar_t>(bvh);
        const auto* p = points.const_data_ptr<scalar_t>();
        auto* out_distance = distance.mutable_data_ptr<scalar_t>();
        auto* out_face = face.mutable_data_ptr<int64_t>();
        auto* out_weights = barycentric.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, count, kRaysPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const auto nearest = gs_ir::closest_point(tree, gs_ir::load3(p + 3 * i));
                out_distance[i] = std::sqrt(nearest.squared);
                out_face[i] = nearest.face;
                out_weights[2 * i] = nearest.weight1;
                out_weights[2 * i + 1] = nearest.weight2;
            }
        });
    });
    return {distance, face, barycentric};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("any_hit", any_hit);
    m.impl("closest_hit", closest_hit);
    m.impl("closest_point", closest_point);
}
