// kd-tree construction and CPU loops of gs_ir/nearest.h.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "gs_ir/nearest.h"

namespace {

constexpr int64_t kQueriesPerTask = 256;

template <typename T>
class TreeBuilder {
public:
    TreeBuilder(const T* points, int64_t count) : points_(points), order_(count) {
        std::iota(order_.begin(), order_.end(), 0);
        while (leaves_ * gs_ir::kBucket < count) leaves_ *= 2;
        boxes_.resize(2 * leaves_ * 6);
        buckets_.assign(leaves_ * 3 * gs_ir::kBucket, std::numeric_limits<T>::infinity());
        indices_.assign(leaves_ * gs_ir::kBucket, -1);
        build(1, 0, count);
    }

    gs_ir::PointTree<T> view() const { return {boxes_.data(), buckets_.data(), indices_.data(), leaves_}; }

private:
    void build(int64_t node, int64_t begin, int64_t end) {
        T* box = &boxes_[6 * node];
        std::fill(box, box + 3, std::numeric_limits<T>::infinity());
        std::fill(box + 3, box + 6, -std::numeric_limits<T>::infinity());
        for (int64_t i = begin; i < end; ++i)
            for (int a = 0; a < 3; ++a) {
                box[a] = std::min(box[a], points_[3 * order_[i] + a]);
                box[3 + a] = std::max(box[3 + a], points_[3 * order_[i] + a]);
            }
        if (node >= leaves_) return fill_bucket(node - leaves_, begin, end);
        int axis = 0;
        for (int a = 1; a < 3; ++a)
            if (box[3 + a] - box[a] > box[3 + axis] - box[axis]) axis = a;
        const int64_t middle = begin + (end - begin) / 2;
        std::nth_element(
            order_.begin() + begin, order_.begin() + middle, order_.begin() + end,
            [&](int32_t a, int32_t b) { return sort_key(a, axis) < sort_key(b, axis); });
        build(2 * node, begin, middle);
        build(2 * node + 1, middle, end);
    }

    // NaN sorts last: comparing it as it is would break the order that nth_element relies on.
    T sort_key(int32_t point, int axis) const {
        const T x = points_[3 * int64_t(point) + axis];
        return std::isnan(x) ? std::numeric_limits<T>::infinity() : x;
    }

    void fill_bucket(int64_t leaf, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const int64_t slot = i - begin;
            indices_[leaf * gs_ir::kBucket + slot] = order_[i];
            for (int a = 0; a < 3; ++a)
                buckets_[(leaf * 3 + a) * gs_ir::kBucket + slot] = points_[3 * order_[i] + a];
        }
    }

    const T* points_;
    std::vector<int32_t> order_, indices_;
    std::vector<T> boxes_, buckets_;
    int64_t leaves_ = 1;
};

// Upper bound of the k-th distance from the previous query's, by the triangle inequality; slack for rounding.
template <typename T>
T bound_from_previous(T previous_worst, const T* previous, const T* query) {
    const gs_ir::Vec3<T> moved = gs_ir::load3(query) - gs_ir::load3(previous);
    const T bound = (std::sqrt(previous_worst) + gs_ir::length(moved)) * (T(1) + T(1e-4));
    const T squared = bound * bound + std::numeric_limits<T>::min();
    return squared < std::numeric_limits<T>::infinity() ? squared : std::numeric_limits<T>::infinity();
}

std::tuple<at::Tensor, at::Tensor> nearest_neighbours(const at::Tensor& query, const at::Tensor& points, int64_t k) {
    const int64_t count = query.size(0);
    TORCH_CHECK(points.size(0) <= std::numeric_limits<int32_t>::max(), "nearest_neighbours: more than 2^31 points");
    TORCH_CHECK(k <= gs_ir::kMaxNeighbours, "nearest_neighbours: k <= ", gs_ir::kMaxNeighbours, " expected, found ", k);
    at::Tensor distances = at::empty({count, k}, query.options());
    at::Tensor indices = at::empty({count, k}, query.options().dtype(at::kLong));
    AT_DISPATCH_FLOATING_TYPES(query.scalar_type(), "nearest_neighbours", [&] {
        const TreeBuilder<scalar_t> tree(points.const_data_ptr<scalar_t>(), points.size(0));
        const auto* q = query.const_data_ptr<scalar_t>();
        auto* d = distances.mutable_data_ptr<scalar_t>();
        int64_t* idx = indices.mutable_data_ptr<int64_t>();
        at::parallel_for(0, count, kQueriesPerTask, [&](int64_t begin, int64_t end) {
            gs_ir::NeighbourList<scalar_t> best;
            best.k = int(k);
            scalar_t limit = std::numeric_limits<scalar_t>::infinity();
            for (int64_t i = begin; i < end; ++i) {
                if (i > begin) limit = bound_from_previous(best.worst(), q + 3 * (i - 1), q + 3 * i);
                gs_ir::nearest_query(tree.view(), q + 3 * i, limit, best);
                std::copy(best.distances, best.distances + k, d + i * k);
                std::copy(best.indices, best.indices + k, idx + i * k);
            }
        });
    });
    return {distances, indices};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("nearest_neighbours", nearest_neighbours);
}
