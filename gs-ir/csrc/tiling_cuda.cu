// Tile lists of gs_ir/tiling.py on the GPU.
#include <ATen/Dispatch.h>
#include <torch/library.h>

#include "tile_lists.cuh"

namespace {

std::tuple<at::Tensor, at::Tensor> tile_surfels(
    const at::Tensor& boxes, const at::Tensor& depths, int64_t width, int64_t height, int64_t capacity) {
    gs_ir::TileLists lists;
    const at::Tensor dense = boxes.contiguous(), sorted_by = depths.contiguous();
    AT_DISPATCH_FLOATING_TYPES(depths.scalar_type(), "tile_surfels", [&] {
        lists = gs_ir::make_tile_lists(dense, sorted_by.const_data_ptr<scalar_t>(), width, height, capacity);
    });
    return {lists.offsets, lists.members};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) { m.impl("tile_surfels", tile_surfels); }
