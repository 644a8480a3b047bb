// Tile lists (see gs_ir/tiling.py): sort the surfels once by depth, then deal them out to tiles in that order.
#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

#include "gs_ir/tiling.h"

namespace {

using namespace gs_ir;

constexpr int kDigitBits = 11;

// Members of `indices` in order of depth, equal depths in order of index: a stable radix sort.
template <class T>
void sort_by_depth(const T* depths, std::vector<int32_t>& indices) {
    using Key = typename DepthKey<T>::Type;
    std::vector<std::pair<Key, int32_t>> items(indices.size()), other(indices.size());
    for (size_t i = 0; i < indices.size(); ++i) items[i] = {sortable(depths[indices[i]]), indices[i]};
    for (int shift = 0; shift < int(8 * sizeof(T)); shift += kDigitBits) {
        std::vector<size_t> place((size_t(1) << kDigitBits) + 1, 0);
        const Key mask = (Key(1) << kDigitBits) - 1;
        for (const auto& item : items) ++place[((item.first >> shift) & mask) + 1];
        for (size_t d = 1; d < place.size(); ++d) place[d] += place[d - 1];
        for (const auto& item : items) other[place[(item.first >> shift) & mask]++] = item;
        items.swap(other);
    }
    for (size_t i = 0; i < indices.size(); ++i) indices[i] = items[i].second;
}

template <class Function>
void for_each_tile_of_box(const int32_t* box, int64_t columns, Function visit) {
    const TileRange tiles = tile_range(box);
    for (int64_t row = tiles.y0; row < tiles.y1; ++row)
        for (int64_t column = tiles.x0; column < tiles.x1; ++column) visit(row * columns + column);
}

std::tuple<at::Tensor, at::Tensor> tile_surfels(
    const at::Tensor& boxes, const at::Tensor& depths, int64_t width, int64_t height, int64_t) {
    const int64_t count = boxes.size(0), columns = (width + kTile - 1) / kTile;
    const int64_t tiles = columns * ((height + kTile - 1) / kTile);
    const at::Tensor dense = boxes.contiguous(), sorted_by = depths.contiguous();
    const int32_t* box = dense.const_data_ptr<int32_t>();
    std::vector<int32_t> order;
    order.reserve(count);
    for (int32_t i = 0; i < count; ++i)
        if (tile_range(box + 4 * i).count() > 0) order.push_back(i);
    AT_DISPATCH_FLOATING_TYPES(
        depths.scalar_type(), "tile_surfels", [&] { sort_by_depth(sorted_by.const_data_ptr<scalar_t>(), order); });

    at::Tensor offsets = at::empty({tiles + 1}, boxes.options());
    int32_t* offset = offsets.mutable_data_ptr<int32_t>();
    std::fill(offset, offset + tiles + 1, 0);
    for (const int32_t i : order) for_each_tile_of_box(box + 4 * i, columns, [&](int64_t tile) { ++offset[tile + 1]; });
    for (int64_t t = 0; t < tiles; ++t) offset[t + 1] += offset[t];
    at::Tensor members = at::empty({offset[tiles]}, boxes.options());
    int32_t* member = members.mutable_data_ptr<int32_t>();
    std::vector<int32_t> next(offset, offset + tiles);
    for (const int32_t i : order)
        for_each_tile_of_box(box + 4 * i, columns, [&](int64_t tile) { member[next[tile]++] = i; });
    return {offsets, members};
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CPU, m) { m.impl("tile_surfels", tile_surfels); }
