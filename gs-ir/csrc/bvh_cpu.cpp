// CPU loops of gs_ir/bvh.h and gs_ir/bvh_refit.h: queries and refitting. The builder is bvh_build_cpu.cpp.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <cmath>

#include "gs_ir/bvh_refit.h"

namespace {

constexpr int64_t kRaysPerTask = 256;
constexpr int64_t kNodesPerTask = 1024;  // about 60 us; less is not worth waking a thread

// The operators' tree argument: vertices, faces, node_boxes, node_children, block_vertices, block_faces
template <typename T>
gs_ir::BvhView<T> view_of(at::TensorList bvh) {
    TORCH_CHECK(
        bvh.size() == 6 && bvh[2].size(2) == gs_ir::kBvhWidth && bvh[4].size(2) == gs_ir::kBvhBlock,
        "a tree of width ", gs_ir::kBvhWidth, " and blocks of ", gs_ir::kBvhBlock, " expected");
    return {bvh[2].const_data_ptr<T>(), bvh[3].const_data_ptr<int32_t>(), bvh[4].const_data_ptr<T>(),
            bvh[5].const_data_ptr<int32_t>()};
}

at::Tensor any_hit(
    at::TensorList bvh, const at::Tensor& origins, const at::Tensor& directions, double t_min, double t_max) {
    at::Tensor out = at::empty({origins.size(0)}, origins.options().dtype(at::kBool));
    bool* hit = out.mutable_data_ptr<bool>();
    AT_DISPATCH_FLOATING_TYPES(origins.scalar_type(), "any_hit", [&] {
        const auto tree = view_of<scalar_t>(bvh);
        const auto* o = origins.const_data_ptr<scalar_t>();
        const auto* d = directions.const_data_ptr<scalar_t>();
        at::parallel_for(0, origins.size(0), kRaysPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r)
                hit[r] = gs_ir::any_hit(tree, o + 3 * r, d + 3 * r, scalar_t(t_min), scalar_t(t_max));
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
        at::parallel_for(0, out.numel(), kRaysPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t r = begin; r < end; ++r)
                hit[r] = gs_ir::any_hit(tree, o + 3 * (r / fan), d + 3 * (r % fan), scalar_t(t_min), scalar_t(t_max));
        });
    });
    return out;
}

using HitTensors = std::tuple<at::Tensor, at::Tensor, at::Tensor>;  // t, face, barycentric

HitTensors empty_hits(int64_t count, const at::TensorOptions& options) {
    return {at::empty({count}, options), at::empty({count}, options.dtype(at::kLong)), at::empty({count, 2}, options)};
}

// Calls query(i) -> BvhHit for every i and spreads the answers over the tensors.
template <typename T, typename Query>
void run_queries(const HitTensors& out, const Query& query) {
    T* t = std::get<0>(out).mutable_data_ptr<T>();
    int64_t* face = std::get<1>(out).mutable_data_ptr<int64_t>();
    T* barycentric = std::get<2>(out).mutable_data_ptr<T>();
    at::parallel_for(0, std::get<0>(out).size(0), kRaysPerTask, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const gs_ir::BvhHit<T> hit = query(i);
            t[i] = hit.t;
            face[i] = hit.face;
            barycentric[2 * i] = hit.weight1;
            barycentric[2 * i + 1] = hit.weight2;
        }
    });
}

HitTensors closest_hit(
    at::TensorList bvh, const at::Tensor& origins, const at::Tensor& directions, double t_min, double t_max) {
    HitTensors out = empty_hits(origins.size(0), origins.options());
    AT_DISPATCH_FLOATING_TYPES(origins.scalar_type(), "closest_hit", [&] {
        const auto tree = view_of<scalar_t>(bvh);
        const auto* o = origins.const_data_ptr<scalar_t>();
        const auto* d = directions.const_data_ptr<scalar_t>();
        run_queries<scalar_t>(out, [&](int64_t r) {
            return gs_ir::closest_hit(tree, o + 3 * r, d + 3 * r, scalar_t(t_min), scalar_t(t_max));
        });
    });
    return out;
}

HitTensors closest_point(at::TensorList bvh, const at::Tensor& points) {
    HitTensors out = empty_hits(points.size(0), points.options());
    AT_DISPATCH_FLOATING_TYPES(points.scalar_type(), "closest_point", [&] {
        const auto tree = view_of<scalar_t>(bvh);
        const auto* p = points.const_data_ptr<scalar_t>();
        run_queries<scalar_t>(out, [&](int64_t i) {
            gs_ir::BvhHit<scalar_t> nearest = gs_ir::closest_point(tree, p + 3 * i);
            nearest.t = std::sqrt(nearest.t);
            return nearest;
        });
    });
    return out;
}

std::tuple<at::Tensor, at::Tensor> refit_bvh(
    const at::Tensor& vertices, const at::Tensor& faces, const at::Tensor& node_children,
    const at::Tensor& block_faces, at::IntArrayRef level_offsets) {
    const int64_t nodes = node_children.size(0), blocks = block_faces.size(0);
    at::Tensor node_boxes = at::empty({nodes, 6, gs_ir::kBvhWidth}, vertices.options());
    at::Tensor block_vertices = at::empty({blocks, 9, gs_ir::kBvhBlock}, vertices.options());
    AT_DISPATCH_FLOATING_TYPES(vertices.scalar_type(), "refit_bvh", [&] {
        const auto* v = vertices.const_data_ptr<scalar_t>();
        const int64_t* f = faces.const_data_ptr<int64_t>();
        const int32_t* slots = block_faces.const_data_ptr<int32_t>();
        auto* boxes = node_boxes.mutable_data_ptr<scalar_t>();
        auto* corners = block_vertices.mutable_data_ptr<scalar_t>();
        const gs_ir::BvhView<scalar_t> tree{boxes, node_children.const_data_ptr<int32_t>(), corners, slots};
        at::parallel_for(0, blocks, kNodesPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t b = begin; b < end; ++b)
                for (int lane = 0; lane < gs_ir::kBvhBlock; ++lane)
                    gs_ir::refit_slot(
                        v, f, slots[b * gs_ir::kBvhBlock + lane], lane, corners + b * 9 * gs_ir::kBvhBlock);
        });
        const auto refit_nodes = [&](int64_t begin, int64_t end) {
            for (int64_t node = begin; node < end; ++node)
                for (int lane = 0; lane < gs_ir::kBvhWidth; ++lane)
                    for (int k = 0; k < 3; ++k)
                        gs_ir::refit_extent(tree, node, lane, k, boxes + node * 6 * gs_ir::kBvhWidth);
        };
        for (int64_t level = int64_t(level_offsets.size()) - 2; level >= 0; --level)
            at::parallel_for(level_offsets[level], level_offsets[level + 1], kNodesPerTask, refit_nodes);
    });
    return {node_boxes, block_vertices};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) {
    m.impl("any_hit", any_hit);
    m.impl("any_hit_fan", any_hit_fan);
    m.impl("closest_hit", closest_hit);
    m.impl("closest_point", closest_point);
    m.impl("refit_bvh", refit_bvh);
}
