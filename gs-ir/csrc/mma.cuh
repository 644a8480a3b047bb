// The tensor core's product of bfloat16 tiles (PTX: mma.m16n8k16, sm_80 and newer).
//
// Lane 4 g + t holds of C [16, 8] the rows g and g + 8, columns 2 t and 2 t + 1; of A [16, 16] those rows at columns
// 2 t, 2 t + 1 (registers 0, 1) and 8 further (2, 3); of B [16, 8] the column g at rows 2 t, 2 t + 1 and 8 further.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

namespace gs_ir {

// Two bfloat16 numbers, the first in the lower bits.
__device__ inline uint32_t pack_bf16(float first, float second) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    return uint32_t(__bfloat16_as_ushort(pair.x)) | uint32_t(__bfloat16_as_ushort(pair.y)) << 16;
}

// c += a b
__device__ inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

}  // namespace gs_ir
