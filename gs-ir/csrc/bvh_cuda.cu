// CUDA loops of gs_ir/bvh.h and gs_ir/bvh_refit.h: one thread a ray or point. Trees are built on the host.
#include <ATen/Dispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "cuda_launch.cuh"
#include "gs_ir/bvh_refit.h"

namespace {

constexpr int kThreads = 128;  // traversals end at different times: small blocks make room sooner
constexpr uintptr_t kAlignment = 16;

// The operators' tree argument: vertices, faces, node_boxes, node_children, block_vertices, block_faces
template <typename T>
gs_ir::BvhView<T> view_of(at::TensorList bvh) {
    TORCH_CHECK(
        bvh.size() == 6 && bvh[2].size(2) == gs_ir::kBvhWidth && bvh[4].size(2) == gs_ir::kBvhBlock,
        "a tree of width ", gs_ir::kBvhWidth, " and blocks of ", gs_ir::kBvhBlock, " expected");
    const gs_ir::BvhView<T> tree{
        bvh[2].const_data_ptr<T>(), bvh[3].const_data_ptr<int32_t>(), bvh[4].const_data_ptr<T>(),
        bvh[5].const_data_ptr<int32_t>()};
    const auto addresses = reinterpret_cast<uintptr_t>(tree.node_boxes) |
                           reinterpret_cast<uintptr_t>(tree.node_children) |
                           reinterpret_cast<uintptr_t>(tree.block_vertices);
    TORCH_CHECK(addresses % kAlignment == 0, "the tree's tensors must start at multiples of ", kAlignment, " bytes");
    return tree;
}

at::Tensor any_hit(
    at::TensorList bvh, const at::Tensor& origins, const at::Tensor& directions, double t_min, double t_max) {
    at::Tensor out = at::empty({origins.size(0)}, origins.options().dtype(at::kBool));
    bool* hit = out.mutable_data_ptr<bool>();
    AT_DISPATCH_FLOATING_TYPES(origins.scalar_type(), "any_hit", [&] {
        const auto tree = view_of<scalar_t>(bvh);
        const auto* o = origins.const_data_ptr<scalar_t>();
        const auto* d = directions.const_data_ptr<scalar_t>();
        const scalar_t near = scalar_t(t_min), far = scalar_t(t_max);
        gs_ir::for_each<kThreads>(origins, origins.size(0), [=] __device__(int64_t r) {
            hit[r] = gs_ir::any_hit(tree, o + 3 * r, d + 3 * r, near, far);
        });
    });
    return out;
}

at::Tensor any_hit_fan(
    at::TensorList bvh, const at::Tensor& origins, const at::Tensor& directions, double t_min, double t_max) {
    const int64_t fan = directions.size(0);
    at::Tensor out = at::empty({origins.size(0), fan}, origins.options().dtype(at::kBool));
    bool* hit = out.mutable_data_ptr<bool>();
    AT_DISPATCH_FLOATING_TYPES(origins.scalar_type(), "any_hit_fan", [&] {
        const auto tree = view_of<scalar_t>(bvh);
        const auto* o = origins.const_data_ptr<scalar_t>();
        const auto* d = directions.const_data_ptr<scalar_t>();
        const scalar_t near = scalar_t(t_min), far = scalar_t(t_max);
        gs_ir::for_each<kThreads>(origins, out.numel(), [=] __device__(int64_t r) {
            hit[r] = gs_ir::any_hit(tree, o + 3 * (r / fan), d + 3 * (r % fan), near, far);
        });
    });
    return out;
}

using HitTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor>;  // t, face, barycentric

HitTensors empty_hits(int64_t count, const at::TensorOptions& options) {
    return {at::empty({count}, options), at::empty({count}, options.dtype(at::kLong)), at::empty({count, 2}, options)};
}

template <typename T>
struct HitArrays {
    T* t;
    int64_t* face;
    T* barycentric;

    explicit HitArrays(const HitTensors& out)
        : t(std::get<0>(out).mutable_data_ptr<T>()),
          face(std::get<1>(out).mutable_data_ptr<int64_t>()),
          barycentric(std::get<2>(out).mutable_data_ptr<T>()) {}

    __device__ void store(int64_t i, const gs_ir::BvhHit<T>& hit, T distance) const {
        t[i] = distance;
        face[i] = hit.face;
        barycentric[2 * i] = hit.weight1;
        barycentric[2 * i + 1] = hit.weight2;
    }
};

HitTensors closest_hit(
    at::TensorList bvh, const at::Tensor& origins, const at::Tensor& directions, double t_min, double t_max) {
    HitTensors out = empty_hits(origins.size(0), origins.options());
    AT_DISPATCH_FLOATING_TYPES(origins.scalar_type(), "closest_hit", [&] {
        const auto tree = view_of<scalar_t>(bvh);
        const auto* o = origins.const_data_ptr<scalar_t>();
        const auto* d = directions.const_data_ptr<scalar_t>();
        const scalar_t near = scalar_t(t_min), far = scalar_t(t_max);
        const HitArrays<scalar_t> hits(out);
        gs_ir::for_each<kThreads>(origins, origins.size(0), [=] __device__(int64_t r) {
            const auto hit = gs_ir::closest_hit(tree, o + 3 * r, d + 3 * r, near, far);
            hits.store(r, hit, hit.t);
        });
    });
    return out;
}

HitTensors closest_point(at::TensorList bvh, const at::Tensor& points) {
    HitTensors out = empty_hits(points.size(0), points.options());
    AT_DISPATCH_FLOATING_TYPES(points.scalar_type(), "closest_point", [&] {
        const auto tree = view_of<scalar_t>(bvh);
        const auto* p = points.const_data_ptr<scalar_t>();
        const HitArrays<scalar_t> hits(out);
        gs_ir::for_each<kThreads>(points, points.size(0), [=] __device__(int64_t i) {
            const auto nearest = gs_ir::closest_point(tree, p + 3 * i);
            hits.store(i, nearest, std::sqrt(nearest.t));
        });
    });
    return out;
}

// One launch for the blocks and one a level, deepest first.
std::tuple<at::Tensor, at::Tensor> refit_bvh(
    const at::Tensor& vertices, const at::Tensor& faces, const at::Tensor& node_children,
    const at::Tensor& block_faces, at::IntArrayRef level_offsets) {
    constexpr int kWidth = gs_ir::kBvhWidth, kBlock = gs_ir::kBvhBlock;
    const int64_t nodes = node_children.size(0), blocks = block_faces.size(0);
    at::Tensor node_boxes = at::empty({nodes, 6, kWidth}, vertices.options());
    at::Tensor block_vertices = at::empty({blocks, 9, kBlock}, vertices.options());
    AT_DISPATCH_FLOATING_TYPES(vertices.scalar_type(), "refit_bvh", [&] {
        const auto* v = vertices.const_data_ptr<scalar_t>();
        const int64_t* f = faces.const_data_ptr<int64_t>();
        const int32_t* slots = block_faces.const_data_ptr<int32_t>();
        auto* boxes = node_boxes.mutable_data_ptr<scalar_t>();
        auto* corners = block_vertices.mutable_data_ptr<scalar_t>();
        const gs_ir::BvhView<scalar_t> tree{boxes, node_children.const_data_ptr<int32_t>(), corners, slots};
        gs_ir::for_each(vertices, blocks * kBlock, [=] __device__(int64_t i) {
            gs_ir::refit_slot(v, f, slots[i], int(i % kBlock), corners + i / kBlock * 9 * kBlock);
        });
        for (int64_t level = int64_t(level_offsets.size()) - 2; level >= 0; --level) {
            const int64_t first = level_offsets[level];
            gs_ir::for_each(vertices, (level_offsets[level + 1] - first) * 3 * kWidth, [=] __device__(int64_t i) {
                const int64_t node = first + i / (3 * kWidth);
                gs_ir::refit_extent(
                    tree, node, int(i % kWidth), int(i / kWidth % 3), boxes + node * 6 * kWidth);
            });
        }
    });
    return {node_boxes, block_vertices};
}

// The level offsets stay on the host, where refitting wants them.
std::tuple<at::Tensor, at::Tensor, at::Tensor> build_bvh(const at::Tensor& vertices, const at::Tensor& faces) {
    static const auto on_host = c10::Dispatcher::singleton()
                                    .findSchemaOrThrow("gs_ir::build_bvh", "")
                                    .typed<decltype(build_bvh)>();
    const auto [children, block_faces, offsets] = on_host.call(vertices.cpu(), faces.cpu());
    return {children.to(vertices.device()), block_faces.to(vertices.device()), offsets};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) {
    m.impl("build_bvh", build_bvh);
    m.impl("any_hit", any_hit);
    m.impl("any_hit_fan", any_hit_fan);
    m.impl("closest_hit", closest_hit);
    m.impl("closest_point", closest_point);
    m.impl("refit_bvh", refit_bvh);
}
