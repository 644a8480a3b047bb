// Tile lists on the device: sort the surfels by depth, deal them out in that order, sort stably by tile.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <cub/cub.cuh>

#include "cuda_launch.cuh"
#include "gs_ir/tiling.h"

namespace gs_ir {

struct TileLists {
    at::Tensor offsets, members;  // [tiles + 1], [instances or capacity] int32
};

inline at::Tensor integers(const at::Tensor& like, int64_t count) {
    return at::empty({count}, like.options().dtype(at::kInt));
}

// Calls a CUB function twice: for the size of its workspace, and with it.
template <class Call>
void with_workspace(const at::Tensor& like, Call call) {
    size_t bytes = 0;
    C10_CUDA_CHECK(call(static_cast<void*>(nullptr), bytes));
    const at::Tensor workspace = at::empty({int64_t(bytes)}, like.options().dtype(at::kByte));
    C10_CUDA_CHECK(call(workspace.mutable_data_ptr(), bytes));
}

inline int bits_of(uint32_t largest) {
    int bits = 1;
    while (bits < 32 && largest >> bits) ++bits;
    return bits;
}

// Surfels by (depth, index), those without tiles last: [count] int32.
template <class T>
at::Tensor depth_order(const at::Tensor& boxes, const T* depths, cudaStream_t stream) {
    using Key = typename DepthKey<T>::Type;
    const int64_t count = boxes.size(0);
    const auto bytes = boxes.options().dtype(at::kByte);
    const at::Tensor keys = at::empty({2, count * int64_t(sizeof(Key))}, bytes);
    const at::Tensor indices = integers(boxes, count), order = integers(boxes, count);
    Key* key = reinterpret_cast<Key*>(keys.mutable_data_ptr());
    int32_t* index = indices.mutable_data_ptr<int32_t>();
    const int32_t* box = boxes.const_data_ptr<int32_t>();
    for_each(boxes, count, [=] __device__(int64_t i) {
        key[i] = tile_range(box + 4 * i).count() > 0 ? sortable(depths[i]) : ~Key(0);
        index[i] = int32_t(i);
    });
    with_workspace(boxes, [&](void* workspace, size_t& size) {
        return cub::DeviceRadixSort::SortPairs(
            workspace, size, key, key + count, index, order.mutable_data_ptr<int32_t>(), int(count), 0,
            int(8 * sizeof(Key)), stream);
    });
    return order;
}

// Where each surfel of `order` begins among the instances; one more entry for their number.
inline at::Tensor first_instances(const at::Tensor& boxes, const at::Tensor& order, cudaStream_t stream) {
    const int64_t count = boxes.size(0);
    const at::Tensor counts = integers(boxes, count + 1), first = integers(boxes, count + 1);
    int32_t* tiles = counts.mutable_data_ptr<int32_t>();
    const int32_t *box = boxes.const_data_ptr<int32_t>(), *surfel = order.const_data_ptr<int32_t>();
    for_each(boxes, count + 1, [=] __device__(int64_t i) {
        tiles[i] = i < count ? int32_t(tile_range(box + 4 * int64_t(surfel[i])).count()) : 0;
    });
    with_workspace(boxes, [&](void* workspace, size_t& size) {
        return cub::DeviceScan::ExclusiveSum(
            workspace, size, tiles, first.mutable_data_ptr<int32_t>(), int(count + 1), stream);
    });
    return first;
}

// Lists of `boxes` [N, 4] int32 sorted by `depths` [N]. With `capacity` 0 the host waits for the number of instances.
template <class T>
TileLists make_tile_lists(const at::Tensor& boxes, const T* depths, int64_t width, int64_t height, int64_t capacity) {
    const c10::cuda::CUDAGuard guard(boxes.device());
    const cudaStream_t stream = c10::cuda::getCurrentCUDAStream();
    const int64_t count = boxes.size(0), columns = (width + kTile - 1) / kTile;
    const int64_t tiles = columns * ((height + kTile - 1) / kTile);
    const at::Tensor offsets = integers(boxes, tiles + 1);
    const at::Tensor order = depth_order(boxes, depths, stream);
    const at::Tensor starts = first_instances(boxes, order, stream);
    const int32_t *first = starts.const_data_ptr<int32_t>(), *surfel = order.const_data_ptr<int32_t>(),
                  *box = boxes.const_data_ptr<int32_t>();
    if (capacity == 0) {
        int32_t instances = 0;
        C10_CUDA_CHECK(cudaMemcpyAsync(&instances, first + count, sizeof instances, cudaMemcpyDeviceToHost, stream));
        C10_CUDA_CHECK(cudaStreamSynchronize(stream));
        capacity = instances;
    }
    const at::Tensor keys = at::empty({2, capacity}, boxes.options()), unsorted = integers(boxes, capacity),
                     members = integers(boxes, capacity);
    uint32_t* key = reinterpret_cast<uint32_t*>(keys.mutable_data_ptr<int32_t>());
    int32_t* member = unsorted.mutable_data_ptr<int32_t>();
    // All ones lie behind every tile's number.
    if (capacity > 0) C10_CUDA_CHECK(cudaMemsetAsync(key, 0xff, capacity * sizeof *key, stream));
    for_each(boxes, count, [=] __device__(int64_t i) {
        const int32_t s = surfel[i];
        const TileRange range = tile_range(box + 4 * int64_t(s));
        int64_t at = first[i];
        for (int32_t y = range.y0; y < range.y1; ++y)
            for (int32_t x = range.x0; x < range.x1 && at < capacity; ++x, ++at) {
                key[at] = uint32_t(y * columns + x);
                member[at] = s;
            }
    });
    with_workspace(boxes, [&](void* workspace, size_t& size) {
        return cub::DeviceRadixSort::SortPairs(
            workspace, size, key, key + capacity, member, members.mutable_data_ptr<int32_t>(), int(capacity), 0,
            bits_of(uint32_t(tiles)), stream);
    });
    const uint32_t *sorted = key + capacity, mask = (bits_of(uint32_t(tiles)) == 32 ? 0u : 1u << bits_of(uint32_t(tiles))) - 1;
    int32_t* offset = offsets.mutable_data_ptr<int32_t>();
    for_each(boxes, tiles + 1, [=] __device__(int64_t tile) {
        int64_t low = 0, high = capacity;
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if ((sorted[middle] & mask) < uint32_t(tile))
                low = middle + 1;
            else
                high = middle;
        }
        offset[tile] = int32_t(low);
    });
    return {offsets, members};
}

}  // namespace gs_ir
