// Alignment and atomic additions of vectors, for kernels that use gs_ir/pack.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <type_traits>

#include "gs_ir/pack.h"

namespace gs_ir {

// `tensor`, or a copy of it where it is a view that begins between the addresses vectors of so many bytes are loaded from.
inline at::Tensor vector_aligned(const at::Tensor& tensor, int bytes = 16) {
    return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % bytes == 0 ? tensor : tensor.clone();
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

// Adds a to entry `i` and b to entry `j` of F numbers each: at once where the entries lie side by side and aligned.
template <int F, typename T>
__device__ void add_pack_pair(T* to, uint32_t i, uint32_t j, const T* a, const T* b) {
#if __CUDA_ARCH__ >= 900
    if constexpr (std::is_same_v<T, float> && F <= 2) {
        const bool ascending = i < j;
        T* first = to + int64_t(ascending ? i : j) * F;
        const bool aligned = reinterpret_cast<uintptr_t>(first) % (2 * F * sizeof(T)) == 0;
        if (aligned && (ascending ? j - i : i - j) == 1) {
            T both[2 * F];
#pragma unroll
            for (int f = 0; f < F; ++f) {
                both[f] = ascending ? a[f] : b[f];
                both[F + f] = ascending ? b[f] : a[f];
            }
            return add_pack<2 * F>(first, both);
        }
    }
#endif
    add_pack<F>(to + int64_t(i) * F, a);
    add_pack<F>(to + int64_t(j) * F, b);
}

}  // namespace gs_ir
