// CUDA loops of gs_ir/scattering.h: one thread a ray or a draw; rays of a warp lie side by side. Sums are deterministic.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "cuda_launch.cuh"
#include "cuda_vector.cuh"
#include "scattering_arguments.h"

namespace {

using at::Tensor;
using at::TensorList;
using Three = std::tuple<Tensor, Tensor, Tensor>;

constexpr int kThreads = 128;

Three scatter_points(const Tensor& t_starts, const Tensor& t_ends, const Tensor& packed_info, const Tensor& weights,
                     const Tensor& limit, int64_t draws) {
    const int64_t rays = packed_info.size(0);
    Tensor rows = at::empty({draws, rays}, packed_info.options().dtype(at::kInt));
    Tensor depth = at::empty({draws, rays}, t_starts.options()), share = at::empty({draws, rays}, t_starts.options());
    const int64_t* info = packed_info.const_data_ptr<int64_t>();
    auto* row = rows.mutable_data_ptr<int32_t>();
    AT_DISPATCH_FLOATING_TYPES(t_starts.scalar_type(), "scatter_points", [&] {
        using T = scalar_t;
        const auto *start = t_starts.const_data_ptr<T>(), *end = t_ends.const_data_ptr<T>();
        const auto *weight = weights.const_data_ptr<T>(), *most = limit.const_data_ptr<T>();
        auto *t = depth.mutable_data_ptr<T>(), *part = share.mutable_data_ptr<T>();
        gs_ir::for_each<kThreads>(t_starts, rays, [=] __device__(int64_t r) {
            const int64_t first = info[2 * r];
            gs_ir::scatter_points_ray(start + first, end + first, weight + first, info[2 * r + 1], most[r],
                                      int32_t(draws), [&](int32_t k, int64_t interval, T at, T of_pixel) {
                                          row[k * rays + r] = interval < 0 ? -1 : int32_t(first + interval);
                                          t[k * rays + r] = at;
                                          part[k * rays + r] = of_pixel;
                                      });
        });
    });
    return {rows, depth, share};
}

// Lambdas of the device may not stand in the generic lambdas that with_light takes.
template <typename T, class Light>
void launch_scatter_rays(const gs_ir::ScatterScene<T>& scene, const Tensor& depth, const Light& light,
                         const gs_ir::ScatterPlan& plan, double offset, const Tensor& seed, const Three& out) {
    const auto* t = depth.const_data_ptr<T>();
    const auto* key = seed.const_data_ptr<int64_t>();
    auto *o = std::get<0>(out).mutable_data_ptr<T>(), *d = std::get<1>(out).mutable_data_ptr<T>();
    auto* p = std::get<2>(out).mutable_data_ptr<T>();
    const T off = T(offset);
    gs_ir::for_each<kThreads>(depth, depth.numel(), [=] __device__(int64_t i) {
        const uint32_t k = uint32_t(i) / uint32_t(scene.rays), ray = uint32_t(i) - k * uint32_t(scene.rays);
        gs_ir::Vec3<T> origin;
        const auto draw = gs_ir::scatter_ray(scene, t, light, plan, uint64_t(*key), off, k, ray, origin);
        gs_ir::store3(o + 3 * i, origin);
        gs_ir::store3(d + 3 * i, draw.direction);
        p[i] = draw.density;
    });
}

Three scatter_rays(const Tensor& origins, const Tensor& directions, const Tensor& rows, const Tensor& depth,
                   const Tensor& surface, TensorList light, at::ArrayRef<double> light_from_world, int64_t strategy,
                   double offset, const Tensor& seed) {
    TORCH_CHECK(rows.numel() < int64_t(1) << 31, "scatter_rays: fewer than 2^31 draws expected");
    const Tensor from = at::empty({rows.numel(), 3}, origins.options());
    const Three out{from, at::empty_like(from), at::empty({rows.numel()}, origins.options())};
    const Tensor aligned = gs_ir::vector_aligned(surface);
    AT_DISPATCH_FLOATING_TYPES(origins.scalar_type(), "scatter_rays", [&] {
        using T = scalar_t;
        const auto scene = gs_ir::scatter_scene<T>(origins, directions, rows, aligned);
        const auto plan = gs_ir::scatter_plan(strategy, rows.size(0));
        gs_ir::with_light<T>(light, light_from_world, [&](const auto& source) {
            launch_scatter_rays<T>(scene, depth, source, plan, offset, seed, out);
        });
    });
    return out;
}

template <typename T, class Light>
void launch_gather(const gs_ir::ScatterScene<T>& scene, const gs_ir::ScatterFound<T>& found, const Light& light,
                   const Tensor& out) {
    auto* sums = out.mutable_data_ptr<T>();
    gs_ir::for_each<kThreads>(out, scene.rays, [=] __device__(int64_t r) {
        gs_ir::gather_ray(scene, found, light, r, sums + gs_ir::kScatterChannels * r);
    });
}

Tensor gather_scattered(const Tensor& directions, const Tensor& rows, const Tensor& share, const Tensor& surface,
                        TensorList light, at::ArrayRef<double> light_from_world, TensorList drawn,
                        const Tensor& visible, const std::optional<Tensor>& indirect) {
    const Tensor out = at::empty({rows.size(1), gs_ir::kScatterChannels}, directions.options());
    const Tensor aligned = gs_ir::vector_aligned(surface);
    AT_DISPATCH_FLOATING_TYPES(directions.scalar_type(), "gather_scattered", [&] {
        using T = scalar_t;
        const auto scene = gs_ir::scatter_scene<T>(directions, directions, rows, aligned);
        const auto found = gs_ir::scatter_found<T>(share, drawn, visible, indirect);
        gs_ir::with_light<T>(light, light_from_world,
                             [&](const auto& source) { launch_gather<T>(scene, found, source, out); });
    });
    return out;
}

template <typename T, class Light>
void launch_scatter_once(const Tensor& surface, const Tensor& view, const Light& light, gs_ir::Strategy strategy,
                         const Tensor& seed, const Tensor& along, const Tensor& radiance) {
    const auto *s = surface.const_data_ptr<T>(), *v = view.const_data_ptr<T>();
    const auto* key = seed.const_data_ptr<int64_t>();
    auto *d = along.mutable_data_ptr<T>(), *l = radiance.mutable_data_ptr<T>();
    gs_ir::for_each<kThreads>(view, view.size(0), [=] __device__(int64_t i) {
        gs_ir::scatter_once(s, v, light, strategy, uint64_t(*key), i, d, l);
    });
}

std::tuple<Tensor, Tensor> scatter_once(const Tensor& surface, const Tensor& view, TensorList light,
                                        at::ArrayRef<double> light_from_world, int64_t strategy, const Tensor& seed) {
    const Tensor along = at::empty_like(view), radiance = at::empty_like(view);
    const Tensor aligned = gs_ir::vector_aligned(surface);
    AT_DISPATCH_FLOATING_TYPES(view.scalar_type(), "scatter_once", [&] {
        using T = scalar_t;
        gs_ir::with_light<T>(light, light_from_world, [&](const auto& source) {
            launch_scatter_once<T>(aligned, view, source, gs_ir::Strategy(strategy), seed, along, radiance);
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
        gs_ir::for_each(directions, hits.size(0),
                        [=] __device__(int64_t i) { gs_ir::surface_at_hit(mesh, found, out, i); });
    });
    return {at_rest, world, normal, view};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) {
    m.impl("scatter_points", scatter_points);
    m.impl("scatter_rays", scatter_rays);
    m.impl("gather_scattered", gather_scattered);
    m.impl("scatter_once", scatter_once);
    m.impl("surface_at_hits", surface_at_hits);
}
