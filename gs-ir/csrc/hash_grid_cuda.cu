// CUDA loops of gs_ir/hash_grid.h: one thread a point and group of consecutive levels.
//
// A group's columns of the encoding fill one memory sector. Groups are the slow dimension of the launch, so that the
// tables of one group stay in the second-level cache. Gradients of the table are added atomically: their last digits
// depend on the order, also where deterministic algorithms are asked for. Values come from a compact copy of the table
// in half precision where there is one, gradients go to the table itself.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <cuda_fp16.h>
#include <torch/library.h>

#include <optional>
#include <type_traits>

#include "cuda_launch.cuh"
#include "cuda_vector.cuh"
#include "gs_ir/hash_grid.h"
#include "hash_cell.cuh"

namespace {

using at::IntArrayRef;
using at::Tensor;
using gs_ir::LoadedCell;
using gs_ir::kBlock;
using gs_ir::Vec3;
using OptionalTensor = std::optional<Tensor>;

constexpr int kMaxLevels = 64;
constexpr int kSectorBytes = 32;

// Levels of one thread.
template <int F, typename T>
constexpr int kGroup = F * int(sizeof(T)) < kSectorBytes ? kSectorBytes / (F * int(sizeof(T))) : 1;

// S: what the values that are read are stored as.
template <typename T, typename S>
struct Grid {
    const T* points;
    const S* table;
    int64_t count;  // points
    int levels, active;
    gs_ir::HashLevel level[kMaxLevels];
};

// Calls body(scalar, stored scalar, features per entry) with all as compile-time constants.
template <typename Body>
void dispatch(const Tensor& points, const Tensor& values, const Body& body) {
    const auto by_width = [&](auto scalar, auto stored) {
        switch (values.size(1)) {
            case 1: return body(scalar, stored, std::integral_constant<int, 1>());
            case 2: return body(scalar, stored, std::integral_constant<int, 2>());
            case 4: return body(scalar, stored, std::integral_constant<int, 4>());
            case 8: return body(scalar, stored, std::integral_constant<int, 8>());
            default: TORCH_CHECK(false, "hash grid: 1, 2, 4 or 8 features expected, found ", values.size(1));
        }
    };
    if (values.scalar_type() == at::kHalf) {
        TORCH_CHECK(points.scalar_type() == at::kFloat, "hash grid: a compact table needs float32 points");
        return by_width(float(), __half());
    }
    AT_DISPATCH_FLOATING_TYPES(points.scalar_type(), "hash_grid", [&] { by_width(scalar_t(), scalar_t()); });
}

// What the kernels read, where vectors can be loaded from.
Tensor values_of(const Tensor& table, const OptionalTensor& compact) {
    if (compact && table.scalar_type() == at::kDouble) return compact->to(at::kDouble);
    return compact ? gs_ir::vector_aligned(*compact, int(2 * table.size(1))) : gs_ir::vector_aligned(table);
}

template <typename T, typename S>
Grid<T, S> grid_of(const Tensor& points, const Tensor& values, IntArrayRef resolutions, IntArrayRef offsets,
                   int64_t active) {
    const int levels = int(resolutions.size());
    TORCH_CHECK(levels <= kMaxLevels, "hash grid: at most ", kMaxLevels, " levels expected, found ", levels);
    const S* stored = static_cast<const S*>(values.const_data_ptr());
    Grid<T, S> grid{points.const_data_ptr<T>(), stored, points.size(0), levels, int(active)};
    for (int l = 0; l < levels; ++l) grid.level[l] = gs_ir::hash_level(resolutions[l], offsets[l], offsets[l + 1]);
    return grid;
}

// Threads along points, and groups that hold the first `levels` levels.
template <int F, typename T, typename S>
dim3 launch_shape(const Grid<T, S>& grid, int levels) {
    return dim3(gs_ir::blocks_for(grid.count), (levels + kGroup<F, T> - 1) / kGroup<F, T>);
}

__device__ int64_t point_index() { return int64_t(blockIdx.x) * kBlock + threadIdx.x; }

// Copies a group's `columns` of the N that a whole group has; where all groups are whole, they are aligned.
template <int N, typename T>
__device__ void store_columns(T* to, const T* from, bool whole, int columns) {
    if (whole) return gs_ir::store_pack<N>(to, from);
#pragma unroll
    for (int i = 0; i < N; ++i)
        if (i < columns) to[i] = from[i];
}

template <int N, typename T>
__device__ void load_columns(const T* from, T* to, bool whole, int columns) {
    if (whole) return gs_ir::load_pack<N>(from, to);
#pragma unroll
    for (int i = 0; i < N; ++i) to[i] = i < columns ? from[i] : T(0);
}

template <int F, bool kJacobian, typename T, typename S>
__global__ void __launch_bounds__(kBlock) encode_kernel(const Grid<T, S> grid, T* features, T* jacobian) {
    constexpr int kLevels = kGroup<F, T>, kColumns = kLevels * F;
    constexpr uint32_t kCorners[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    const int64_t n = point_index();
    if (n >= grid.count) return;
    const int first = blockIdx.y * kLevels;
    const Vec3<T> point = gs_ir::load3(grid.points + 3 * n);
    T value[kColumns] = {}, slopes[kJacobian ? 3 * kColumns : 1] = {};
#pragma unroll
    for (int i = 0; i < kLevels; ++i) {
        if (first + i >= grid.active) continue;
        const gs_ir::HashLevel& level = grid.level[first + i];
        LoadedCell<F, T> at(level, point);
        at.load(grid.table + level.offset * F);
        if constexpr (kJacobian)
            gs_ir::interpolate_cell_jacobian<F>(at.values, kCorners, at.cell, value + i * F, slopes + 3 * i * F);
        else
            gs_ir::interpolate_cell<F>(at.values, kCorners, at.cell.fraction, value + i * F);
    }
    const bool whole = grid.levels % kLevels == 0;
    const int columns = (grid.levels - first) * F;
    const int64_t column = (n * grid.levels + first) * F;
    store_columns<kColumns>(features + column, value, whole, columns);
    if constexpr (kJacobian) store_columns<3 * kColumns>(jacobian + 3 * column, slopes, whole, 3 * columns);
}

template <int F, bool kJacobian, typename T, typename S>
__global__ void __launch_bounds__(kBlock) backward_kernel(
    const Grid<T, S> grid, const T* grad_features, const T* grad_jacobian, bool moving, T* grad_points, T* grad_table) {
    constexpr int kLevels = kGroup<F, T>, kColumns = kLevels * F;
    constexpr uint32_t kCorners[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    const int64_t n = point_index();
    if (n >= grid.count) return;
    const int first = blockIdx.y * kLevels;
    const Vec3<T> point = gs_ir::load3(grid.points + 3 * n);
    const bool whole = grid.levels % kLevels == 0;
    const int columns = (grid.levels - first) * F;
    const int64_t column = (n * grid.levels + first) * F;
    T g[kColumns], slopes[kJacobian ? 3 * kColumns : 1];
    load_columns<kColumns>(grad_features + column, g, whole, columns);
    if constexpr (kJacobian) load_columns<3 * kColumns>(grad_jacobian + 3 * column, slopes, whole, 3 * columns);
    Vec3<T> sum{T(0), T(0), T(0)};
#pragma unroll
    for (int i = 0; i < kLevels; ++i) {
        if (first + i >= grid.active) continue;
        const gs_ir::HashLevel& level = grid.level[first + i];
        LoadedCell<F, T> at(level, point);
        if (moving) at.load(grid.table + level.offset * F);
        T* gradients = grad_table + level.offset * F;
        T before[F];
        // Corners come in pairs along x, which often are neighbours in memory too.
        const auto add = [&](int corner, const T* value) {
            if (corner % 2 == 1)
                gs_ir::add_pack_pair<F>(gradients, at.entries[corner - 1], at.entries[corner], before, value);
            for (int f = 0; f < F; ++f) before[f] = value[f];
        };
        if constexpr (kJacobian) {
            Vec3<T> h[F];
            for (int f = 0; f < F; ++f) h[f] = gs_ir::scale(gs_ir::load3(slopes + 3 * (i * F + f)), at.cell.slope);
            gs_ir::adj_cell_entries<F>(at.cell.fraction, g + i * F, h, add);
            if (moving) sum = sum + gs_ir::adj_cell_point<F>(at.values, kCorners, at.cell, g + i * F, h);
        } else {
            gs_ir::adj_cell_entries<F>(at.cell.fraction, g + i * F, add);
            if (moving) sum = sum + gs_ir::adj_cell_point<F>(at.values, kCorners, at.cell, g + i * F);
        }
    }
    if (!moving) return;
    atomicAdd(grad_points + 3 * n, sum.x);
    atomicAdd(grad_points + 3 * n + 1, sum.y);
    atomicAdd(grad_points + 3 * n + 2, sum.z);
}

template <bool kJacobian>
void run_encode(const Tensor& points, const Tensor& table, const OptionalTensor& compact, IntArrayRef resolutions,
                IntArrayRef offsets, int64_t active, const Tensor& features, const Tensor& jacobian) {
    if (features.numel() == 0) return;
    const c10::cuda::CUDAGuard guard(points.device());
    const Tensor values = values_of(table, compact);
    dispatch(points, values, [&](auto scalar, auto stored, auto size) {
        using T = decltype(scalar);
        using S = decltype(stored);
        constexpr int F = decltype(size)::value;
        const Grid<T, S> grid = grid_of<T, S>(points, values, resolutions, offsets, active);
        encode_kernel<F, kJacobian>
            <<<launch_shape<F>(grid, grid.levels), kBlock, 0, c10::cuda::getCurrentCUDAStream()>>>(
                grid, features.mutable_data_ptr<T>(), kJacobian ? jacobian.mutable_data_ptr<T>() : nullptr);
        C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
}

// Zeros like the table, laid out so that even entries of hashed levels are aligned like pairs of entries.
Tensor zero_gradient(const Tensor& table, IntArrayRef resolutions, IntArrayRef offsets) {
    int64_t shift = 0;
    for (size_t l = 0; l < resolutions.size() && shift == 0; ++l)
        if (!gs_ir::hash_level(resolutions[l], offsets[l], offsets[l + 1]).dense) shift = offsets[l] % 2;
    return at::zeros({table.size(0) + shift, table.size(1)}, table.options()).narrow(0, shift, table.size(0));
}

template <bool kJacobian>
std::tuple<Tensor, Tensor> run_backward(
    const Tensor& any_features, const Tensor& any_jacobian, const Tensor& points, const Tensor& table,
    const OptionalTensor& compact, IntArrayRef resolutions, IntArrayRef offsets, int64_t active, bool moving) {
    Tensor grad_points = at::zeros_like(points), grad_table = zero_gradient(table, resolutions, offsets);
    if (points.size(0) == 0 || active == 0) return {grad_points, grad_table};
    const c10::cuda::CUDAGuard guard(points.device());
    const Tensor values = values_of(table, compact), grad_features = gs_ir::vector_aligned(any_features);
    const Tensor grad_jacobian = kJacobian ? gs_ir::vector_aligned(any_jacobian) : any_jacobian;
    dispatch(points, values, [&](auto scalar, auto stored, auto size) {
        using T = decltype(scalar);
        using S = decltype(stored);
        constexpr int F = decltype(size)::value;
        const Grid<T, S> grid = grid_of<T, S>(points, values, resolutions, offsets, active);
        backward_kernel<F, kJacobian>
            <<<launch_shape<F>(grid, grid.active), kBlock, 0, c10::cuda::getCurrentCUDAStream()>>>(
                grid, grad_features.const_data_ptr<T>(), kJacobian ? grad_jacobian.const_data_ptr<T>() : nullptr,
                moving, grad_points.mutable_data_ptr<T>(), grad_table.mutable_data_ptr<T>());
        C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
    return {grad_points, grad_table};
}

Tensor encode(const Tensor& points, const Tensor& table, const OptionalTensor& compact, IntArrayRef resolutions,
              IntArrayRef offsets, int64_t active_levels, bool) {
    Tensor features = at::empty({points.size(0), int64_t(resolutions.size()) * table.size(1)}, points.options());
    run_encode<false>(points, table, compact, resolutions, offsets, active_levels, features, {});
    return features;
}

std::tuple<Tensor, Tensor> encode_jacobian(const Tensor& points, const Tensor& table, const OptionalTensor& compact,
                                           IntArrayRef resolutions, IntArrayRef offsets, int64_t active_levels, bool) {
    Tensor features = at::empty({points.size(0), int64_t(resolutions.size()) * table.size(1)}, points.options());
    Tensor jacobian = at::empty({features.size(0), features.size(1), 3}, points.options());
    run_encode<true>(points, table, compact, resolutions, offsets, active_levels, features, jacobian);
    return {features, jacobian};
}

std::tuple<Tensor, Tensor> encode_backward(const Tensor& grad, const Tensor& points, const Tensor& table,
                                           const OptionalTensor& compact, IntArrayRef resolutions, IntArrayRef offsets,
                                           int64_t active_levels, bool moving) {
    return run_backward<false>(grad, {}, points, table, compact, resolutions, offsets, active_levels, moving);
}

std::tuple<Tensor, Tensor> encode_jacobian_backward(
    const Tensor& grad_features, const Tensor& grad_jacobian, const Tensor& points, const Tensor& table,
    const OptionalTensor& compact, IntArrayRef resolutions, IntArrayRef offsets, int64_t active_levels, bool moving) {
    return run_backward<true>(
        grad_features, grad_jacobian, points, table, compact, resolutions, offsets, active_levels, moving);
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) {
    m.impl("hash_encode", encode);
    m.impl("hash_encode_backward", encode_backward);
    m.impl("hash_encode_jacobian", encode_jacobian);
    m.impl("hash_encode_jacobian_backward", encode_jacobian_backward);
}
