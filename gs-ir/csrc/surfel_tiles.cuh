// How a block draws a quarter of a tile, 8 x 8 pixels: it stages the surfels of the tile's list that meet the quarter, and
// each of its warps draws a patch of 8 x 4, skipping the staged surfels that miss it. Lanes test 32 boxes at once.
#pragma once

#include "cuda_launch.cuh"
#include "gs_ir/surfel_raster.h"
#include "gs_ir/tiling.h"

namespace gs_ir {

constexpr int kPatchWidth = 8, kPatchHeight = 4;
constexpr int kQuarters = 4;       // blocks of a tile
constexpr int kQuarterWarps = 2;   // warps of a block
constexpr int kQuarterThreads = 32 * kQuarterWarps;
constexpr int kBatch = 128;        // listed surfels that are tested, and at most staged, at a time
constexpr unsigned kAllLanes = 0xffffffffu;

// Pixels that a surfel can touch; images have fewer than 2^15 pixels along a side.
struct alignas(8) ShortBox {
    int16_t x0, y0, x1, y1;
};

template <class T>
struct alignas(16) TileSurfel {
    RasterSurfel<T> surfel;
    ShortBox box;
};

template <class T>
__device__ TileSurfel<T> tile_surfel(const ScreenTransform<T>& transform, T opacity, const int32_t* box) {
    const ShortBox narrow = {int16_t(box[0]), int16_t(box[1]), int16_t(box[2]), int16_t(box[3])};
    return {raster_surfel(transform, opacity), narrow};
}

// Surfels with `channels` values each, and the lists of all tiles.
template <class T>
struct TileScene {
    const TileSurfel<T>* surfels;
    const T* values;
    const int32_t *offsets, *members;
    int32_t channels, width, height;
};

struct PixelRange {
    int32_t left, top, columns, rows;

    __device__ bool meets(const ShortBox& b) const {
        return b.x0 < left + columns && b.x1 > left && b.y0 < top + rows && b.y1 > top;
    }
};

// Where a thread works.
struct Place {
    int32_t tile, warp, lane;  // warp: within the tile
    PixelRange quarter, patch;
    int32_t x, y;

    __device__ explicit Place(int32_t width) {
        const int32_t across = (width + kTile - 1) / kTile, part = blockIdx.x % kQuarters;
        tile = blockIdx.x / kQuarters;
        warp = part * kQuarterWarps + threadIdx.x / 32;
        lane = threadIdx.x % 32;
        const int32_t left = tile % across * kTile + part % 2 * kPatchWidth;
        const int32_t top = tile / across * kTile + part / 2 * kPatchHeight * kQuarterWarps;
        quarter = {left, top, kPatchWidth, kPatchHeight * kQuarterWarps};
        patch = {left, top + int32_t(threadIdx.x) / 32 * kPatchHeight, kPatchWidth, kPatchHeight};
        x = left + lane % kPatchWidth;
        y = patch.top + lane / kPatchWidth;
    }
};

// Staged surfels in the list's order, with `kWidth` values each, from `first_channel` on (zero beyond the scene's).
template <class T, int kWidth>
struct QuarterStage {
    TileSurfel<T> surfels[kBatch];
    T values[kBatch][kWidth];
    int32_t members[kBatch], places[kBatch];  // places: within the batch
    int32_t counts[kBatch / 32];

    // Stages what meets the quarter of `listed` surfels from `begin` on; returns how many. All threads must call it.
    __device__ int32_t load(
        const TileScene<T>& scene, const Place& place, int32_t begin, int32_t listed, int32_t first_channel) {
        __syncthreads();
        const int32_t count = select_members(scene, place, begin, listed);
        copy_surfels(scene, count, first_channel);
        __syncthreads();
        return count;
    }

private:
    __device__ int32_t select_members(const TileScene<T>& scene, const Place& place, int32_t begin, int32_t listed) {
        constexpr int kRounds = kBatch / kQuarterThreads;
        int32_t member[kRounds];
        unsigned met[kRounds];
#pragma unroll
        for (int r = 0; r < kRounds; ++r) {
            const int32_t t = r * kQuarterThreads + threadIdx.x;
            member[r] = t < listed ? scene.members[begin + t] : -1;
            met[r] = __ballot_sync(kAllLanes, member[r] >= 0 && place.quarter.meets(scene.surfels[maximum(member[r], 0)].box));
            if (place.lane == 0) counts[t / 32] = __popc(met[r]);
        }
        __syncthreads();
        int32_t total = 0;
#pragma unroll
        for (int r = 0; r < kRounds; ++r) {
            const int32_t t = r * kQuarterThreads + threadIdx.x;
            int32_t at = __popc(met[r] & ((1u << place.lane) - 1));
            for (int group = 0; group < t / 32; ++group) at += counts[group];
            if (met[r] >> place.lane & 1) members[at] = member[r], places[at] = t;
        }
        for (int group = 0; group < kBatch / 32; ++group) total += counts[group];
        __syncthreads();
        return total;
    }

    __device__ void copy_surfels(const TileScene<T>& scene, int32_t count, int32_t first_channel) {
        constexpr int kParts = sizeof(TileSurfel<T>) / sizeof(float4);
        static_assert(sizeof(TileSurfel<T>) % sizeof(float4) == 0);
        for (int32_t t = threadIdx.x; t < count * kParts; t += kQuarterThreads) {
            const auto* from = reinterpret_cast<const float4*>(scene.surfels + members[t / kParts]);
            reinterpret_cast<float4*>(surfels)[t] = from[t % kParts];
        }
        for (int32_t t = threadIdx.x; t < count * kWidth; t += kQuarterThreads) {
            const int32_t channel = first_channel + t % kWidth;
            const T* from = scene.values + int64_t(members[t / kWidth]) * scene.channels;
            (&values[0][0])[t] = channel < scene.channels ? from[channel] : T(0);
        }
    }
};

// Lanes whose staged surfel, 32 of them from `first` on, meets the warp's patch.
template <class T, int kWidth>
__device__ unsigned meeting_lanes(
    const QuarterStage<T, kWidth>& stage, const Place& place, int32_t first, int32_t count) {
    const int32_t j = first + place.lane;
    return __ballot_sync(kAllLanes, j < count && place.patch.meets(stage.surfels[minimum(j, kBatch - 1)].box));
}

template <class T>
__device__ PixelState<T> open_pixel(bool inside) {
    PixelState<T> s = {};
    s.transmittance = s.origin = T(1);
    s.median = s.last = -1;
    s.open = inside;
    return s;
}

// Blends the surfels that meet the block's quarter; the result is the thread's pixel. `sums` starts at zero.
template <class T, int kWidth>
__device__ PixelState<T> blend_quarter(
    const TileScene<T>& scene, QuarterStage<T, kWidth>& stage, const Place& place, int32_t first_channel,
    T (&sums)[kWidth]) {
    const int32_t first = scene.offsets[place.tile], last = scene.offsets[place.tile + 1];
    const T x = T(place.x) + T(0.5), y = T(place.y) + T(0.5);
    PixelState<T> state = open_pixel<T>(place.x < scene.width && place.y < scene.height);
    for (int32_t begin = first; begin < last && !__syncthreads_and(!state.open); begin += kBatch) {
        const int32_t count = stage.load(scene, place, begin, minimum(kBatch, last - begin), first_channel);
        const auto draw = [&](int32_t j, const SurfelHit<T>& hit, T alpha) {
            if (!(hit.drawn && state.open)) return;
            const T weight = blend(state, true, alpha, hit.depth, IntegerOf<T>(begin - first + stage.places[j]));
#pragma unroll
            for (int c = 0; c < kWidth; ++c) sums[c] += weight * stage.values[j][c];
        };
        for (int32_t group = 0; group < count && __any_sync(kAllLanes, state.open); group += 32) {
            unsigned met = meeting_lanes(stage, place, group, count);
            while (met) {
                // Two at a time: the second hides the first one's latency.
                const int32_t near = group + __ffs(met) - 1;
                met &= met - 1;
                const bool is_pair = met != 0;
                const int32_t far = is_pair ? group + __ffs(met) - 1 : near;
                met &= met - 1;
                const RasterSurfel<T> first_surfel = stage.surfels[near].surfel, second_surfel = stage.surfels[far].surfel;
                const SurfelHit<T> first_hit = intersect(first_surfel, x, y), second_hit = intersect(second_surfel, x, y);
                const T first_alpha = hit_alpha(first_surfel, first_hit), second_alpha = hit_alpha(second_surfel, second_hit);
                draw(near, first_hit, first_alpha);
                if (is_pair) draw(far, second_hit, second_alpha);
            }
        }
    }
    return state;
}

// Writes the warp's patch of an image with `channels` values a pixel, row by row through `buffer` [warps, 32, kWidth]: the
// 8 pixels of a row lie together in memory.
template <class T, int kWidth>
__device__ void write_patch(
    const Place& place, int32_t width, int32_t height, int32_t channels, const T (&values)[kWidth], T* buffer,
    T* image) {
    T* mine = buffer + threadIdx.x / 32 * 32 * kWidth;
#pragma unroll
    for (int c = 0; c < kWidth; ++c)
        if (c < channels) mine[place.lane * channels + c] = values[c];
    __syncwarp();
    const int32_t columns = minimum(kPatchWidth, width - place.patch.left);
    for (int32_t row = 0; row < kPatchHeight && place.patch.top + row < height; ++row) {
        T* to = image + (int64_t(place.patch.top + row) * width + place.patch.left) * channels;
        const T* from = mine + row * kPatchWidth * channels;
        for (int32_t k = place.lane; k < columns * channels; k += 32) to[k] = from[k];
    }
}

}  // namespace gs_ir
