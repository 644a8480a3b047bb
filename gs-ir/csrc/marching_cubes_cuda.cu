// CUDA loops of gs_ir/marching_cubes.h: one thread a node classifies, a scan numbers, one thread a node emits.
// The host waits once, for the sizes of the mesh. The order is that of the nodes, so results are deterministic.
#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <thrust/iterator/transform_iterator.h>
#include <torch/library.h>

#include <cub/cub.cuh>

#include "cuda_launch.cuh"
#include "gs_ir/marching_cubes.h"

namespace {

// Threads of a warp read different rows: global memory, not the constant bank that would serve them one by one.
__device__ const gs_ir::CubeTable kTable = gs_ir::make_cube_table();

// Vertices in the upper, triangles in the lower half of one sum.
struct Counts {
    __host__ __device__ uint64_t operator()(uint8_t code) const {
        return uint64_t(gs_ir::crossed_edges(code)) << 32 | uint64_t(gs_ir::cell_triangles(code));
    }
};

// Sums up to each node, itself excluded, and the totals behind them: [count + 1].
at::Tensor running_sums(const at::Tensor& codes, int64_t count, cudaStream_t stream) {
    const at::Tensor sums = at::empty({count + 1}, codes.options().dtype(at::kLong));
    auto* out = reinterpret_cast<uint64_t*>(sums.mutable_data_ptr<int64_t>());
    const auto in = thrust::make_transform_iterator(codes.const_data_ptr<uint8_t>(), Counts());
    size_t bytes = 0;
    C10_CUDA_CHECK(cub::DeviceScan::ExclusiveSum(nullptr, bytes, in, out, int(count + 1), stream));
    const at::Tensor workspace = at::empty({int64_t(bytes)}, codes.options());
    C10_CUDA_CHECK(
        cub::DeviceScan::ExclusiveSum(workspace.mutable_data_ptr(), bytes, in, out, int(count + 1), stream));
    return sums;
}

std::tuple<at::Tensor, at::Tensor> marching_cubes(const at::Tensor& values) {
    const int64_t count = values.numel();
    TORCH_CHECK(count < int64_t(1) << 28, "marching_cubes: too many values: ", count);
    const c10::cuda::CUDAGuard guard(values.device());
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
    const at::Tensor codes = at::empty({count + 1}, values.options().dtype(at::kByte));
    at::Tensor vertices, faces;
    AT_DISPATCH_FLOATING_TYPES(values.scalar_type(), "marching_cubes", [&] {
        const gs_ir::FieldLattice<scalar_t> lattice{
            values.const_data_ptr<scalar_t>(), {values.size(2), values.size(1), values.size(0)}};
        uint8_t* code = codes.mutable_data_ptr<uint8_t>();
        gs_ir::for_each(values, count + 1, [=] __device__(int64_t i) {
            code[i] = i < count ? gs_ir::node_code(lattice, kTable, i) : uint8_t(0);
        });
        const at::Tensor sums = running_sums(codes, count, stream);
        const auto* first = reinterpret_cast<const uint64_t*>(sums.const_data_ptr<int64_t>());
        uint64_t total = 0;
        C10_CUDA_CHECK(cudaMemcpyAsync(&total, first + count, sizeof total, cudaMemcpyDeviceToHost, stream));
        C10_CUDA_CHECK(cudaStreamSynchronize(stream));
        vertices = at::empty({int64_t(total >> 32), 3}, values.options());
        faces = at::empty({int64_t(total & 0xffffffffu), 3}, values.options().dtype(at::kLong));
        auto* v = vertices.mutable_data_ptr<scalar_t>();
        int64_t* f = faces.mutable_data_ptr<int64_t>();
        gs_ir::for_each(values, count, [=] __device__(int64_t i) {
            if (code[i] == 0) return;
            const auto first_vertex = [=](int64_t node) { return int64_t(first[node] >> 32); };
            gs_ir::emit_vertices(lattice, code[i], i, v + 3 * first_vertex(i));
            if (gs_ir::cell_triangles(code[i]) == 0) return;
            gs_ir::emit_triangles(
                lattice, kTable, code, i, first_vertex, f + 3 * int64_t(first[i] & 0xffffffffu));
        });
    });
    return {vertices, faces};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) { m.impl("marching_cubes", marching_cubes); }
