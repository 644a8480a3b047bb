// CUDA loops of gs_ir/mesh_parts.h: one thread an edge of a triangle joins, one a vertex looks its root up. Nothing
// waits for the host, and the order of the joins does not show in the result.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <limits>

#include "cuda_launch.cuh"
#include "gs_ir/mesh_parts.h"

namespace {

at::Tensor mesh_parts(const at::Tensor& faces, int64_t vertices) {
    TORCH_CHECK(vertices <= std::numeric_limits<int32_t>::max(), "mesh_parts: too many vertices: ", vertices);
    const at::Tensor parents = at::empty({vertices}, faces.options().dtype(at::kInt));
    at::Tensor parts = at::empty({vertices}, faces.options());
    int32_t* parent = parents.mutable_data_ptr<int32_t>();
    int64_t* part = parts.mutable_data_ptr<int64_t>();
    const int64_t* face = faces.const_data_ptr<int64_t>();
    gs_ir::for_each(faces, vertices, [=] __device__(int64_t i) { parent[i] = int32_t(i); });
    gs_ir::for_each(faces, 2 * faces.size(0), [=] __device__(int64_t i) {
        const int64_t* corner = face + 3 * (i / 2) + i % 2;
        if (corner[0] < 0 || corner[0] >= vertices || corner[1] < 0 || corner[1] >= vertices) return;
        const auto claim = [parent](int32_t root, int32_t above) {
            return atomicCAS(parent + root, root, above) == root;
        };
        // Others write meanwhile: volatile, so that a loop does not wait on what it once read.
        gs_ir::join_parts<volatile int32_t*>(parent, int32_t(corner[0]), int32_t(corner[1]), claim);
    });
    gs_ir::for_each(faces, vertices, [=] __device__(int64_t i) {
        int32_t root = int32_t(i);
        while (parent[root] != root) root = parent[root];
        part[i] = root;
    });
    return parts;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) { m.impl("mesh_parts", mesh_parts); }
