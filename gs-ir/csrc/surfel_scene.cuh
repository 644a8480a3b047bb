// The rasteriser's inputs prepared for the tile kernels.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "surfel_tiles.cuh"

namespace gs_ir {

constexpr int64_t kLargestSide = 32767;  // boxes are kept in 16 bits

// TileSurfel<T> [N] as bytes.
template <class T>
at::Tensor tile_records(const at::Tensor& transforms, const at::Tensor& opacities, const at::Tensor& boxes) {
    const int64_t count = transforms.size(0);
    const at::Tensor records = at::empty({count * int64_t(sizeof(TileSurfel<T>))}, boxes.options().dtype(at::kByte));
    auto* record = reinterpret_cast<TileSurfel<T>*>(records.mutable_data_ptr());
    const T *transform = transforms.const_data_ptr<T>(), *opacity = opacities.const_data_ptr<T>();
    const int32_t* box = boxes.const_data_ptr<int32_t>();
    for_each(transforms, count, [=] __device__(int64_t i) {
        // tiles do not list surfels without a box, whose transforms cannot be inverted
        if (box[4 * i + 2] > box[4 * i])
            record[i] = tile_surfel(load_transform(transform + 9 * i), opacity[i], box + 4 * i);
    });
    return records;
}

template <class T>
TileScene<T> tile_scene(
    const at::Tensor& records, const at::Tensor& values, const at::Tensor& offsets, const at::Tensor& members,
    int64_t width, int64_t height) {
    TORCH_CHECK(
        width <= kLargestSide && height <= kLargestSide, "rasterize_surfels: sides of at most ", kLargestSide,
        " pixels expected, found ", width, " x ", height);
    return {static_cast<const TileSurfel<T>*>(records.const_data_ptr()),
            values.const_data_ptr<T>(),
            offsets.const_data_ptr<int32_t>(),
            members.const_data_ptr<int32_t>(),
            int32_t(values.size(1)),
            int32_t(width),
            int32_t(height)};
}

}  // namespace gs_ir
