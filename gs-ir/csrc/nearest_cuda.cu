// Tree construction on the device and CUDA loops of gs_ir/nearest.h: one thread a query.
//
// The leaves are equal shares of the points in Morton order (Lauterbach et al. 2009). Nothing waits for the device.
#include <ATen/Dispatch.h>
#include <ATen/ops/aminmax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/nan_to_num.h>
#include <ATen/ops/sort.h>
#include <torch/library.h>

#include "cuda_launch.cuh"
#include "gs_ir/nearest.h"

namespace {

constexpr int kThreads = 128;
constexpr int kMortonBits = 10;     // an axis
constexpr int64_t kTopNodes = 512;  // levels up to this wide are merged by one block

// Two empty bits between the ten of x.
__device__ int32_t spread_bits(int32_t x) {
    x = (x | x << 16) & 0x030000ff;
    x = (x | x << 8) & 0x0300f00f;
    x = (x | x << 4) & 0x030c30c3;
    return (x | x << 2) & 0x09249249;
}

// Position on the curve through a cube of 2^30 cells; points with a NaN are last.
template <typename T>
__device__ int32_t morton_code(const T* p, const T* low, const T* high) {
    constexpr T cells = T(1 << kMortonBits);
    const T extent = fmax(fmax(high[0] - low[0], high[1] - low[1]), high[2] - low[2]);
    int32_t code = 0;
    for (int a = 0; a < 3; ++a) {
        const T place = extent > T(0) ? (p[a] - low[a]) / extent * cells : T(0);
        code |= spread_bits(int32_t(gs_ir::clamp(place, T(0), cells - T(1)))) << a;
    }
    return p[0] + p[1] + p[2] == p[0] + p[1] + p[2] ? code : (1 << 3 * kMortonBits) - 1;
}

template <typename T>
at::Tensor morton_order(const at::Tensor& points) {
    const auto bounds = at::aminmax(at::nan_to_num(points, 0, 0, 0), 0);
    at::Tensor codes = at::empty({points.size(0)}, points.options().dtype(at::kInt));
    const T *p = points.const_data_ptr<T>(), *low = std::get<0>(bounds).template const_data_ptr<T>(),
            *high = std::get<1>(bounds).template const_data_ptr<T>();
    int32_t* code = codes.mutable_data_ptr<int32_t>();
    gs_ir::for_each(points, codes.size(0), [=] __device__(int64_t i) { code[i] = morton_code(p + 3 * i, low, high); });
    return std::get<1>(at::sort(codes, /*stable=*/true, /*dim=*/0, /*descending=*/false));
}

// Bucket and box of leaf l from its share of the points.
template <typename T>
__device__ void fill_leaf(
    const T* points, int64_t count, const int64_t* order, int64_t leaves, int64_t l, T* box, T* bucket,
    int32_t* index) {
    const int64_t begin = count * l / leaves, end = count * (l + 1) / leaves;
    constexpr T infinity = std::numeric_limits<T>::infinity();
    for (int a = 0; a < 3; ++a) {
        box[a] = infinity;
        box[3 + a] = -infinity;
    }
    for (int slot = 0; slot < gs_ir::kBucket; ++slot) {
        const bool used = begin + slot < end;
        const int64_t point = used ? order[begin + slot] : -1;
        index[slot] = int32_t(point);
        for (int a = 0; a < 3; ++a) {
            const T x = used ? points[3 * point + a] : infinity;
            bucket[gs_ir::kBucket * a + slot] = x;
            if (!used) continue;
            box[a] = gs_ir::minimum(x, box[a]);  // NaN leaves the second argument
            box[3 + a] = gs_ir::maximum(x, box[3 + a]);
        }
    }
}

template <typename T>
__device__ void merge_children(T* boxes, int64_t node) {
    const T *left = boxes + 12 * node, *right = left + 6;
    for (int a = 0; a < 3; ++a) {
        boxes[6 * node + a] = gs_ir::minimum(left[a], right[a]);
        boxes[6 * node + 3 + a] = gs_ir::maximum(left[3 + a], right[3 + a]);
    }
}

// The levels of `width` nodes and fewer.
template <typename T>
__global__ void __launch_bounds__(kTopNodes) merge_top(T* boxes, int64_t width) {
    for (; width > 0; width /= 2) {
        if (threadIdx.x < width) merge_children(boxes, width + threadIdx.x);
        __syncthreads();
    }
}

template <typename T>
void merge_levels(const at::Tensor& like, T* boxes, int64_t leaves) {
    int64_t width = leaves / 2;
    for (; width > kTopNodes; width /= 2)
        gs_ir::for_each(like, width, [=] __device__(int64_t i) { merge_children(boxes, width + i); });
    if (width == 0) return;
    merge_top<<<1, int(width), 0, c10::cuda::getCurrentCUDAStream()>>>(boxes, width);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
}

// A tree and the memory that it lies in.
template <typename T>
struct Tree {
    at::Tensor boxes, buckets, indices;
    gs_ir::PointTree<T> view;

    explicit Tree(const at::Tensor& points) {
        const int64_t count = points.size(0);
        int64_t leaves = 1;
        while (leaves * gs_ir::kBucket < count) leaves *= 2;
        boxes = at::empty({2 * leaves, 6}, points.options());
        buckets = at::empty({leaves, 3, gs_ir::kBucket}, points.options());
        indices = at::empty({leaves, gs_ir::kBucket}, points.options().dtype(at::kInt));
        view = {boxes.const_data_ptr<T>(), buckets.const_data_ptr<T>(), indices.const_data_ptr<int32_t>(), leaves};
        fill(points, leaves);
        merge_levels(points, boxes.mutable_data_ptr<T>(), leaves);
    }

    void fill(const at::Tensor& points, int64_t leaves) {
        const int64_t count = points.size(0);
        const at::Tensor sorted = morton_order<T>(points);
        const int64_t* order = sorted.const_data_ptr<int64_t>();
        const T* p = points.const_data_ptr<T>();
        T *box = boxes.mutable_data_ptr<T>() + 6 * leaves, *bucket = buckets.mutable_data_ptr<T>();
        int32_t* index = indices.mutable_data_ptr<int32_t>();
        gs_ir::for_each(points, leaves, [=] __device__(int64_t l) {
            fill_leaf(
                p, count, order, leaves, l, box + 6 * l, bucket + 3 * gs_ir::kBucket * l, index + gs_ir::kBucket * l);
        });
    }
};

template <typename T, int kCapacity>
void run_queries(
    const gs_ir::PointTree<T>& tree, const at::Tensor& query, at::Tensor& distances, at::Tensor& indices) {
    const int k = int(distances.size(1));
    const T* q = query.const_data_ptr<T>();
    T* d = distances.mutable_data_ptr<T>();
    int64_t* idx = indices.mutable_data_ptr<int64_t>();
    gs_ir::for_each<kThreads>(query, query.size(0), [=] __device__(int64_t i) {
        const T position[3] = {q[3 * i], q[3 * i + 1], q[3 * i + 2]};
        gs_ir::FixedNeighbourList<T, kCapacity> best;
        gs_ir::nearest_query(tree, position, std::numeric_limits<T>::infinity(), best);
#pragma unroll
        for (int n = 0; n < kCapacity; ++n) {
            if (n >= k) break;
            d[i * k + n] = best.distances[n];
            idx[i * k + n] = best.indices[n];
        }
    });
}

std::tuple<at::Tensor, at::Tensor> nearest_neighbours(const at::Tensor& query, const at::Tensor& points, int64_t k) {
    TORCH_CHECK(points.size(0) <= std::numeric_limits<int32_t>::max(), "nearest_neighbours: more than 2^31 points");
    TORCH_CHECK(k <= gs_ir::kMaxNeighbours, "nearest_neighbours: k <= ", gs_ir::kMaxNeighbours, " expected, found ", k);
    const c10::cuda::CUDAGuard guard(query.device());
    at::Tensor distances = at::empty({query.size(0), k}, query.options());
    at::Tensor indices = at::empty({query.size(0), k}, query.options().dtype(at::kLong));
    if (query.size(0) == 0) return {distances, indices};
    AT_DISPATCH_FLOATING_TYPES(query.scalar_type(), "nearest_neighbours", [&] {
        const Tree<scalar_t> tree(points);
        const auto run = k <= 1    ? run_queries<scalar_t, 1>
                         : k <= 4  ? run_queries<scalar_t, 4>
                         : k <= 8  ? run_queries<scalar_t, 8>
                         : k <= 16 ? run_queries<scalar_t, 16>
                                   : run_queries<scalar_t, gs_ir::kMaxNeighbours>;
        run(tree.view, query, distances, indices);
    });
    return {distances, indices};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) {
    m.impl("nearest_neighbours", nearest_neighbours);
}
