// CPU loop of gs_ir/mesh_parts.h.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <limits>
#include <numeric>

#include "gs_ir/mesh_parts.h"

namespace {

at::Tensor mesh_parts(const at::Tensor& faces, int64_t vertices) {
    TORCH_CHECK(vertices <= std::numeric_limits<int32_t>::max(), "mesh_parts: too many vertices: ", vertices);
    at::Tensor parts = at::empty({vertices}, faces.options().dtype(at::kInt));
    int32_t* parent = parts.mutable_data_ptr<int32_t>();
    const int64_t* face = faces.const_data_ptr<int64_t>();
    std::iota(parent, parent + vertices, 0);
    const auto claim = [parent](int32_t root, int32_t above) { return parent[root] = above, true; };
    for (int64_t i = 0; i < faces.numel(); ++i) {
        TORCH_CHECK_INDEX(face[i] >= 0 && face[i] < vertices, "mesh_parts: no vertex ", face[i]);
        if (i % 3 != 0) gs_ir::join_parts(parent, int32_t(face[i - 1]), int32_t(face[i]), claim);
    }
    for (int64_t i = 0; i < vertices; ++i) parent[i] = gs_ir::find_root(parent, int32_t(i));
    return parts.to(at::kLong);
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) { m.impl("mesh_parts", mesh_parts); }
