// Launching kernels on PyTorch's current stream.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <cstdint>

namespace gs_ir {

constexpr int kBlock = 256;

inline int blocks_for(int64_t count, int block = kBlock) { return int((count + block - 1) / block); }

// Runs body(i) for i in [0, count), one thread each.
template <int kThreads, class Body>
__global__ void __launch_bounds__(kThreads) for_each_kernel(int64_t count, Body body) {
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
    if (i < count) body(i);
}

// One thread per item on the device of `like`; `body` is a __device__ lambda that captures by value.
template <int kThreads = kBlock, class Body>
void for_each(const at::Tensor& like, int64_t count, Body body) {
    if (count == 0) return;
    const c10::cuda::CUDAGuard guard(like.device());
    for_each_kernel<kThreads><<<blocks_for(count, kThreads), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(count, body);
    C10_CUDA_KERNEL_LAUNCH_CHECK();
}

}  // namespace gs_ir
