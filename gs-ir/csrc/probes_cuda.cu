// CUDA loops of gs_ir/probes.h.
//
// No part is skipped: a part seen from its box's edge always hides something, and what is left of that fades too slowly
// to vanish within a body's reach. Outside a box fewer corners have a weight, and only those are read.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>

#include "cuda_launch.cuh"
#include "half_probes.cuh"

namespace {

constexpr int kPoints = 32;    // a block
constexpr int kMaxParts = 16;  // at a time
template <typename T>
constexpr int kLeastBlocks = sizeof(T) == 4 ? 2 : 1;  // an SM: 64 registers a thread in float, hides more latency

// Points with normals and own parts.
template <typename T>
struct Surface {
    const T *points, *normals;
    const int64_t* own;

    explicit Surface(at::TensorList surface)
        : points(surface[0].const_data_ptr<T>()),
          normals(surface[1].const_data_ptr<T>()),
          own(surface[2].const_data_ptr<int64_t>()) {}
};

at::Tensor own_visibility(at::TensorList volumes, double cell, at::TensorList surface, double shift) {
    at::Tensor out = at::empty({surface[0].size(0)}, surface[0].options());
    const at::Tensor rows = gs_ir::half_rows(volumes[0]);
    AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "own_visibility", [&] {
        const auto probes = gs_ir::device_probes<scalar_t>(rows, volumes, cell);
        const Surface<scalar_t> at_surface(surface);
        const scalar_t along = scalar_t(shift);
        auto* o = out.mutable_data_ptr<scalar_t>();
        gs_ir::for_each<128>(out, out.numel(), [=] __device__(int64_t i) {
            const auto point = gs_ir::load3(at_surface.points + 3 * i);
            const auto normal = gs_ir::load3(at_surface.normals + 3 * i);
            o[i] = gs_ir::own_visibility(probes, at_surface.own[i], point, normal, along);
        });
    });
    return out;
}

// A warp looks 32 points up in one part's lattice; the block's warps share out the parts, in order.
template <typename T>
__global__ void __launch_bounds__(kPoints* kMaxParts, kLeastBlocks<T>) other_visibility_kernel(
    gs_ir::Probes<T, gs_ir::HalfRows> probes, Surface<T> surface, const T* part_from_world, T shift,
    gs_ir::ProbeRule rule, int64_t count, T* out) {
    __shared__ T factors[kMaxParts][kPoints];
    const int64_t i = int64_t(blockIdx.x) * kPoints + threadIdx.x;
    T visible = T(1);
    if (i < count) {
        const auto point = gs_ir::load3(surface.points + 3 * i), normal = gs_ir::load3(surface.normals + 3 * i);
        const int64_t own = surface.own[i];
        for (int64_t part = threadIdx.y; part < probes.parts; part += blockDim.y)
            if (part != own)
                visible *= gs_ir::other_part_visibility(
                    probes, part, point, normal, part_from_world + 12 * part, shift, rule);
    }
    factors[threadIdx.y][threadIdx.x] = visible;
    __syncthreads();
    if (threadIdx.y > 0 || i >= count) return;
    for (int y = 1; y < blockDim.y; ++y) visible *= factors[y][threadIdx.x];
    out[i] = visible;
}

at::Tensor other_visibility(
    at::TensorList volumes, double cell, at::TensorList surface, const at::Tensor& part_from_world, double shift,
    bool published) {
    const c10::cuda::CUDAGuard guard(surface[0].device());
    at::Tensor out = at::empty({surface[0].size(0)}, surface[0].options());
    if (out.numel() == 0) return out;
    const at::Tensor rows = gs_ir::half_rows(volumes[0]);
    AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "other_visibility", [&] {
        const auto probes = gs_ir::device_probes<scalar_t>(rows, volumes, cell);
        const dim3 block(kPoints, unsigned(std::clamp<int64_t>(probes.parts, 1, kMaxParts)));
        other_visibility_kernel<<<
            gs_ir::blocks_for(out.numel(), kPoints), block, 0, c10::cuda::getCurrentCUDAStream()>>>(
            probes, Surface<scalar_t>(surface), part_from_world.const_data_ptr<scalar_t>(), scalar_t(shift),
            gs_ir::other_rule(published), out.numel(), out.mutable_data_ptr<scalar_t>());
        C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
    return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) {
    m.impl("own_visibility", own_visibility);
    m.impl("other_visibility", other_visibility);
}
