// Alignment and atomic additions of vectors, for kernels that use gs_ir/pack.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <type_traits>

#include "gs_ir/pack.h"

namespace gs_ir {

// `tensor`, or a copy of it where it is a view that begins between the addresses vectors are loaded from.
inline at::Tensor vector_aligned(const at::Tensor& tensor) {
    return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0 ? tensor : tensor.clone();
}

// to[i] += values[i], one transaction for as many as the device adds at once; `to` aligned like Pack<T, N>.
template <int N, typename T>
__device__ void add_pack(T* to, const T* values) {
#if __CUDA_ARCH__ >= 900
    constexpr int kTogether = !std::is_same_v<T, float> ? 1 : N % 4 == 0 ? 4 : N % 2 == 0 ? 2 : 1;
#else
    constexpr int kTogether = 1 + 0 * N;
#endif
    for (int i = 0; i < N; i += kTogether) {
        const T* v = values + i;
        if constexpr (kTogether == 4)
            atomicAdd(reinterpret_cast<float4*>(to + i), make_float4(v[0], v[1], v[2], v[3]));
        else if constexpr (kTogether == 2)
            atomicAdd(reinterpret_cast<float2*>(to + i), make_float2(v[0], v[1]));
        else
            atomicAdd(to + i, v[0]);
    }
}

}  // namespace gs_ir
