// CPU loops of gs_ir/scattering.h.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "scattering_arguments.h"

namespace {

using at::Tensor;
using at::TensorList;
using Three = std::tuple<Tensor, Tensor, Tensor>;

constexpr int64_t kDrawsPerTask = 1024, kRaysPerTask = 32;

Three scatter_points(const Tensor& t_starts, const Tensor& t_ends, const Tensor& packed_info, const Tensor& weights,
                     const Tensor& limit, int64_t draws) {
    const int64_t rays = packed_info.size(0);
    Tensor rows = at::empty({draws, rays}, packed_info.options().dtype(at::kInt));
    Tensor depth = at::empty({draws, rays}, t_starts.options()), share = at::empty({draws, rays}, t_starts.options());
    const int64_t* info = packed_info.const_data_ptr<int64_t>();
    auto* row = rows.mutable_data_ptr<int32_t>();
    AT_DISPATCH_FLOATING_TYPES(t_starts.scalar_type(), "scatter_points", [&] {
        const auto *start = t_starts.const_data_ptr<scalar_t>(), *end = t_ends.const_data_ptr<scalar_t>();
        const auto *weight = weights.const_data_ptr<scalar_t>(), *most = limit.const_data_ptr<scalar_t>();
        auto *t = depth.mutable_data_ptr<scalar_t>(), *part = share.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, rays, kRaysPerTask, [&](int64_t begin, int64_t stop) {
            for (int64_t r = begin; r < stop; ++r) {
                const int64_t first = info[2 * r];
                gs_ir::scatter_points_ray(
                    start + first, end + first, weight + first, info[2 * r + 1], most[r], int32_t(draws),
                    [&](int32_t k, int64_t interval, scalar_t at, scalar_t of_pixel) {
                        row[k * rays + r] = interval < 0 ? -1 : int32_t(first + interval);
                        t[k * rays + r] = at;
                        part[k * rays + r] = of_pixel;
                    });
            }
        });
    });
    return {rows, depth, share};
}

Three scatter_rays(const Tensor& origins, const Tensor& directions, const Tensor& rows, const Tensor& depth,
                   const Tensor& surface, TensorList light, at::ArrayRef<double> light_from_world, int64_t strategy,
                   double offset, const Tensor& seed) {
    Tensor from = at::empty({rows.numel(), 3}, origins.options()), along = at::empty_like(from);
    Tensor density = at::empty({rows.numel()}, origins.options());
    AT_DISPATCH_FLOATING_TYPES(origins.scalar_type(), "scatter_rays", [&] {
        using T = scalar_t;
        const auto scene = gs_ir::scatter_scene<T>(origins, directions, rows, surface);
        const auto plan = gs_ir::scatter_plan(strategy, rows.size(0));
        const auto key = uint64_t(*seed.const_data_ptr<int64_t>());
        const auto* t = depth.const_data_ptr<T>();
        auto *o = from.mutable_data_ptr<T>(), *d = along.mutable_data_ptr<T>(), *p = density.mutable_data_ptr<T>();
        gs_ir::with_light<T>(light, light_from_world, [&](const auto& source) {
            at::parallel_for(0, rows.numel(), kDrawsPerTask, [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; ++i) {
                    const auto k = uint32_t(i / scene.rays), ray = uint32_t(i % scene.rays);
                    gs_ir::Vec3<T> origin;
                    const auto draw = gs_ir::scatter_ray(scene, t, source, plan, key, T(offset), k, ray, origin);
                    gs_ir::store3(o + 3 * i, origin);
                    gs_ir::store3(d + 3 * i, draw.direction);
                    p[i] = draw.density;
                }
            });
        });
    });
    return {from, along, density};
}

Tensor gather_scattered(const Tensor& directions, const Tensor& rows, const Tensor& share, const Tensor& surface,
                        TensorList light, at::ArrayRef<double> light_from_world, TensorList drawn,
                        const Tensor& visible, const std::optional<Tensor>& indirect) {
    Tensor out = at::empty({rows.size(1), gs_ir::kScatterChannels}, directions.options());
    AT_DISPATCH_FLOATING_TYPES(directions.scalar_type(), "gather_scattered", [&] {
        using T = scalar_t;
        const auto scene = gs_ir::scatter_scene<T>(directions, directions, rows, surface);
        const auto found = gs_ir::scatter_found<T>(share, drawn, visible, indirect);
        auto* sums = out.mutable_data_ptr<T>();
        gs_ir::with_light<T>(light, light_from_world, [&](const auto& source) {
            at::parallel_for(0, scene.rays, kRaysPerTask, [&](int64_t begin, int64_t end) {
                for (int64_t r = begin; r < end; ++r)
                    gs_ir::gather_ray(scene, found, source, r, sums + gs_ir::kScatterChannels * r);
            });
        });
    });
    return out;
}

std::tuple<Tensor, Tensor> scatter_once(const Tensor& surface, const Tensor& view, TensorList light,
                                        at::ArrayRef<double> light_from_world, int64_t strategy, const Tensor& seed) {
    Tensor along = at::empty_like(view), radiance = at::empty_like(view);
    AT_DISPATCH_FLOATING_TYPES(view.scalar_type(), "scatter_once", [&] {
        using T = scalar_t;
        const auto *s = surface.const_data_ptr<T>(), *v = view.const_data_ptr<T>();
        auto *d = along.mutable_data_ptr<T>(), *l = radiance.mutable_data_ptr<T>();
        const auto key = uint64_t(*seed.const_data_ptr<int64_t>());
        gs_ir::with_light<T>(light, light_from_world, [&](const auto& source) {
            at::parallel_for(0, view.size(0), kDrawsPerTask, [&](int64_t begin, int64_t end) {
                for (int64_t i = begin; i < end; ++i)
                    gs_ir::scatter_once(s, v, source, gs_ir::Strategy(strategy), key, i, d, l);
            });
        });
    });
    return {along, radiance};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> surface_at_hits(
    const Tensor& hits, const Tensor& face, const Tensor& barycentric, const Tensor& directions, const Tensor& faces,
    const Tensor& vertices, const Tensor& canonical) {
    Tensor at_rest = at::empty({hits.size(0), 3}, directions.options()), world = at::empty_like(at_rest);
    Tensor normal = at::empty_like(at_rest), view = at::empty_like(at_rest);
    AT_DISPATCH_FLOATING_TYPES(directions.scalar_type(), "surface_at_hits", [&] {
        using T = scalar_t;
        const auto mesh = gs_ir::posed_mesh<T>(faces, vertices, canonical);
        const gs_ir::FoundHits<T> found{hits.const_data_ptr<int64_t>(), face.const_data_ptr<int64_t>(),
                                        barycentric.const_data_ptr<T>(), directions.const_data_ptr<T>()};
        const gs_ir::HitSurfaces<T> out{at_rest.mutable_data_ptr<T>(), world.mutable_data_ptr<T>(),
                                      normal.mutable_data_ptr<T>(), view.mutable_data_ptr<T>()};
        at::parallel_for(0, hits.size(0), kDrawsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) gs_ir::surface_at_hit(mesh, found, out, i);
        });
    });
    return {at_rest, world, normal, view};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("scatter_points", scatter_points);
    m.impl("scatter_rays", scatter_rays);
    m.impl("gather_scattered", gather_scattered);
    m.impl("scatter_once", scatter_once);
    m.impl("surface_at_hits", surface_at_hits);
}
