// CPU loops of gs_ir/marching_cubes.h: classify, sum up, emit.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

#include "gs_ir/marching_cubes.h"

namespace {

constexpr gs_ir::CubeTable kTable = gs_ir::make_cube_table();
constexpr int64_t kNodesPerTask = 1 << 15;

struct First {
    int32_t vertex, triangle;
};

// First vertex and triangle of every node, and the totals behind them.
std::vector<First> running_sums(const std::vector<uint8_t>& codes) {
    std::vector<First> first(codes.size() + 1);
    First sum{0, 0};
    for (size_t i = 0; i < codes.size(); ++i) {
        first[i] = sum;
        sum.vertex += gs_ir::crossed_edges(codes[i]);
        sum.triangle += gs_ir::cell_triangles(codes[i]);
    }
    first.back() = sum;
    return first;
}

std::tuple<at::Tensor, at::Tensor> marching_cubes(const at::Tensor& values) {
    const int64_t count = values.numel();
    TORCH_CHECK(count < int64_t(1) << 28, "marching_cubes: too many values: ", count);
    at::Tensor vertices, faces;
    AT_DISPATCH_FLOATING_TYPES(values.scalar_type(), "marching_cubes", [&] {
        const gs_ir::FieldLattice<scalar_t> lattice{
            values.const_data_ptr<scalar_t>(), {values.size(2), values.size(1), values.size(0)}};
        std::vector<uint8_t> codes(count);
        at::parallel_for(0, count, kNodesPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) codes[i] = gs_ir::node_code(lattice, kTable, i);
        });
        const std::vector<First> first = running_sums(codes);
        vertices = at::empty({first.back().vertex, 3}, values.options());
        faces = at::empty({first.back().triangle, 3}, values.options().dtype(at::kLong));
        auto* v = vertices.mutable_data_ptr<scalar_t>();
        int64_t* f = faces.mutable_data_ptr<int64_t>();
        const auto first_vertex = [&](int64_t node) { return int64_t(first[node].vertex); };
        at::parallel_for(0, count, kNodesPerTask, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                gs_ir::emit_vertices(lattice, codes[i], i, v + 3 * int64_t(first[i].vertex));
                if (gs_ir::cell_triangles(codes[i]) == 0) continue;
                gs_ir::emit_triangles(
                    lattice, kTable, codes.data(), i, first_vertex, f + 3 * int64_t(first[i].triangle));
            }
        });
    });
    return {vertices, faces};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) { m.impl("marching_cubes", marching_cubes); }
