// Volumes of blended transforms as kernels see them.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/macros/Macros.h>

#include <array>

#include "gs_ir/skinning.h"

namespace gs_ir {

// Volumes of all frames and the frame of each point. The lattice is made on the device, where its box is.
template <typename T>
struct TransformVolumes {
    const T* box;
    std::array<int64_t, 3> shape;
    int64_t frames;
    const int64_t* frame_index;

    TransformVolumes(const at::Tensor& volume, const at::Tensor& box, const at::Tensor& frame_index)
        : box(box.const_data_ptr<T>()), shape{volume.size(1), volume.size(2), volume.size(3)}, frames(volume.size(0)),
          frame_index(frame_index.const_data_ptr<int64_t>()) {}

    __device__ Lattice<T> lattice() const { return make_lattice(box, shape.data()); }
    // First number of the point's volume.
    __device__ int64_t begin(int64_t point) const {
        const int64_t frame = frame_index[point];
        CUDA_KERNEL_ASSERT(frame >= 0 && frame < frames);
        return frame * shape[0] * shape[1] * shape[2] * kTransformSize;
    }
};

}  // namespace gs_ir
