// CPU loops of gs_ir/correspondence.h.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "gs_ir/correspondence.h"

namespace {

constexpr int64_t kPointsPerTask = 128;
constexpr int64_t kBlock = 3;  // cells along the edge of a block, which shares one list of candidates

// The points within the radius of one block of cells, as structure of arrays (posed x y z, canonical x y z).
template <typename T>
class CandidateList {
public:
    void clear() { count_ = 0; }
    void add(const T* posed, const T* canonical) {
        if (count_ + gs_ir::kSeedLanes >= capacity_) grow();
        for (int a = 0; a < 3; ++a) {
            row(a)[count_] = posed[a];
            row(3 + a)[count_] = canonical[a];
        }
        ++count_;
    }
    gs_ir::SeedCandidates<T> view() {
        for (int64_t i = count_; i < std::min(count_ + gs_ir::kSeedLanes, capacity_); ++i)
            for (int a = 0; a < 6; ++a) row(a)[i] = a < 3 ? std::numeric_limits<T>::infinity() : T(0);
        return {{row(0), row(1), row(2)}, {row(3), row(4), row(5)}, count_};
    }

private:
    T* row(int a) { return storage_.data() + a * capacity_; }
    void grow() {
        const int64_t larger = std::max<int64_t>(256, 2 * capacity_);
        std::vector<T> storage(6 * larger);
        for (int a = 0; a < 6; ++a) std::copy(row(a), row(a) + count_, storage.data() + a * larger);
        storage_.swap(storage);
        capacity_ = larger;
    }

    std::vector<T> storage_;
    int64_t count_ = 0, capacity_ = 0;
};

template <typename T>
struct SeedFrame {
    const T* posed;
    const T* canonical;
    int64_t points, resolution;
    gs_ir::SeedCells<T> cells;
    T* seeds;
    uint8_t* counts;
};

// Blocks along an axis that a point's neighbourhood touches, and whether it touches any.
template <typename T>
std::pair<int64_t, int64_t> touched_blocks(const SeedFrame<T>& frame, int axis, T x) {
    const T block = frame.cells.cell[axis] * T(kBlock), radius = frame.cells.settings.radius;
    const int64_t last = (frame.resolution - 1) / kBlock;
    const T from = std::floor((x - radius - frame.cells.low[axis]) / block);
    const T to = std::floor((x + radius - frame.cells.low[axis]) / block);
    return {std::max<int64_t>(0, int64_t(from)), std::min(last, int64_t(to))};
}

template <typename T>
void fill_block(const SeedFrame<T>& frame, CandidateList<T>& list, const int64_t* block) {
    const gs_ir::SeedCandidates<T> candidates = list.view();
    const int64_t n = frame.resolution, slots = frame.cells.settings.max_seeds;
    const auto end = [&](int a) { return std::min(n, (block[a] + 1) * kBlock); };
    for (int64_t z = block[2] * kBlock; z < end(2); ++z)
        for (int64_t y = block[1] * kBlock; y < end(1); ++y)
            for (int64_t x = block[0] * kBlock; x < end(0); ++x) {
                const int64_t at[3] = {x, y, z};
                T centre[3];
                frame.cells.centre(at, centre);
                gs_ir::Seed<T> chosen[gs_ir::kMaxSeeds];
                const int found = gs_ir::choose_seeds(candidates, centre, frame.cells.settings, chosen);
                const int64_t cell = (z * n + y) * n + x;
                frame.counts[cell] = uint8_t(found);
                for (int64_t k = 0; k < slots; ++k)
                    for (int a = 0; a < 3; ++a)
                        frame.seeds[(cell * slots + k) * 3 + a] = k < found ? chosen[k].canonical[a] : T(0);
            }
}

// One layer of blocks along z; `lists` has a candidate list for each block of the layer.
template <typename T>
void fill_layer(const SeedFrame<T>& frame, int64_t layer, std::vector<CandidateList<T>>& lists) {
    const int64_t blocks = (frame.resolution + kBlock - 1) / kBlock;
    for (auto& list : lists) list.clear();
    for (int64_t i = 0; i < frame.points; ++i) {
        const T* p = frame.posed + 3 * i;
        const auto [z_first, z_last] = touched_blocks(frame, 2, p[2]);
        if (layer < z_first || layer > z_last) continue;
        const auto [y_first, y_last] = touched_blocks(frame, 1, p[1]);
        const auto [x_first, x_last] = touched_blocks(frame, 0, p[0]);
        for (int64_t y = y_first; y <= y_last; ++y)
            for (int64_t x = x_first; x <= x_last; ++x) {
                const int64_t first[3] = {x * kBlock, y * kBlock, layer * kBlock}, extent[3] = {kBlock, kBlock, kBlock};
                if (frame.cells.reaches(first, extent, p)) lists[y * blocks + x].add(p, frame.canonical + 3 * i);
            }
    }
    for (int64_t y = 0; y < blocks; ++y)
        for (int64_t x = 0; x < blocks; ++x) {
            const int64_t block[3] = {x, y, layer};
            fill_block(frame, lists[y * blocks + x], block);
        }
}

template <typename T>
void bounding_boxes(const T* posed, int64_t frames, int64_t points, T radius, T* boxes) {
    for (int64_t b = 0; b < frames; ++b)
        for (int a = 0; a < 3; ++a) {
            T low = std::numeric_limits<T>::infinity(), high = -low;
            for (int64_t i = 0; i < points; ++i) {
                low = std::min(low, posed[(b * points + i) * 3 + a]);
                high = std::max(high, posed[(b * points + i) * 3 + a]);
            }
            boxes[6 * b + a] = low - radius;
            boxes[6 * b + 3 + a] = high + radius;
        }
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> build_seeds(
    const at::Tensor& posed, const at::Tensor& canonical, int64_t resolution, double radius, int64_t max_seeds) {
    const int64_t frames = posed.size(0), points = posed.size(1), n = resolution, cells = n * n * n;
    TORCH_CHECK(max_seeds <= gs_ir::kMaxSeeds, "build_seeds: max_seeds <= ", gs_ir::kMaxSeeds, " expected");
    at::Tensor seeds = at::empty({frames, n, n, n, max_seeds, 3}, posed.options());
    at::Tensor counts = at::empty({frames, n, n, n}, posed.options().dtype(at::kByte));
    at::Tensor boxes = at::empty({frames, 2, 3}, posed.options());
    AT_DISPATCH_FLOATING_TYPES(posed.scalar_type(), "build_seeds", [&] {
        using T = scalar_t;
        const T* p = posed.const_data_ptr<T>();
        T* box = boxes.mutable_data_ptr<T>();
        T* s = seeds.mutable_data_ptr<T>();
        uint8_t* c = counts.mutable_data_ptr<uint8_t>();
        bounding_boxes(p, frames, points, T(radius), box);
        const int64_t layers = (n + kBlock - 1) / kBlock;
        at::parallel_for(0, frames * layers, 1, [&](int64_t begin, int64_t end) {
            std::vector<CandidateList<T>> lists(layers * layers);
            for (int64_t task = begin; task < end; ++task) {
                const int64_t b = task / layers;
                const SeedFrame<T> frame{
                    p + b * points * 3, canonical.const_data_ptr<T>(), points, n,
                    gs_ir::make_seed_cells(box + 6 * b, n, T(radius), int(max_seeds)),
                    s + b * cells * max_seeds * 3, c + b * cells};
                fill_layer(frame, task % layers, lists);
            }
        });
    });
    return {seeds, counts, boxes};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> find_correspondences(
    const at::Tensor& points, const at::Tensor& frame_index, at::TensorList grid, const at::Tensor& volume,
    const at::Tensor& box, int64_t iterations, double tolerance) {
    const at::Tensor &seeds = grid[0], &counts = grid[1], &boxes = grid[2];
    const int64_t count = points.size(0), frames = volume.size(0), slots = seeds.size(4);
    const int64_t* resolution = counts.sizes().data() + 1;
    const int64_t cells = resolution[0] * resolution[1] * resolution[2];
    at::Tensor canonical = at::empty({count, slots, 3}, points.options());
    at::Tensor valid = at::empty({count, slots}, points.options().dtype(at::kBool));
    at::Tensor jacobian = at::empty({count, slots, 3, 3}, points.options());
    const int64_t* frame_of = frame_index.const_data_ptr<int64_t>();
    const uint8_t* seed_count = counts.const_data_ptr<uint8_t>();
    bool* v = valid.mutable_data_ptr<bool>();
    AT_DISPATCH_FLOATING_TYPES(points.scalar_type(), "find_correspondences", [&] {
        using T = scalar_t;
        const auto lattice = gs_ir::make_lattice(box.const_data_ptr<T>(), volume.sizes().data() + 1);
        const auto settings = gs_ir::make_search_settings(lattice, int(iterations), T(tolerance));
        const T *p = points.const_data_ptr<T>(), *s = seeds.const_data_ptr<T>(), *b = boxes.const_data_ptr<T>();
        const T* transforms = volume.const_data_ptr<T>();
        T *c = canonical.mutable_data_ptr<T>(), *j = jacobian.mutable_data_ptr<T>();
        at::parallel_for(0, count, kPointsPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                const int64_t f = frame_of[i];
                TORCH_CHECK_INDEX(f >= 0 && f < frames, "frame_index ", f, " outside [0, ", frames, ")");
                const int64_t local = gs_ir::seed_cell(b + 6 * f, resolution, p + 3 * i);
                const int64_t cell = local < 0 ? 0 : f * cells + local;
                gs_ir::find_roots(
                    transforms + f * lattice.size() * gs_ir::kTransformSize, lattice, p + 3 * i, settings,
                    s + cell * slots * 3, local < 0 ? 0 : int(seed_count[cell]), int(slots), c + i * slots * 3,
                    v + i * slots, j + i * slots * 9);
            }
        });
    });
    return {canonical, valid, jacobian};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("build_seeds", build_seeds);
    m.impl("find_correspondences", find_correspondences);
}
