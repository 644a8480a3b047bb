// Occlusion probes as kernels on the GPU read them: for gs_ir/probes.h, in any .cu.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/constant_pad_nd.h>
#include <cuda_fp16.h>

#include "gs_ir/probes.h"

namespace gs_ir {

// Rows of 16 halves: one probe is one 32-byte sector, two loads.
struct HalfRows {
    const uint4* rows;

    template <typename T>
    __device__ void operator()(int64_t probe, T (&out)[kHarmonics]) const {
        const uint4* row = rows + 2 * probe;
        const uint4 bits = __ldg(row);
        __half2 pairs[4];
        memcpy(pairs, &bits, sizeof(bits));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float2 pair = __half22float2(pairs[i]);
            out[2 * i] = T(pair.x);
            out[2 * i + 1] = T(pair.y);
        }
        out[8] = T(__half2float(__ldg(reinterpret_cast<const __half*>(row + 1))));
    }
};

constexpr int64_t kHalvesPerRow = 16;

// The coefficients in such rows: as they are if they are stored so (ProbeVolumes.rows), else copied.
inline at::Tensor half_rows(const at::Tensor& coefficients) {
    const bool fits = coefficients.stride(0) == kHalvesPerRow && coefficients.stride(1) == 1 &&
                      reinterpret_cast<uintptr_t>(coefficients.const_data_ptr()) % sizeof(uint4) == 0;
    return fits ? coefficients : at::constant_pad_nd(coefficients, {0, kHalvesPerRow - kHarmonics});
}

// volumes: coefficients (from half_rows), offsets, origins, shapes; all must outlive the kernel's launch.
template <typename T>
Probes<T, HalfRows> device_probes(const at::Tensor& rows, at::TensorList volumes, double cell) {
    const HalfRows load{reinterpret_cast<const uint4*>(rows.const_data_ptr<at::Half>())};
    return {load, volumes[1].const_data_ptr<int64_t>(), volumes[2].const_data_ptr<float>(),
            volumes[3].const_data_ptr<int64_t>(), T(cell), volumes[2].size(0)};
}

}  // namespace gs_ir
