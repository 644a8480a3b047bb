// CUDA loops of gs_ir/directional.h.
#include <ATen/Dispatch.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include "cuda_launch.cuh"
#include "directional.cuh"

namespace {

using gs_ir::kDirections;
using gs_ir::kMaskBits;
using gs_ir::kMaskWords;
using gs_ir::kQuad;
using gs_ir::kShares;
using gs_ir::kWordBits;
constexpr int kThreads = 128;
template <typename T>
constexpr int kLeastBlocks = sizeof(T) == 4 ? 4 : 1;  // an SM: 128 registers a thread in float

const uint32_t* words(const at::Tensor& masks) {
    return reinterpret_cast<const uint32_t*>(masks.const_data_ptr<int64_t>());
}

at::Tensor direction_tables(const at::Tensor& part_from_world, const at::Tensor& directions, const at::Tensor& baked) {
    at::Tensor out = at::empty({part_from_world.size(0), kMaskBits}, directions.options().dtype(at::kByte));
    auto* table = out.mutable_data_ptr<uint8_t>();
    AT_DISPATCH_FLOATING_TYPES(directions.scalar_type(), "direction_tables", [&] {
        const auto* pose = part_from_world.const_data_ptr<scalar_t>();
        const auto *d = directions.const_data_ptr<scalar_t>(), *b = baked.const_data_ptr<scalar_t>();
        gs_ir::for_each<64>(out, out.numel(), [=] __device__(int64_t i) {
            table[i] = gs_ir::table_entry(pose + 12 * (i / kMaskBits), d, b, int(i % kMaskBits));
        });
    });
    return out;
}

// A block turns a share of one part's probes.
__global__ void __launch_bounds__(kThreads) turn_masks_kernel(
    const uint32_t* masks, const int64_t* offsets, const uint8_t* tables, uint32_t* turned) {
    __shared__ uint8_t table[kMaskBits];
    static_assert(kThreads == kMaskBits);
    table[threadIdx.x] = tables[kMaskBits * blockIdx.y + threadIdx.x];
    __syncthreads();
    gs_ir::turn_part(masks, offsets, table, turned);
}

constexpr int64_t kTurningBlocks = 1056;  // of all parts together: 8 for each SM of a large GPU

at::Tensor turn_masks(const at::Tensor& masks, const at::Tensor& offsets, const at::Tensor& tables) {
    const c10::cuda::CUDAGuard guard(masks.device());
    at::Tensor out = at::empty_like(masks);
    const int64_t parts = tables.size(0);
    if (out.numel() == 0 || parts == 0) return out;
    const dim3 grid(unsigned((kTurningBlocks + parts - 1) / parts), unsigned(parts));
    turn_masks_kernel<<<grid, kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
        words(masks), offsets.const_data_ptr<int64_t>(), tables.const_data_ptr<uint8_t>(),
        reinterpret_cast<uint32_t*>(out.mutable_data_ptr<int64_t>()));
    C10_CUDA_KERNEL_LAUNCH_CHECK();
    return out;
}

// volumes: turned masks, offsets, origins, shapes, tables.
template <typename T>
gs_ir::MaskVolumes<T> view(at::TensorList volumes, double cell) {
    return {words(volumes[0]), volumes[1].const_data_ptr<int64_t>(), volumes[2].const_data_ptr<float>(),
            volumes[3].const_data_ptr<int64_t>(), T(cell), volumes[2].size(0)};
}

// Points, normals, own parts and own masks; the pose.
template <typename T>
struct Query {
    gs_ir::MaskVolumes<T> probes;
    const T *points, *normals;
    const int64_t* own;
    const uint32_t* own_masks;
    const uint8_t* tables;
    const T* part_from_world;
    T shift;
    int64_t count;

    Query(at::TensorList volumes, at::TensorList surface, const at::Tensor& pose, at::ArrayRef<double> metres)
        : probes(view<T>(volumes, metres[0])),
          points(surface[0].const_data_ptr<T>()),
          normals(surface[1].const_data_ptr<T>()),
          own(surface[2].const_data_ptr<int64_t>()),
          own_masks(words(surface[3])),
          tables(volumes[4].const_data_ptr<uint8_t>()),
          part_from_world(pose.const_data_ptr<T>()),
          shift(T(metres[1])),
          count(surface[0].size(0)) {}

    // Of this lane's word, for the `wanted` directions; quads past the end repeat the last point, so that their warp stays whole.
    __device__ void visibility(int64_t i, uint32_t wanted, T (&visible)[kWordBits]) const {
        const gs_ir::SurfacePoint<T> at = {
            gs_ir::load3(points + 3 * i), gs_ir::load3(normals + 3 * i), own[i], own_masks + kMaskWords * i};
        gs_ir::quad_visibility(probes, at, tables, part_from_world, shift, wanted, visible);
    }
    __device__ int64_t quad() const { return (int64_t(blockIdx.x) * kThreads + threadIdx.x) / kQuad; }
    int blocks() const { return gs_ir::blocks_for(count * kQuad, kThreads); }
};

template <typename T>
__global__ void __launch_bounds__(kThreads, kLeastBlocks<T>) directional_visibility_kernel(Query<T> query, T* out) {
    const int64_t i = query.quad();
    const int word = threadIdx.x % kQuad;
    T visible[kWordBits];
    query.visibility(min(i, query.count - 1), gs_ir::direction_bits(word), visible);
    if (i >= query.count) return;
#pragma unroll
    for (int b = 0; b < kWordBits; ++b)
        if (kWordBits * word + b < kDirections) out[kDirections * i + kWordBits * word + b] = visible[b];
}

at::Tensor directional_visibility(
    at::TensorList volumes, at::TensorList surface, const at::Tensor& part_from_world, at::ArrayRef<double> metres) {
    const c10::cuda::CUDAGuard guard(surface[0].device());
    at::Tensor out = at::empty({surface[0].size(0), kDirections}, surface[0].options());
    if (out.numel() == 0) return out;
    AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "directional_visibility", [&] {
        const Query<scalar_t> query(volumes, surface, part_from_world, metres);
        directional_visibility_kernel<<<query.blocks(), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
            query, out.mutable_data_ptr<scalar_t>());
        C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
    return out;
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kLeastBlocks<T>) lobe_visibility_kernel(
    Query<T> query, const T* directions, const T* energies, const T* axes, const T* roughness, T* out) {
    __shared__ gs_ir::QuadLight<T> light;
    gs_ir::load_light(light, directions, energies);
    const int64_t quad = query.quad(), i = min(quad, query.count - 1);
    T visible[kWordBits];
    const auto normal = gs_ir::load3(query.normals + 3 * i);
    query.visibility(i, gs_ir::lamps_above(light, normal), visible);
    const auto lobe = gs_ir::specular_lobe(gs_ir::load3(axes + 3 * i), roughness[i]);
    const auto sums = gs_ir::quad_lobes(light, normal, lobe, visible);
    if (quad >= query.count) return;
    // Two of the seven shares for each lane.
#pragma unroll
    for (int s = 0; s < kShares; ++s)
        if (threadIdx.x % kQuad == s / 2) out[kShares * i + s] = sums.share(s);
}

// light: directions, energies. lobes: directions, roughness.
at::Tensor lobe_visibility(
    at::TensorList volumes, at::TensorList surface, const at::Tensor& part_from_world, at::TensorList light,
    at::TensorList lobes, at::ArrayRef<double> metres) {
    const c10::cuda::CUDAGuard guard(surface[0].device());
    at::Tensor out = at::empty({surface[0].size(0), kShares}, surface[0].options());
    if (out.numel() == 0) return out;
    AT_DISPATCH_FLOATING_TYPES(out.scalar_type(), "lobe_visibility", [&] {
        const Query<scalar_t> query(volumes, surface, part_from_world, metres);
        lobe_visibility_kernel<<<query.blocks(), kThreads, 0, c10::cuda::getCurrentCUDAStream()>>>(
            query, light[0].const_data_ptr<scalar_t>(), light[1].const_data_ptr<scalar_t>(),
            lobes[0].const_data_ptr<scalar_t>(), lobes[1].const_data_ptr<scalar_t>(),
            out.mutable_data_ptr<scalar_t>());
        C10_CUDA_KERNEL_LAUNCH_CHECK();
    });
    return out;
}

}  // namespace

TORCH_LIBRARY_IMPL(gs_ir, CUDA, m) {
    m.impl("direction_tables", direction_tables);
    m.impl("turn_masks", turn_masks);
    m.impl("directional_visibility", directional_visibility);
    m.impl("lobe_visibility", lobe_visibility);
}
