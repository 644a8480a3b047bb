// Topology of the tree of gs_ir/bvh.h (refitting adds the boxes): binned surface-area heuristic (Wald 2007), eight
// children a node by opening the largest child (Wald, Benthin and Boulos 2008).
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "gs_ir/bvh.h"

namespace {

constexpr int kBins = 16;
constexpr int64_t kTrianglesPerTask = 4096;

template <typename T>
struct Box {
    std::array<T, 3> low, high;

    Box() {
        low.fill(std::numeric_limits<T>::infinity());
        high.fill(-std::numeric_limits<T>::infinity());
    }
    void include(const std::array<T, 3>& from, const std::array<T, 3>& to) {
        for (int a = 0; a < 3; ++a) {
            low[a] = std::min(low[a], from[a]);  // std::min keeps its first argument against NaN
            high[a] = std::max(high[a], to[a]);
        }
    }
    void include(const Box& other) { include(other.low, other.high); }
    T half_area() const {
        const T x = high[0] - low[0], y = high[1] - low[1], z = high[2] - low[2];
        return x >= T(0) ? x * y + y * z + z * x : T(0);
    }
};

template <typename T>
struct Triangle {
    Box<T> box;
    std::array<T, 3> centre;
    int32_t face;
};

// A run of triangles that will be one child.
template <typename T>
struct Range {
    int64_t begin, end;
    Box<T> box;
    int64_t count() const { return end - begin; }
};

struct Node {
    std::array<int32_t, gs_ir::kBvhWidth> children;
    int level;
};

int64_t blocks_for(int64_t triangles) { return (triangles + gs_ir::kBvhBlock - 1) / gs_ir::kBvhBlock; }

// Triangles that a subtree of `levels` levels of nodes can hold.
int64_t capacity(int levels) {
    int64_t triangles = gs_ir::kBvhBlock;
    for (int i = 0; i < levels; ++i) triangles *= gs_ir::kBvhWidth;
    return triangles;
}

template <typename T>
class Builder {
public:
    Builder(const T* vertices, const int64_t* faces, int64_t count) : triangles_(count) {
        at::parallel_for(0, count, kTrianglesPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t f = begin; f < end; ++f) triangles_[f] = read_triangle(vertices, faces, f);
        });
        Range<T> all{0, count, {}};
        for (const auto& triangle : triangles_) all.box.include(triangle.box);
        build_breadth_first(all);
    }

    std::vector<Node> nodes;
    std::vector<std::array<int32_t, gs_ir::kBvhBlock>> blocks;

private:
    static Triangle<T> read_triangle(const T* vertices, const int64_t* faces, int64_t f) {
        Triangle<T> triangle;
        triangle.face = int32_t(f);
        for (int corner = 0; corner < 3; ++corner) {
            const T* p = vertices + 3 * faces[3 * f + corner];
            triangle.box.include({p[0], p[1], p[2]}, {p[0], p[1], p[2]});
        }
        for (int a = 0; a < 3; ++a) triangle.centre[a] = T(0.5) * (triangle.box.low[a] + triangle.box.high[a]);
        return triangle;
    }

    // Breadth first, so that children lie behind their parents and a level is contiguous.
    void build_breadth_first(const Range<T>& all) {
        std::vector<Range<T>> waiting{all};
        nodes.push_back({{}, 0});
        for (size_t node = 0; node < nodes.size(); ++node) {
            nodes[node].children.fill(gs_ir::kBvhEmpty);
            const std::vector<Range<T>> parts = partition(waiting[node], gs_ir::kBvhDepth - 1 - nodes[node].level);
            for (size_t i = 0; i < parts.size(); ++i) {
                if (parts[i].count() <= gs_ir::kBvhBlock) {
                    nodes[node].children[i] = add_block(parts[i]);
                } else {
                    nodes[node].children[i] = int32_t(nodes.size());
                    nodes.push_back({{}, nodes[node].level + 1});
                    waiting.push_back(parts[i]);
                }
            }
        }
    }

    int32_t add_block(const Range<T>& range) {
        blocks.emplace_back();
        blocks.back().fill(-1);
        for (int64_t i = range.begin; i < range.end; ++i) blocks.back()[i - range.begin] = triangles_[i].face;
        return -int32_t(blocks.size());
    }

    // Up to eight children of a node with `levels_below` levels left below it. While every outcome fits those levels
    // the heuristic decides; otherwise equal halves, three times.
    std::vector<Range<T>> partition(const Range<T>& range, int levels_below) {
        std::vector<Range<T>> parts{range};
        const bool free_choice = range.count() <= capacity(levels_below);
        while (parts.size() < gs_ir::kBvhWidth) {
            size_t chosen = parts.size();
            T most = T(-1);
            for (size_t i = 0; i < parts.size(); ++i) {
                const T merit = free_choice ? parts[i].box.half_area() : T(parts[i].count());
                if (parts[i].count() > gs_ir::kBvhBlock && (merit > most || chosen == parts.size())) {
                    chosen = i;
                    most = merit;
                }
            }
            if (chosen == parts.size()) break;
            const Range<T> opened = parts[chosen];
            int64_t middle = free_choice ? split_by_area(opened) : opened.begin;
            if (middle == opened.begin || middle == opened.end) middle = split_in_half(opened);
            parts[chosen] = bounded(opened.begin, middle);
            parts.push_back(bounded(middle, opened.end));
        }
        return parts;
    }

    Range<T> bounded(int64_t begin, int64_t end) const {
        Range<T> range{begin, end, {}};
        for (int64_t i = begin; i < end; ++i) range.box.include(triangles_[i].box);
        return range;
    }

    Box<T> centre_box(const Range<T>& range) const {
        Box<T> box;
        for (int64_t i = range.begin; i < range.end; ++i) box.include(triangles_[i].centre, triangles_[i].centre);
        return box;
    }

    static int bin_of(T centre, T low, T scale) {
        const T bin = (centre - low) * scale;
        return bin >= T(kBins) ? kBins - 1 : bin > T(0) ? int(bin) : 0;  // NaN goes to 0
    }

    // Cheapest of the planes between bins, cost in blocks times area; returns the first triangle of the second half,
    // or an end of the range where no plane separates the centres.
    int64_t split_by_area(const Range<T>& range) {
        const Box<T> centres = centre_box(range);
        T best_cost = std::numeric_limits<T>::infinity();
        int best_axis = -1, best_plane = 0;
        for (int axis = 0; axis < 3; ++axis) {
            const T extent = centres.high[axis] - centres.low[axis];
            if (!(extent > T(0)) || !std::isfinite(extent)) continue;
            std::array<Box<T>, kBins> boxes;
            std::array<int64_t, kBins> counts{};
            for (int64_t i = range.begin; i < range.end; ++i) {
                const int bin = bin_of(triangles_[i].centre[axis], centres.low[axis], T(kBins) / extent);
                boxes[bin].include(triangles_[i].box);
                ++counts[bin];
            }
            const auto [cost, plane] = cheapest_plane(boxes, counts, range.count());
            if (cost < best_cost) {
                best_cost = cost;
                best_axis = axis;
                best_plane = plane;
            }
        }
        if (best_axis < 0) return range.begin;
        const T low = centres.low[best_axis], scale = T(kBins) / (centres.high[best_axis] - low);
        const auto middle = std::partition(
            triangles_.begin() + range.begin, triangles_.begin() + range.end,
            [&](const Triangle<T>& t) { return bin_of(t.centre[best_axis], low, scale) < best_plane; });
        return middle - triangles_.begin();
    }

    static std::pair<T, int> cheapest_plane(
        const std::array<Box<T>, kBins>& boxes, const std::array<int64_t, kBins>& counts, int64_t total) {
        std::array<T, kBins> left_cost;
        Box<T> box;
        int64_t count = 0;
        for (int plane = 1; plane < kBins; ++plane) {
            box.include(boxes[plane - 1]);
            count += counts[plane - 1];
            left_cost[plane] = box.half_area() * T(blocks_for(count));
        }
        std::pair<T, int> best{std::numeric_limits<T>::infinity(), 0};
        box = Box<T>();
        for (int plane = kBins - 1; plane > 0; --plane) {
            box.include(boxes[plane]);
            count = 0;
            for (int b = plane; b < kBins; ++b) count += counts[b];
            if (count == 0 || count == total) continue;
            const T cost = left_cost[plane] + box.half_area() * T(blocks_for(count));
            if (cost < best.first) best = {cost, plane};
        }
        return best;
    }

    int64_t split_in_half(const Range<T>& range) {
        const Box<T> centres = centre_box(range);
        int axis = 0;
        for (int a = 1; a < 3; ++a)
            if (centres.high[a] - centres.low[a] > centres.high[axis] - centres.low[axis]) axis = a;
        // whole blocks on the left, so that equal halves stay within the capacity of their levels
        const int64_t left = blocks_for(range.count()) / 2 * gs_ir::kBvhBlock;
        const auto key = [axis](const Triangle<T>& t) {
            return std::isnan(t.centre[axis]) ? std::numeric_limits<T>::infinity() : t.centre[axis];
        };
        std::nth_element(
            triangles_.begin() + range.begin, triangles_.begin() + range.begin + left, triangles_.begin() + range.end,
            [&](const Triangle<T>& a, const Triangle<T>& b) { return key(a) < key(b); });
        return range.begin + left;
    }

    std::vector<Triangle<T>> triangles_;
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> build_bvh(const at::Tensor& vertices, const at::Tensor& faces) {
    const int64_t count = faces.size(0);
    TORCH_CHECK(count <= capacity(gs_ir::kBvhDepth), "build_bvh: too many triangles: ", count);
    const int64_t* f = faces.const_data_ptr<int64_t>();
    for (int64_t i = 0; i < 3 * count; ++i)
        TORCH_CHECK_INDEX(f[i] >= 0 && f[i] < vertices.size(0), "build_bvh: no vertex ", f[i]);
    at::Tensor children, block_faces, offsets;
    AT_DISPATCH_FLOATING_TYPES(vertices.scalar_type(), "build_bvh", [&] {
        const Builder<scalar_t> builder(vertices.const_data_ptr<scalar_t>(), f, count);
        const int64_t nodes = int64_t(builder.nodes.size()), blocks = int64_t(builder.blocks.size());
        const int levels = builder.nodes.back().level + 1;
        children = at::empty({nodes, gs_ir::kBvhWidth}, faces.options().dtype(at::kInt));
        block_faces = at::empty({blocks, gs_ir::kBvhBlock}, children.options());
        offsets = at::empty({levels + 1}, faces.options());
        int64_t* first = offsets.mutable_data_ptr<int64_t>();
        int32_t* child = children.mutable_data_ptr<int32_t>();
        int32_t* face = block_faces.mutable_data_ptr<int32_t>();
        for (int64_t i = nodes - 1; i >= 0; --i) {
            const auto& node = builder.nodes[i];
            first[node.level] = i;
            std::copy(node.children.begin(), node.children.end(), child + i * gs_ir::kBvhWidth);
        }
        first[levels] = nodes;
        for (int64_t b = 0; b < blocks; ++b)
            std::copy(builder.blocks[b].begin(), builder.blocks[b].end(), face + b * gs_ir::kBvhBlock);
    });
    return {children, block_faces, offsets};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("build_bvh", build_bvh);
}
