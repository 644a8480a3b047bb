// Directional visibility on a GPU: four lanes for a point, one word of a mask each, for any .cu.
#pragma once

#include "gs_ir/directional.h"

namespace gs_ir {

constexpr int kQuad = kMaskWords;
constexpr int kMaskBits = kMaskWords * kWordBits;
constexpr unsigned kWholeWarp = 0xffffffffu;

// The light as the lanes of a quad read it: what belongs to the four words lies side by side.
template <typename T>
struct QuadLight {
    T directions[kWordBits][kQuad][3], energies[kWordBits][kQuad][3];

    __device__ Vec3<T> direction(int b, int word) const { return load3(directions[b][word]); }
    __device__ Vec3<T> energy(int b, int word) const { return load3(energies[b][word]); }
};

// Turns the block's share of one part's masks: blockIdx.y is the part. table [128] is the part's.
__device__ inline void turn_part(
    const uint32_t* masks, const int64_t* offsets, const uint8_t* table, uint32_t* turned) {
    const int64_t end = kMaskWords * offsets[blockIdx.y + 1];
    int64_t i = kMaskWords * offsets[blockIdx.y] + int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
    for (; i < end; i += int64_t(gridDim.x) * blockDim.x)
        turned[i] = turned_word(masks + i / kMaskWords * kMaskWords, table, int(i % kMaskWords));
}

// Fills `light` from arrays [127, 3] by all threads of the block; the 128th direction has no energy. Synchronises the block.
template <typename T>
__device__ void load_light(QuadLight<T>& light, const T* directions, const T* energies) {
    for (int i = threadIdx.x; i < kQuad * kWordBits * 3; i += blockDim.x) {
        const int k = i / 3, b = k % kWordBits, word = k / kWordBits;
        light.directions[b][word][i % 3] = k < kDirections ? directions[i] : T(0);
        light.energies[b][word][i % 3] = k < kDirections ? energies[i] : T(0);
    }
    __syncthreads();
}

__device__ __forceinline__ ProbeCell cell_of_lane(const ProbeCell& cell, int lane) {
    return {__shfl_sync(kWholeWarp, cell.first, lane, kQuad),
            __shfl_sync(kWholeWarp, cell.row, lane, kQuad),
            __shfl_sync(kWholeWarp, cell.plane, lane, kQuad),
            {__shfl_sync(kWholeWarp, cell.weights[0], lane, kQuad),
             __shfl_sync(kWholeWarp, cell.weights[1], lane, kQuad)}};
}

// Bits of this lane's word whose directions lie above the horizon of `normal`.
template <typename T>
__device__ uint32_t lamps_above(const QuadLight<T>& light, Vec3<T> normal) {
    const int word = threadIdx.x % kQuad;
    return bits_above(normal, word, [&](int b) { return light.direction(b, word); });
}

// Visibility of the `wanted` directions of this lane's word (lane % 4). The lanes of a quad look four parts up at a time, one
// each, and hand the probes round. All lanes of the warp must call; those of a quad with the same point.
template <typename T>
__device__ void quad_visibility(
    const MaskVolumes<T>& probes, const SurfacePoint<T>& at, const uint8_t* tables, const T* part_from_world,
    T shift, uint32_t wanted, T (&visible)[kWordBits]) {
    const int word = threadIdx.x % kQuad;
    start(at, tables, probes.parts, word, visible);
    for (int64_t group = 0; group < probes.parts; group += kQuad) {
        ProbeCell mine = {};
        if (group + word < probes.parts) mine = occluding_cell(probes, group + word, at, part_from_world, shift);
        for (int lane = 0; lane < kQuad && group + lane < probes.parts; ++lane)
            darken(probes.masks, cell_of_lane(mine, lane), word, wanted, visible);
    }
}

template <typename T>
__device__ T quad_sum(T value) {
    value += __shfl_xor_sync(kWholeWarp, value, 1, kQuad);
    return value + __shfl_xor_sync(kWholeWarp, value, 2, kQuad);
}

// What reaches the lobes of the quad's point; the same for its four lanes.
template <typename T>
__device__ LobeSums<T> quad_lobes(
    const QuadLight<T>& light, Vec3<T> normal, const SpecularLobe<T>& lobe, const T (&visible)[kWordBits]) {
    const int word = threadIdx.x % kQuad;
    LobeSums<T> sums;
#pragma unroll
    for (int b = 0; b < kWordBits; ++b)
        sums.add(normal, lobe, light.direction(b, word), light.energy(b, word), visible[b]);
#pragma unroll
    for (int i = 0; i < kShares; ++i) {
        sums.open[i] = quad_sum(sums.open[i]);
        sums.all[i] = quad_sum(sums.all[i]);
    }
    return sums;
}

}  // namespace gs_ir
