// How a block walks the surfels of a tile: shared staging, and one warp for each patch of 8 x 4 pixels, which skips the
// surfels whose boxes miss it: the lanes test 32 boxes at once.
#pragma once

#include "cuda_launch.cuh"
#include "gs_ir/surfel_raster.h"
#include "gs_ir/tiling.h"

namespace gs_ir {

constexpr int kTileThreads = kTile * kTile;
constexpr int kTileWarps = kTileThreads / 32;
constexpr int kBatch = 128;  // surfels staged at a time
constexpr int kPatchWidth = 8, kPatchHeight = 4;
constexpr unsigned kAllLanes = 0xffffffffu;

// A surfel as the tile kernels read it.
template <class T>
struct alignas(16) TileSurfel {
    RasterSurfel<T> surfel;
    int16_t x0, y0, x1, y1;
};

template <class T>
__device__ TileSurfel<T> tile_surfel(const ScreenTransform<T>& transform, T opacity, const int32_t* box) {
    return {raster_surfel(transform, opacity), int16_t(box[0]), int16_t(box[1]), int16_t(box[2]), int16_t(box[3])};
}

// Surfels with `channels` values each, and the lists of all tiles.
template <class T>
struct TileScene {
    const TileSurfel<T>* surfels;
    const T* values;
    const int32_t *offsets, *members;
    int32_t channels, width, height;
};

// The pixel of a thread.
struct Patch {
    int32_t left, top, x, y;

    __device__ explicit Patch(int32_t width) {
        const int32_t columns = (width + kTile - 1) / kTile, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        left = int32_t(blockIdx.x) % columns * kTile + warp % 2 * kPatchWidth;
        top = int32_t(blockIdx.x) / columns * kTile + warp / 2 * kPatchHeight;
        x = left + lane % kPatchWidth;
        y = top + lane / kPatchWidth;
    }
    template <class T>
    __device__ bool meets(const TileSurfel<T>& s) const {
        return s.x0 < left + kPatchWidth && s.x1 > left && s.y0 < top + kPatchHeight && s.y1 > top;
    }
};

// `kWidth` values of each staged surfel, from `first_channel` on; those beyond the scene's are zero.
template <class T, int kWidth>
struct TileStage {
    TileSurfel<T> surfels[kBatch];
    T values[kBatch][kWidth];
    int32_t members[kBatch];

    __device__ void load(const TileScene<T>& scene, int32_t begin, int32_t count, int32_t first_channel) {
        constexpr int kParts = sizeof(TileSurfel<T>) / sizeof(float4);
        static_assert(sizeof(TileSurfel<T>) % sizeof(float4) == 0);
        const int32_t* members_of_tile = scene.members + begin;
        for (int32_t t = threadIdx.x; t < count; t += kTileThreads) members[t] = members_of_tile[t];
        for (int32_t t = threadIdx.x; t < count * kParts; t += kTileThreads) {
            const auto* from = reinterpret_cast<const float4*>(scene.surfels + members_of_tile[t / kParts]);
            reinterpret_cast<float4*>(surfels)[t] = from[t % kParts];
        }
        for (int32_t t = threadIdx.x; t < count * kWidth; t += kTileThreads) {
            const int32_t channel = first_channel + t % kWidth;
            const T* from = scene.values + int64_t(members_of_tile[t / kWidth]) * scene.channels;
            (&values[0][0])[t] = channel < scene.channels ? from[channel] : T(0);
        }
    }
};

// Calls visit(j) for the staged surfels that the warp's patch meets, in ascending order; after every 32, goes_on() tells
// whether to go on.
template <class T, int kWidth, class Visit, class GoesOn>
__device__ void for_each_staged(
    const TileStage<T, kWidth>& stage, int32_t count, const Patch& patch, Visit visit, GoesOn goes_on) {
    const int32_t lane = threadIdx.x % 32;
    for (int32_t first = 0; first < count && goes_on(); first += 32) {
        const int32_t j = first + lane;
        unsigned met = __ballot_sync(kAllLanes, j < count && patch.meets(stage.surfels[minimum(j, kBatch - 1)]));
        for (; met; met &= met - 1) visit(first + __ffs(met) - 1);
    }
}

// The same in descending order, for staged surfels below `end`.
template <class T, int kWidth, class Visit>
__device__ void for_each_staged_reversed(
    const TileStage<T, kWidth>& stage, int32_t end, const Patch& patch, Visit visit) {
    const int32_t lane = threadIdx.x % 32;
    for (int32_t first = (end - 1) / 32 * 32; first >= 0 && end > 0; first -= 32) {
        const int32_t j = first + lane;
        unsigned met = __ballot_sync(kAllLanes, j < end && patch.meets(stage.surfels[minimum(j, kBatch - 1)]));
        while (met) {
            const int32_t bit = 31 - __clz(met);
            met ^= 1u << bit;
            visit(first + bit);
        }
    }
}

template <class T>
__device__ PixelState<T> open_pixel(bool inside) {
    PixelState<T> s = {};
    s.transmittance = s.origin = T(1);
    s.median = s.last = -1;
    s.open = inside;
    return s;
}

// Blends the surfels of the block's tile; the result is the thread's pixel. `sums` starts at zero.
template <class T, int kWidth>
__device__ PixelState<T> blend_tile(
    const TileScene<T>& scene, TileStage<T, kWidth>& stage, const Patch& patch, int32_t first_channel,
    T (&sums)[kWidth]) {
    const int32_t first = scene.offsets[blockIdx.x], last = scene.offsets[blockIdx.x + 1];
    const T x = T(patch.x) + T(0.5), y = T(patch.y) + T(0.5);
    PixelState<T> state = open_pixel<T>(patch.x < scene.width && patch.y < scene.height);
    for (int32_t begin = first; begin < last; begin += kBatch) {
        if (__syncthreads_and(!state.open)) break;
        const int32_t count = minimum(kBatch, last - begin);
        stage.load(scene, begin, count, first_channel);
        __syncthreads();
        const auto visit = [&](int32_t j) {
            const RasterSurfel<T> surfel = stage.surfels[j].surfel;
            const SurfelHit<T> hit = intersect(surfel, x, y);
            if (!(hit.drawn && state.open)) return;
            const T weight = blend(state, true, hit_alpha(surfel, hit), hit.depth, IntegerOf<T>(begin - first + j));
#pragma unroll
            for (int c = 0; c < kWidth; ++c) sums[c] += weight * stage.values[j][c];
        };
        for_each_staged(stage, count, patch, visit, [&] { return __any_sync(kAllLanes, state.open) != 0; });
    }
    return state;
}

}  // namespace gs_ir
