// Rows of a structure of arrays: read in place on a CPU, whose compiler turns loops over them into vector
// instructions, and fetched by 16-byte loads into registers on a GPU.
#pragma once

#include "gs_ir/common.h"

namespace gs_ir {

#if defined(__CUDA_ARCH__)

template <typename T, int N>
struct Row {
    T values[N];
    __device__ __forceinline__ T operator[](int i) const { return values[i]; }
};

// N numbers from an address that is a multiple of 16 bytes.
template <int N, typename T>
__device__ __forceinline__ Row<T, N> row(const T* p) {
    constexpr int per_load = 16 / sizeof(T);
    static_assert(N % per_load == 0, "a row is a whole number of 16-byte loads");
    Row<T, N> out;
#pragma unroll
    for (int i = 0; i < N; i += per_load) {
        const int4 bits = __ldg(reinterpret_cast<const int4*>(p + i));
        T part[per_load];
        static_assert(sizeof(part) == sizeof(bits));
        memcpy(part, &bits, sizeof(bits));
#pragma unroll
        for (int j = 0; j < per_load; ++j) out.values[i + j] = part[j];
    }
    return out;
}

#else

template <int N, typename T>
GS_IR_HD const T* row(const T* p) { return p; }

#endif

// minimum() and maximum() for chains of limits, the last of them a number: a NaN drops limits and never adds one, which
// ones is left open. One instruction on a GPU.
template <typename T>
GS_IR_HD T lesser(T a, T b) {
#if defined(__CUDA_ARCH__)
    return fmin(a, b);
#else
    return minimum(a, b);
#endif
}
template <typename T>
GS_IR_HD T greater(T a, T b) {
#if defined(__CUDA_ARCH__)
    return fmax(a, b);
#else
    return maximum(a, b);
#endif
}

}  // namespace gs_ir
