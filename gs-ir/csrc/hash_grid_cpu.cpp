// CPU loops of gs_ir/hash_grid.h.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <algorithm>
#include <optional>
#include <type_traits>

#include "gs_ir/hash_grid.h"

namespace {

using at::IntArrayRef;
using at::Tensor;
using gs_ir::HashCell;
using gs_ir::Vec3;
using OptionalTensor = std::optional<Tensor>;

constexpr int64_t kPointsPerTask = 256;  // their rows of the jacobian stay in the second-level cache

// Calls body(scalar, features per entry) with both as compile-time constants.
template <typename Body>
void dispatch(const Tensor& table, const Body& body) {
    AT_DISPATCH_FLOATING_TYPES(table.scalar_type(), "hash_grid", [&] {
        switch (table.size(1)) {
            case 1: return body(scalar_t(), std::integral_constant<int, 1>());
            case 2: return body(scalar_t(), std::integral_constant<int, 2>());
            case 4: return body(scalar_t(), std::integral_constant<int, 4>());
            case 8: return body(scalar_t(), std::integral_constant<int, 8>());
            default: TORCH_CHECK(false, "hash grid: 1, 2, 4 or 8 features expected, found ", table.size(1));
        }
    });
}

template <typename T, int F>
struct Grid {
    const T* points;
    const T* table;
    IntArrayRef resolutions, offsets;
    int64_t width;  // columns of the encoding

    Grid(const Tensor& points, const Tensor& table, IntArrayRef resolutions, IntArrayRef offsets)
        : points(points.const_data_ptr<T>()), table(table.const_data_ptr<T>()), resolutions(resolutions),
          offsets(offsets), width(int64_t(resolutions.size()) * F) {}

    // body(point, its cell in level l, the corners' entries) for points begin..end
    template <typename Body>
    void each_cell(int64_t l, int64_t begin, int64_t end, const Body& body) const {
        const gs_ir::HashLevel level = gs_ir::hash_level(resolutions[l], offsets[l], offsets[l + 1]);
        for (int64_t n = begin; n < end; ++n) {
            const HashCell<T> cell = gs_ir::locate_cell(gs_ir::load3(points + 3 * n), level.resolution);
            uint32_t entries[8];
            gs_ir::corner_entries(level, cell, entries);
            body(n, cell, entries);
        }
    }
    // Column of the first feature of level l, counted from the encoding's beginning.
    int64_t column(int64_t n, int64_t l) const { return n * width + l * F; }
    const T* level_table(int64_t l) const { return table + offsets[l] * F; }
};

// The compact copy's values, if there is one, in the table's precision: memory traffic is no matter here.
Tensor values_of(const Tensor& table, const OptionalTensor& compact) {
    return compact ? compact->to(table.scalar_type()) : table;
}

Tensor encode(const Tensor& points, const Tensor& any_table, const OptionalTensor& compact, IntArrayRef resolutions,
              IntArrayRef offsets, int64_t active_levels, bool) {
    const Tensor table = values_of(any_table, compact);
    Tensor features = at::empty({points.size(0), int64_t(resolutions.size()) * table.size(1)}, points.options());
    dispatch(table, [&]<typename T, int F>(T, std::integral_constant<int, F>) {
        const Grid<T, F> grid(points, table, resolutions, offsets);
        T* out = features.mutable_data_ptr<T>();
        at::parallel_for(0, points.size(0), kPointsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t l = 0; l < active_levels; ++l)
                grid.each_cell(l, begin, end, [&](int64_t n, const HashCell<T>& cell, const uint32_t* entries) {
                    gs_ir::interpolate_cell<F>(grid.level_table(l), entries, cell.fraction, out + grid.column(n, l));
                });
            for (int64_t n = begin; n < end; ++n)
                std::fill(out + grid.column(n, active_levels), out + grid.column(n + 1, 0), T(0));
        });
    });
    return features;
}

std::tuple<Tensor, Tensor> encode_jacobian(const Tensor& points, const Tensor& any_table, const OptionalTensor& compact,
                                           IntArrayRef resolutions, IntArrayRef offsets, int64_t active_levels, bool) {
    const Tensor table = values_of(any_table, compact);
    Tensor features = at::empty({points.size(0), int64_t(resolutions.size()) * table.size(1)}, points.options());
    Tensor jacobian = at::empty({features.size(0), features.size(1), 3}, points.options());
    dispatch(table, [&]<typename T, int F>(T, std::integral_constant<int, F>) {
        const Grid<T, F> grid(points, table, resolutions, offsets);
        T* out = features.mutable_data_ptr<T>();
        T* slopes = jacobian.mutable_data_ptr<T>();
        at::parallel_for(0, points.size(0), kPointsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t l = 0; l < active_levels; ++l)
                grid.each_cell(l, begin, end, [&](int64_t n, const HashCell<T>& cell, const uint32_t* entries) {
                    const int64_t at = grid.column(n, l);
                    gs_ir::interpolate_cell_jacobian<F>(grid.level_table(l), entries, cell, out + at, slopes + 3 * at);
                });
            for (int64_t n = begin; n < end; ++n) {
                const int64_t first = grid.column(n, active_levels), last = grid.column(n + 1, 0);
                std::fill(out + first, out + last, T(0));
                std::fill(slopes + 3 * first, slopes + 3 * last, T(0));
            }
        });
    });
    return {features, jacobian};
}

// Runs body(level, gradient of the points to add to) for all levels, then adds up the latter into `grad_points`.
// A thread owns whole levels, hence their part of the table, where nobody else writes.
template <typename T, typename Body>
void each_level(int64_t levels, Tensor& grad_points, const Body& body) {
    const int64_t groups = std::max<int64_t>(1, std::min<int64_t>(levels, at::get_num_threads()));
    const int64_t size = grad_points.numel();
    Tensor partial = at::zeros({groups, size}, grad_points.options());
    T* buffers = partial.mutable_data_ptr<T>();
    at::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
        for (int64_t g = begin; g < end; ++g)
            for (int64_t l = g * levels / groups; l < (g + 1) * levels / groups; ++l) body(l, buffers + g * size);
    });
    T* sum = grad_points.mutable_data_ptr<T>();
    at::parallel_for(0, size, 1 << 14, [&](int64_t begin, int64_t end) {
        for (int64_t g = 0; g < groups; ++g)
            for (int64_t i = begin; i < end; ++i) sum[i] += buffers[g * size + i];
    });
}

template <int F, typename T>
void add_to_entries(T* gradients, const uint32_t* entries, int corner, const T* value) {
    for (int f = 0; f < F; ++f) gradients[int64_t(entries[corner]) * F + f] += value[f];
}

template <typename T>
void add_to_point(T* gradients, int64_t n, Vec3<T> value) {
    gs_ir::store3(gradients + 3 * n, gs_ir::load3(gradients + 3 * n) + value);
}

std::tuple<Tensor, Tensor> encode_backward(const Tensor& grad, const Tensor& points, const Tensor& any_table,
                                           const OptionalTensor& compact, IntArrayRef resolutions, IntArrayRef offsets,
                                           int64_t active_levels, bool moving) {
    const Tensor table = values_of(any_table, compact);
    Tensor grad_points = at::zeros_like(points), grad_table = at::zeros_like(any_table);
    dispatch(table, [&]<typename T, int F>(T, std::integral_constant<int, F>) {
        const Grid<T, F> grid(points, table, resolutions, offsets);
        const T* cotangents = grad.const_data_ptr<T>();
        T* all_gradients = grad_table.mutable_data_ptr<T>();
        each_level<T>(active_levels, grad_points, [&](int64_t l, T* point_gradients) {
            T* gradients = all_gradients + offsets[l] * F;
            grid.each_cell(l, 0, points.size(0), [&](int64_t n, const HashCell<T>& cell, const uint32_t* entries) {
                const T* g = cotangents + grid.column(n, l);
                gs_ir::adj_cell_entries<F>(cell.fraction, g, [&](int corner, const T* value) {
                    add_to_entries<F>(gradients, entries, corner, value);
                });
                if (!moving) return;
                add_to_point(point_gradients, n, gs_ir::adj_cell_point<F>(grid.level_table(l), entries, cell, g));
            });
        });
    });
    return {grad_points, grad_table};
}

std::tuple<Tensor, Tensor> encode_jacobian_backward(
    const Tensor& grad_features, const Tensor& grad_jacobian, const Tensor& points, const Tensor& any_table,
    const OptionalTensor& compact, IntArrayRef resolutions, IntArrayRef offsets, int64_t active_levels, bool moving) {
    const Tensor table = values_of(any_table, compact);
    Tensor grad_points = at::zeros_like(points), grad_table = at::zeros_like(any_table);
    dispatch(table, [&]<typename T, int F>(T, std::integral_constant<int, F>) {
        const Grid<T, F> grid(points, table, resolutions, offsets);
        const T* cotangents = grad_features.const_data_ptr<T>();
        const T* slope_cotangents = grad_jacobian.const_data_ptr<T>();
        T* all_gradients = grad_table.mutable_data_ptr<T>();
        each_level<T>(active_levels, grad_points, [&](int64_t l, T* point_gradients) {
            T* gradients = all_gradients + offsets[l] * F;
            grid.each_cell(l, 0, points.size(0), [&](int64_t n, const HashCell<T>& cell, const uint32_t* entries) {
                const T* g = cotangents + grid.column(n, l);
                Vec3<T> h[F];
                for (int f = 0; f < F; ++f)
                    h[f] = gs_ir::scale(gs_ir::load3(slope_cotangents + 3 * (grid.column(n, l) + f)), cell.slope);
                gs_ir::adj_cell_entries<F>(cell.fraction, g, h, [&](int corner, const T* value) {
                    add_to_entries<F>(gradients, entries, corner, value);
                });
                if (!moving) return;
                add_to_point(point_gradients, n, gs_ir::adj_cell_point<F>(grid.level_table(l), entries, cell, g, h));
            });
        });
    });
    return {grad_points, grad_table};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("hash_encode", encode);
    m.impl("hash_encode_backward", encode_backward);
    m.impl("hash_encode_jacobian", encode_jacobian);
    m.impl("hash_encode_jacobian_backward", encode_jacobian_backward);
}
